//! Mixtures of experts against PyTorch, on every backend, with and without the passes.
//!
//! Expected values: `golden/tiny_moe.py`.

use std::collections::BTreeMap;
use std::path::Path;

use limbeck::{
    BackendKind, Budget, Engine, EngineOptions, KvFormat, Limits, Model, SessionOptions, Usage,
    Wanted, Work,
};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::{Npz, all_logits, backends, golden, relative_error};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

const STUDENTS: &[&str] = &[
    "mixtral",
    "mixtral_stacked",
    "qwen2_moe",
    "qwen3_moe",
    "gguf_mixtral/model.gguf",
    "gguf_qwen2moe/model.gguf",
    "gguf_qwen3moe/model.gguf",
    "llava_a",
    "llava_b",
    "llava_c",
    "llava_d",
    "llava_e",
    "llava_f",
    "llava_g",
    "llava_h",
    "llava_i",
];

fn options() -> SessionOptions {
    SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() }
}

fn expected(student: &str, key: &str) -> (Vec<u32>, Vec<f32>) {
    let folder = student.split('/').next().unwrap_or_default();
    let mut npz = Npz::open(&golden().join("moe").join(folder).join("expected.npz"));
    (npz.ids("input_ids").1, npz.floats(key).1)
}

fn each_plan(student: &str, moe_capacity: bool, check: impl Fn(&str, Model)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for passes in [false, true] {
        let (source, plan) =
            (golden().join("moe").join(student), folder.path().join("student.lbk"));
        let options =
            Options { passes, moe_capacity, ..Options::new(source, plan.clone(), Quant::F32) };
        compile(&options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{student}: {e}"));
        for backend in backends() {
            let engine =
                Engine::new(EngineOptions { backend, threads: 2, ..EngineOptions::default() })
                    .expect("an engine");
            let model = engine.open(&plan).unwrap_or_else(|e| panic!("{student}: {e}"));
            check(&format!("{student}, passes {passes}, {backend:?}"), model);
        }
    }
}

#[test]
fn mixtures_give_the_logits_of_pytorch() {
    for student in STUDENTS {
        let (ids, logits) = expected(student, "logits");
        each_plan(student, false, |case, model| {
            let error = relative_error(&all_logits(&model, &ids, options()), &logits);
            assert!(error <= 1e-4, "{case}: relative error {error:.2e}");
        });
    }
}

#[test]
fn a_capacity_drops_what_deepspeed_drops() {
    for student in ["llava_d", "llava_e"] {
        let (ids, free) = expected(student, "logits");
        let (_, limited) = expected(student, "logits_capacity");
        assert!(relative_error(&free, &limited) > 1e-2);
        each_plan(student, true, |case, model| {
            let error = relative_error(&all_logits(&model, &ids, options()), &limited);
            assert!(error <= 1e-4, "{case}: relative error {error:.2e}");
        });
    }
}

struct Plan {
    folder: tempfile::TempDir,
}

impl Plan {
    fn new(source: &Path, quant: Quant) -> Plan {
        Plan::try_new(source, quant, true).unwrap_or_else(|e| panic!("{e}"))
    }

    fn try_new(source: &Path, quant: Quant, passes: bool) -> Result<Plan, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("student.lbk");
        let options = Options { passes, ..Options::new(source, path, quant) };
        let done = compile(&options, &mut |_, _, _| {});
        done.map(|_| Plan { folder }).map_err(|e| e.to_string())
    }

    fn open(&self, backend: BackendKind, threads: usize) -> Model {
        let engine = Engine::new(EngineOptions { backend, threads, ..EngineOptions::default() })
            .expect("an engine");
        engine.open(self.folder.path().join("student.lbk")).unwrap_or_else(|e| panic!("{e}"))
    }
}

struct Found {
    usage: Usage,
    logits: Vec<f32>,
    route: Vec<i32>,
}

/// The logits of all tokens, `step` at a time, at a price.
fn run(model: &Model, ids: &[u32], price: f64, step: usize, route: Option<Vec<i32>>) -> Found {
    let mut session = model.session(options()).expect("a session");
    session.control().set_budget(Budget::Price(price), Limits::default()).expect("a budget");
    route.into_iter().for_each(|route| session.force_route(route));
    let sequence = session.sequence();
    let sites = model.plan().program().sites.len();
    let mut found = Found { usage: Usage::default(), logits: Vec::new(), route: vec![] };
    let mut by_site = vec![Vec::new(); sites];
    for tokens in ids.chunks(step) {
        let work = [Work { sequence, tokens, wanted: Wanted::All }];
        let usage = session.step(&work, |_, row| found.logits.extend_from_slice(row));
        found.usage.add(&usage.expect("a step"));
        let made = session.route().chunks_exact(tokens.len());
        by_site.iter_mut().zip(made).for_each(|(all, made)| all.extend_from_slice(made));
    }
    found.route = by_site.concat();
    found
}

const PRICES: [f64; 4] = [0.0, 0.3, 1.2, 1e9];

#[test]
fn a_price_takes_experts_away_and_the_usage_counts_them() {
    for (name, top_k) in [("mixtral", 2), ("qwen3_moe", 3), ("llava_f", 2), ("llava_e", 1)] {
        let (ids, _) = expected(name, "logits");
        let plan = Plan::new(&golden().join("moe").join(name), Quant::F32);
        let (cpu, fake) = (plan.open(BackendKind::Cpu, 2), plan.open(BackendKind::Fake, 1));
        let mut last = 1.0;
        for price in PRICES {
            let found = run(&cpu, &ids, price, 64, None);
            let truth = run(&fake, &ids, price, 64, None);
            assert_eq!(found.route, truth.route, "{name} at {price}");
            assert!(relative_error(&found.logits, &truth.logits) < 1e-4, "{name} at {price}");
            let chosen: i32 = found.route.iter().sum();
            let share = f64::from(chosen) / (found.route.len() * top_k) as f64;
            assert!((found.usage.site_fraction.unwrap() - share).abs() < 1e-9);
            assert!(share <= last, "{name} at {price}");
            for (site, route) in found.usage.sites.iter().zip(found.route.chunks(ids.len())) {
                for (k, count) in site.histogram.iter().enumerate() {
                    let chose = route.iter().filter(|c| **c == k as i32).count();
                    assert_eq!(*count, chose as u64, "{} choice {k}", site.name);
                }
            }
            last = share;
        }
        assert!((last - 1.0 / top_k as f64).abs() < 1e-12, "{name}: {last}");
        let full = run(&cpu, &ids, 0.0, 64, None).usage;
        assert_eq!((full.fraction, full.site_fraction), (1.0, Some(1.0)));
    }
}

/// One token reads the experts that it keeps, and no others.
#[test]
fn a_token_reads_the_weights_of_its_experts() {
    let plan = Plan::new(&golden().join("moe/mixtral"), Quant::F32);
    let model = plan.open(BackendKind::Cpu, 1);
    let sites = model.plan().program().sites.len();
    let bytes = |k: i32| run(&model, &[7], 0.0, 1, Some(vec![k; sites])).usage.bytes;
    // An expert: three matrices of 48 x 32 in f32.
    assert_eq!(bytes(2) - bytes(1), (sites * 3 * 48 * 32 * 4) as u64);
}

#[test]
fn choices_and_bits_at_a_price_depend_on_the_token_and_its_context() {
    for (name, quant) in
        [("mixtral", Quant::F32), ("qwen2_moe", Quant::Q8), ("qwen3_moe", Quant::Q4)]
    {
        let (ids, _) = expected(name, "logits");
        let plan = Plan::new(&golden().join("moe").join(name), quant);
        for price in [0.0, 0.7] {
            let want = run(&plan.open(BackendKind::Cpu, 1), &ids, price, 64, None);
            assert!(price == 0.0 || want.route.contains(&1) && want.route.contains(&2));
            for (threads, step) in [(1, 1), (2, 1), (3, 5), (2, 17), (3, 64)] {
                let found = run(&plan.open(BackendKind::Cpu, threads), &ids, price, step, None);
                assert_eq!(found.route, want.route, "{name} {threads} {step}");
                assert_eq!(found.logits, want.logits, "{name} {threads} {step}");
            }
        }
        let model = plan.open(BackendKind::Cpu, 2);
        let made = run(&model, &ids, 0.7, 64, None);
        let again = run(&model, &ids, 0.0, 64, Some(made.route.clone()));
        assert_eq!((&again.route, &again.logits), (&made.route, &made.logits));
        let mut session = model.session(options()).expect("a session");
        session.force_route(vec![0; made.route.len()]);
        let sequence = session.sequence();
        let work = [Work { sequence, tokens: &ids, wanted: Wanted::Last }];
        let message = session.step(&work, |_, _| {}).unwrap_err().to_string();
        assert!(message.contains("experts") && message.contains("0"), "{message}");
    }
}

type Change<'a> = &'a dyn Fn(&mut Value, &mut BTreeMap<String, (Vec<usize>, Vec<u8>)>);

/// A copy of a student with another configuration or other tensors.
fn changed(from: &Path, to: &Path, change: Change<'_>) {
    std::fs::create_dir_all(to).expect("a folder");
    let bytes = std::fs::read(from.join("model.safetensors")).expect("a checkpoint");
    let checkpoint = SafeTensors::deserialize(&bytes).expect("tensors");
    let tensors = checkpoint.tensors().into_iter();
    let dtype = checkpoint.iter().next().expect("a tensor").1.dtype();
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> =
        tensors.map(|(name, t)| (name, (t.shape().to_vec(), t.data().to_vec()))).collect();
    let config = std::fs::read(from.join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    change(&mut config, &mut tensors);
    let views = tensors.iter().map(|(name, (shape, data))| {
        (name, TensorView::new(dtype, shape.clone(), data).expect("a tensor"))
    });
    safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).expect("a file");
    std::fs::write(to.join("config.json"), config.to_string()).expect("a file");
}

/// Experts that are copies of a dense MLP are that MLP, whatever the router says.
#[test]
fn an_upcycled_student_is_the_dense_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dense = golden().join("tiny/llama");
    let moe = folder.path().join("moe");
    changed(&dense, &moe, &|config, tensors| {
        config["model_type"] = "mixtral".into();
        config["num_local_experts"] = 4.into();
        config["num_experts_per_tok"] = 2.into();
        config["mlp_bias"] = Value::Null;
        config["attention_bias"] = Value::Null;
        let hidden = config["hidden_size"].as_u64().unwrap() as usize;
        for layer in 0..2 {
            let at = |part: &str| format!("model.layers.{layer}.{part}");
            for (part, w) in [("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")] {
                let tensor = tensors.remove(&at(&format!("mlp.{part}.weight"))).expect(part);
                for e in 0..4 {
                    let name = at(&format!("block_sparse_moe.experts.{e}.{w}.weight"));
                    tensors.insert(name, tensor.clone());
                }
            }
            let router = (0..4 * hidden).map(|i| ((i * 37 % 101) as f32 - 50.0) / 99.0);
            let router = router.flat_map(f32::to_le_bytes).collect();
            tensors.insert(at("block_sparse_moe.gate.weight"), (vec![4, hidden], router));
        }
    });
    let ids = Npz::open(&dense.join("expected.npz")).ids("input_ids").1;
    for quant in [Quant::F32, Quant::Q8, Quant::Q4] {
        let plain = Plan::new(&dense, quant).open(BackendKind::Cpu, 1);
        let want = all_logits(&plain, &ids, options());
        let model = Plan::new(&moe, quant).open(BackendKind::Cpu, 1);
        for price in PRICES {
            let found = run(&model, &ids, price, 64, None);
            let error = relative_error(&found.logits, &want);
            assert!(price < 1e3 || found.route.iter().all(|k| *k == 1));
            // One expert is the dense MLP to the bit; two are weighed by numbers that sum to 1. A
            // value at the edge of an 8-bit step may then fall to the other side.
            let tolerance = match quant {
                _ if price > 1e3 => 0.0,
                Quant::F32 => 1e-6,
                _ => 5e-3,
            };
            assert!(error <= tolerance, "{quant} at {price}: {error:.2e}");
        }
    }
}

#[test]
fn experts_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refuse = |student: &str, change: Change<'_>| {
        let to = folder.path().join(student);
        changed(&golden().join("moe").join(student), &to, change);
        Plan::try_new(&to, Quant::F32, true).err().expect("a refusal")
    };
    let expert = "model.layers.1.block_sparse_moe.experts.3.w2.weight";
    let missing = refuse("mixtral", &|_, t| drop(t.remove(expert)));
    assert!(missing.contains(expert) && missing.contains("missing"), "{missing}");
    let shape = refuse("mixtral", &|_, t| t.get_mut(expert).unwrap().0.reverse());
    assert!(shape.contains(expert) && shape.contains("[48, 32]"), "{shape}");
    let many = refuse("mixtral", &|c, _| c["num_local_experts"] = 3.into());
    assert!(many.contains("block_sparse_moe.gate.weight"), "{many}");
    for (student, key, value) in [
        ("mixtral", "num_local_experts", 0),
        ("mixtral", "num_experts_per_tok", 0),
        ("mixtral", "num_experts_per_tok", 5),
        ("qwen2_moe", "num_experts_per_tok", 7),
        ("qwen3_moe", "num_experts_per_tok", 9),
    ] {
        let message = refuse(student, &|c, _| c[key] = value.into());
        assert!(message.contains(key) && message.contains(&value.to_string()), "{message}");
    }
    for (key, value) in [
        ("top_k_experts", json!(3)),
        ("num_experts", json!([0])),
        ("num_experts", json!([4, 4, 4])),
        ("num_experts", json!([1])),
        ("moe_mode", json!("sideways")),
        ("moe_layers_idx", json!([9, 1])),
    ] {
        let message = refuse("llava_a", &|c, _| c["moe"][key] = value.clone());
        let place = if value == json!([1]) { "top_k_experts" } else { key };
        assert!(message.contains(&format!("moe.{place}")), "{key} = {value}: {message}");
    }
    let stacked = refuse("mixtral_stacked", &|_, t| {
        let name = "model.layers.0.mlp.experts.down_proj";
        t.get_mut(name).unwrap().0.swap(1, 2);
    });
    assert!(stacked.contains("experts.down_proj"), "{stacked}");
    let to = folder.path().join("plan.lbk");
    let options = Options::new(golden().join("moe/mixtral"), to, Quant::F32);
    let options = Options { moe_capacity: true, ..options };
    let error = compile(&options, &mut |_, _, _| {}).unwrap_err().to_string();
    assert!(error.contains("mixtral") && error.contains("limited"), "{error}");
}

#[test]
fn gguf_files_whose_experts_do_not_fit_are_refused_by_name() {
    let original = std::fs::read(golden().join("moe/gguf_mixtral/model.gguf")).expect("a file");
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Puts bytes in the place of the first that are found, `after` bytes behind their end.
    let refuse = |found: &str, after: usize, new: &[u8]| {
        let mut bytes = original.clone();
        let mut windows = bytes.windows(found.len());
        let at = windows.position(|w| w == found.as_bytes()).expect(found) + found.len() + after;
        bytes[at..at + new.len()].copy_from_slice(new);
        let path = folder.path().join("student.gguf");
        std::fs::write(&path, bytes).expect("a file");
        Plan::try_new(&path, Quant::F32, true).err().expect("a refusal")
    };
    // A key is followed by its type, of 4 bytes, and its value.
    let used = refuse("llama.expert_used_count", 4, &5u32.to_le_bytes());
    assert!(used.contains("llama.expert_used_count") && used.contains('5'), "{used}");
    let none = refuse("llama.expert_used_count", 4, &0u32.to_le_bytes());
    assert!(none.contains("llama.expert_used_count"), "{none}");
    let count = refuse("llama.expert_count", 4, &3u32.to_le_bytes());
    assert!(count.contains("blk.0.ffn_gate_inp.weight"), "{count}");
    let dense = refuse("llama.expert_count", 4, &0u32.to_le_bytes());
    assert!(dense.contains("expert") || dense.contains("ffn_gate"), "{dense}");
    let missing = refuse("blk.1.ffn_up_ex", 0, b"qs");
    assert!(missing.contains("blk.1.ffn_up_exps.weight"), "{missing}");
}
