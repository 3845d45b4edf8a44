//! Truncated, flipped and hostile plans: an error that says where, or a plan that runs; never a
//! panic, a hang or more memory than the file justifies.
//!
//! Checksums stop most damage early, so the rules behind them are attacked with plans whose
//! checksums are right.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use limbeck::plan::{DType, Dim, OperandKind, Task};
use limbeck::text::{ChatMessage, ChatOptions, GenerateOptions, SamplerOptions, generate};
use limbeck::{
    BackendKind, Classifier, DiffuseOptions, Diffuser, Encoder, EncoderInput, Engine,
    EngineOptions, ErrorKind, Forward, Model, SessionOptions, TensorData, TensorValues, TensorView,
    Wanted, Work,
};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::hostile::{Noise, Tally, each_mutation, mutate};
use limbeck_tests::{Compiled, golden, memory};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

static CPU: LazyLock<Engine> = LazyLock::new(|| engine(BackendKind::Cpu));
static FAKE: LazyLock<Engine> = LazyLock::new(|| engine(BackendKind::Fake));

fn engine(backend: BackendKind) -> Engine {
    Engine::new(EngineOptions { backend, threads: 1, ..EngineOptions::default() })
        .expect("an engine")
}

const HEADER: usize = 64;
const ROW: usize = 32;
const ALIGN: usize = 16 * 1024;

/// A plan taken apart, to be put together again with right checksums.
#[derive(Clone)]
struct Parts {
    manifest: Value,
    program: Value,
    weights: Vec<u8>,
    tokenizer: Option<Vec<u8>>,
    calibration: Option<Value>,
}

impl Parts {
    fn of(plan: &[u8]) -> Parts {
        let u32_at = |at: usize| u32::from_le_bytes(plan[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(plan[at..at + 8].try_into().unwrap()) as usize;
        let section = |code: &[u8]| {
            let mut rows = (0..u32_at(8) as usize).map(|i| HEADER + i * ROW);
            let row = rows.find(|at| plan[*at..at + 4] == *code)?;
            Some(plan[u64_at(row + 8)..][..u64_at(row + 16)].to_vec())
        };
        let parsed = |code| serde_json::from_slice(&section(code).unwrap()).unwrap();
        Parts {
            manifest: parsed(b"MANI"),
            program: parsed(b"PROG"),
            weights: section(b"WGHT").unwrap(),
            tokenizer: section(b"TOKN"),
            calibration: None,
        }
    }

    fn write(&self) -> Vec<u8> {
        let (manifest, program) = (self.manifest.to_string(), self.program.to_string());
        let mut sections = vec![
            (b"WGHT", &self.weights[..]),
            (b"MANI", manifest.as_bytes()),
            (b"PROG", program.as_bytes()),
        ];
        sections.extend(self.tokenizer.as_deref().map(|t| (b"TOKN", t)));
        let calibration = self.calibration.as_ref().map(Value::to_string);
        sections.extend(calibration.as_ref().map(|c| (b"CALI", c.as_bytes())));
        write_plan(&sections)
    }
}

fn write_plan(sections: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut table = Vec::new();
    let mut body = Vec::new();
    let start = (HEADER + sections.len() * ROW).next_multiple_of(ALIGN);
    for (code, bytes) in sections {
        body.resize(body.len().next_multiple_of(ALIGN), 0);
        table.extend(**code);
        table.extend([0; 4]);
        table.extend(((start + body.len()) as u64).to_le_bytes());
        table.extend((bytes.len() as u64).to_le_bytes());
        table.extend(xxh3_64(bytes).to_le_bytes());
        body.extend(*bytes);
    }
    let mut plan = b"LBK\0\x01\0\0\0".to_vec();
    plan.extend((sections.len() as u32).to_le_bytes());
    plan.extend([0; 4]);
    plan.extend(((start + body.len()) as u64).to_le_bytes());
    plan.extend([0; 8]);
    plan.resize(HEADER, 0);
    plan.extend(table);
    seal(&mut plan);
    plan.resize(start, 0);
    plan.extend(body);
    plan
}

/// Makes the checksum of the table right.
fn seal(plan: &mut [u8]) {
    let count = u32::from_le_bytes(plan[8..12].try_into().unwrap()) as usize;
    if let Some(table) = plan.get(HEADER..HEADER.saturating_add(count.saturating_mul(ROW))) {
        let hash = xxh3_64(table).to_le_bytes();
        plan[24..32].copy_from_slice(&hash);
    }
}

struct Tiny {
    name: &'static str,
    plan: Vec<u8>,
    parts: Parts,
}

/// One plan in each kind of pack format.
static TINY: LazyLock<[Tiny; 8]> = LazyLock::new(|| {
    let of = |name: &str, quant| Compiled::new(&golden().join(name), quant, true);
    let sparse = Compiled::sparse(&golden().join("tiny/llama"), Quant::Q4, &[0.2, 0.1]);
    [
        ("tiny/llama", of("tiny/llama", Quant::F16), TEXT_TOKENIZER),
        ("tiny/qwen3", of("tiny/qwen3", Quant::Q8), ""),
        ("tiny/bert", of("tiny/bert", Quant::Q4), WORDS),
        ("acm/vit_gelu", of("acm/vit_gelu", Quant::F32), ""),
        ("sparse", sparse, TEXT_TOKENIZER),
        ("resnet/odd", of("resnet/odd", Quant::Q8), ""),
        ("onnx/every_op", of("onnx/every_op.onnx", Quant::F32), ""),
        ("diffusion/denoiser", of("diffusion/denoiser.onnx", Quant::F32), ""),
    ]
    .map(|(name, compiled, tokenizer)| {
        let mut parts = Parts::of(&std::fs::read(compiled.path()).expect("the plan"));
        if !tokenizer.is_empty() {
            parts.tokenizer = Some(tokenizer.into());
            parts.manifest["chat_template"] =
                "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}".into();
            parts.manifest["special"] = json!({"bos": 0, "eos": [1], "pad": null});
        }
        Tiny { name, plan: parts.write(), parts }
    })
});

/// Bytes with a few merges.
const TEXT_TOKENIZER: &str = r#"{
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [
        {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true},
        {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true}
    ],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": " ?\\w+|\\s+"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
    ]},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "Ġ": 5, "ab": 6, "Ġa": 7, "abc": 8},
        "merges": ["a b", "Ġ a", "ab c"]}
}"#;

const WORDS: &str = r###"{
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [
        {"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true}
    ],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "##c": 6, "ab": 7}}
}"###;

/// Opens a plan and uses all of it.
fn open_and_run(engine: &Engine, plan: &Arc<[u8]>) -> Result<(), String> {
    let model = engine.open_bytes(plan.clone()).map_err(|e| e.to_string())?;
    let _ = model.verify();
    let _ = model.chat_template().and_then(|t| {
        let messages = [ChatMessage { role: "user", content: "ab" }];
        t.render(&messages, &ChatOptions::default())
    });
    let run = match model.manifest().task {
        Task::Text => run_text(&model),
        Task::Embed => run_encoder(&model),
        Task::Classify => run_classifier(&model),
        Task::Tensors => run_tensors(&model),
        Task::Diffuse => run_diffuser(&model),
    };
    run.map_err(|e| e.to_string())
}

fn run_text(model: &Model) -> Result<(), limbeck::Error> {
    let vocab = model.manifest().vocab_size as u32;
    let ids = [3, 5, 2, 6, 4].map(|id: u32| id.min(vocab.saturating_sub(1)));
    let mut session = model.session(SessionOptions { chunk: 4, ..SessionOptions::default() })?;
    let sequence = session.sequence();
    if session.context() < 2 * ids.len() {
        let work = [Work { sequence, tokens: &ids[..1], wanted: Wanted::Last }];
        return session.step(&work, |_, _| {}).map(drop);
    }
    session.step(&[Work { sequence, tokens: &ids, wanted: Wanted::All }], |_, _| {})?;
    let fork = session.fork(sequence)?;
    let options = GenerateOptions {
        max_tokens: 3,
        sampler: SamplerOptions { temperature: 0.7, ..SamplerOptions::default() },
        ..GenerateOptions::default()
    };
    generate(&mut session, fork, &ids[..1], 2, &options, |_| ControlFlow::Continue(()))?;
    let snapshot = session.snapshot(sequence)?;
    let restored = session.restore(&snapshot)?;
    session.rewind(restored, 2)?;
    session
        .step(&[Work { sequence: restored, tokens: &ids[..2], wanted: Wanted::Last }], |_, _| {})?;
    if let Ok(tokenizer) = model.tokenizer() {
        let ids = tokenizer.encode("abc a <s> b\u{e9}", true)?;
        tokenizer.decode(&ids, false)?;
    }
    Ok(())
}

fn run_encoder(model: &Model) -> Result<(), limbeck::Error> {
    let vocab = model.manifest().vocab_size as u32;
    let ids = [3, 5, 2, 6, 4].map(|id: u32| id.min(vocab.saturating_sub(1)));
    let positions = [0, 1, 2, 3, 4];
    let mut encoder = Encoder::new(model)?;
    let inputs = [
        EncoderInput { ids: &ids, positions: &positions, keys: 4 },
        EncoderInput { ids: &ids[..1], positions: &positions[..1], keys: 1 },
    ];
    let size = model.manifest().embedding_size;
    let mut seen = 0;
    encoder.encode(&inputs, |i, e| {
        assert_eq!(e.embedding.len(), size);
        assert_eq!(e.last_hidden_state.len() % inputs[i].ids.len(), 0);
        seen += 1;
    })?;
    assert_eq!(seen, 2, "a sequence without a result");
    if model.tokenizer().is_ok() {
        encoder.embed(&["ab c", "", "bc a a a"])?;
    }
    Ok(())
}

fn run_classifier(model: &Model) -> Result<(), limbeck::Error> {
    let mut classifier = Classifier::new(model)?;
    let values: usize = classifier.image().iter().product();
    let pixels: Vec<f32> = (0..2 * values).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
    let (logits, _) = classifier.classify(&pixels)?;
    assert_eq!(logits.len(), 2 * classifier.classes());
    Ok(())
}

fn run_tensors(model: &Model) -> Result<(), limbeck::Error> {
    let mut forward = Forward::new(model, SessionOptions::default())?;
    let entry = model.plan().program().entry("tensors").expect("an entry");
    let inputs = entry.operands_of(OperandKind::Input).map(|(_, operand)| {
        let size = |dim: &Dim| dim.as_const().unwrap_or(2).min(1 << 10) as usize;
        let shape: Vec<usize> = operand.fact.shape.iter().map(size).collect();
        // What no caller would give is given as nothing, and refused.
        let count = Some(shape.iter().product::<usize>()).filter(|n| *n < 1 << 16).unwrap_or(0);
        (operand, shape, vec![0.5f32; count], vec![1i32; count])
    });
    let inputs: Vec<_> = inputs.collect();
    let views = inputs.iter().map(|(operand, shape, floats, integers)| TensorView {
        name: &operand.name,
        shape,
        data: match operand.fact.dtype {
            DType::F32 => TensorData::F32(floats),
            DType::I32 => TensorData::I32(integers),
        },
    });
    let (outputs, _) = forward.run(&views.collect::<Vec<_>>())?;
    for output in outputs {
        let count = match &output.values {
            TensorValues::F32(values) => values.len(),
            TensorValues::I32(values) => values.len(),
        };
        assert_eq!(count, output.shape.iter().product::<usize>());
    }
    Ok(())
}

fn run_diffuser(model: &Model) -> Result<(), limbeck::Error> {
    let mut diffuser = Diffuser::new(model)?;
    let names: Vec<String> = diffuser.conditions().iter().map(|c| c.name.clone()).collect();
    let numbers: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 0.5)).collect();
    let most = diffuser.counts().last().copied();
    for steps in [None, most] {
        let options = DiffuseOptions { steps, numbers: &numbers, ..DiffuseOptions::default() };
        let found = diffuser.diffuse(&options, |_| ControlFlow::Continue(()))?;
        assert_eq!(found.values.len(), found.shape.iter().product::<usize>());
    }
    Ok(())
}

fn check(tally: &mut Tally, name: &str, plan: Vec<u8>) {
    let plan: Arc<[u8]> = plan.into();
    tally.check(name, plan.len(), || open_and_run(&CPU, &plan));
}

#[test]
fn the_unspoiled_plans_run() {
    for tiny in &*TINY {
        for engine in [&*CPU, &*FAKE] {
            let result = open_and_run(engine, &tiny.plan.clone().into());
            assert_eq!(result, Ok(()), "{}", tiny.name);
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let mut tally = Tally::default();
    for tiny in &*TINY {
        let plan = &tiny.plan;
        let steps = (0..plan.len()).step_by(plan.len() / 300);
        for length in (0..HEADER + 5 * ROW).chain(steps).chain([plan.len() - 1]) {
            check(&mut tally, &format!("{} cut to {length}", tiny.name), plan[..length].to_vec());
        }
    }
    assert_eq!(tally.accepted, 0);
    assert!(tally.tried > 1_300, "{tally:?}");
}

#[test]
fn header_and_table_of_any_value_never_panic() {
    let mut tally = Tally::default();
    let mut noise = Noise::new(1);
    let tiny = &TINY[0];
    let metadata = HEADER + 4 * ROW;
    for at in 0..metadata {
        for value in [0, 1, 0xff, noise.next_u64() as u8] {
            for sealed in [false, true] {
                let mut plan = tiny.plan.clone();
                plan[at] = value;
                if sealed {
                    seal(&mut plan);
                }
                check(&mut tally, &format!("byte {at} = {value}, sealed {sealed}"), plan);
            }
        }
    }
    // Whole fields: counts, offsets, lengths.
    let fields = [(8, 4), (16, 8)].into_iter();
    let rows = (0..4).flat_map(|r| {
        let row = HEADER + r * ROW;
        [(row, 4), (row + 4, 4), (row + 8, 8), (row + 16, 8), (row + 24, 8)]
    });
    let len = tiny.plan.len() as u64;
    for (at, size) in fields.chain(rows) {
        let old = tiny.plan[at..at + size].iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
        let near = [
            old.wrapping_add(1),
            old.wrapping_sub(1),
            old.wrapping_mul(2),
            len,
            len - old.min(len),
            len + 1,
        ];
        let far =
            [0, 1, 2, 1023, 1024, 1025, u64::MAX, u64::MAX - ALIGN as u64 + 1, i64::MAX as u64];
        for value in near.into_iter().chain(far).chain([noise.next_u64(), noise.next_u64()]) {
            let mut plan = tiny.plan.clone();
            plan[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            seal(&mut plan);
            check(&mut tally, &format!("field at {at} = {value}"), plan);
        }
    }
    assert!(tally.tried > 1_800 && tally.accepted < tally.tried / 2, "{tally:?}");
}

#[test]
fn flipped_bits_never_panic() {
    let mut tally = Tally::default();
    let mut noise = Noise::new(2);
    for tiny in &*TINY {
        for _ in 0..500 {
            let mut plan = tiny.plan.clone();
            let bit = noise.below(plan.len() * 8);
            plan[bit / 8] ^= 1 << (bit % 8);
            check(&mut tally, &format!("{}, bit {bit}", tiny.name), plan);
        }
    }
    assert_eq!(tally.tried, 500 * TINY.len());
}

/// Weights of any bytes are numbers, though not always finite ones.
#[test]
fn weights_of_any_bytes_never_panic() {
    let mut tally = Tally::default();
    let mut noise = Noise::new(3);
    for tiny in &*TINY {
        for round in 0..60 {
            let mut parts = tiny.parts.clone();
            match round {
                0 => parts.weights.fill(0),
                1 => parts.weights.fill(0xff),
                // The largest finite f16 and a large f32.
                2 => parts.weights.fill(0x7b),
                3..=9 => parts.weights.iter_mut().for_each(|b| *b = noise.next_u64() as u8),
                _ => {
                    let at = noise.below(parts.weights.len() / 64) * 64;
                    parts.weights[at..at + 64].iter_mut().for_each(|b| *b = noise.next_u64() as u8);
                }
            }
            check(&mut tally, &format!("{}, weights {round}", tiny.name), parts.write());
        }
    }
}

#[test]
fn manifests_of_any_value_never_panic() {
    let mut tally = Tally::default();
    for (tiny, seed) in TINY.iter().zip(4..) {
        each_mutation(&tiny.parts.manifest, seed, |name, manifest| {
            let parts = Parts { manifest: manifest.clone(), ..tiny.parts.clone() };
            check(&mut tally, &format!("{}: manifest {name}", tiny.name), parts.write());
        });
    }
    assert!(tally.tried > 700, "{tally:?}");
}

fn calibration() -> Value {
    json!({"quality": "cosine", "data": "a.txt", "tokens": 9, "machine": "m", "points": [
        {"price": 0.0, "fraction": 1.0, "site_fraction": 1.0, "quality": 1.0, "ms_per_token": 0.5},
        {"price": 0.1, "fraction": 0.8, "site_fraction": 0.7, "quality": 0.98},
        {"price": 2.0, "fraction": 0.4, "site_fraction": 0.1, "quality": -0.5, "ms_per_token": 0.2},
    ]})
}

#[test]
fn calibrations_of_any_value_never_panic() {
    let mut tally = Tally::default();
    let sound = Parts { calibration: Some(calibration()), ..TINY[2].parts.clone() };
    assert_eq!(open_and_run(&CPU, &sound.write().into()), Ok(()));
    each_mutation(&calibration(), 11, |name, calibration| {
        let parts = Parts { calibration: Some(calibration.clone()), ..sound.clone() };
        check(&mut tally, &format!("calibration {name}"), parts.write());
    });
    assert!(tally.tried > 250, "{tally:?}");
    assert!(tally.accepted > 30 && tally.accepted < tally.tried / 2, "{tally:?}");
}

#[test]
fn broken_calibrations_are_refused_by_section() {
    let parts = &TINY[2].parts;
    let (manifest, program) = (parts.manifest.to_string(), parts.program.to_string());
    let refuse = |texts: &[&str]| {
        let mut sections = vec![
            (b"WGHT", &parts.weights[..]),
            (b"MANI", manifest.as_bytes()),
            (b"PROG", program.as_bytes()),
        ];
        sections.extend(texts.iter().map(|text| (b"CALI", text.as_bytes())));
        let error = CPU.open_bytes(write_plan(&sections)).expect_err("a broken table").to_string();
        assert!(error.contains("calibration"), "{error}");
        error
    };
    let text = calibration().to_string();
    assert!(refuse(&[&text, &text]).contains("twice"));
    for length in [0, 1, text.len() / 2, text.len() - 1] {
        refuse(&[&text[..length]]);
    }
    for number in ["NaN", "1e999", "-1", "null", "\"0.1\""] {
        refuse(&[&text.replace("\"price\":0.1", &format!("\"price\":{number}"))]);
    }
    assert!(refuse(&[&text.replace("\"price\":0.1", "\"price\":3")]).contains("point 2"));
    let point = r#"{"price":0,"fraction":1,"site_fraction":1,"quality":1},"#.repeat(5_000);
    assert!(refuse(&[&text.replace("[{", &format!("[{point}{{"))]).contains("5003 points"));
    let values = "0,".repeat(5_000_000);
    assert!(refuse(&[&text.replace("[{", &format!("[{values}{{"))]).contains("values"));
}

#[test]
fn programs_of_any_value_never_panic() {
    let mut tally = Tally::default();
    for (tiny, seed) in TINY.iter().zip(7..) {
        each_mutation(&tiny.parts.program, seed, |name, program| {
            let parts = Parts { program: program.clone(), ..tiny.parts.clone() };
            check(&mut tally, &format!("{}: program {name}", tiny.name), parts.write());
        });
    }
    assert!(tally.tried > 10_000, "{tally:?}");
    assert!(tally.accepted > 500 && tally.accepted < tally.tried / 2, "{tally:?}");
}

/// A mixture of experts with a capacity, and a weighted sum.
#[test]
fn mixtures_of_any_value_never_panic() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, path) = (golden().join("moe/llava_f"), folder.path().join("student.lbk"));
    let options = Options { moe_capacity: true, ..Options::new(source, &path, Quant::Q8) };
    compile(&options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"));
    let parts = Parts::of(&std::fs::read(path).expect("the plan"));
    let mut tally = Tally::default();
    check(&mut tally, "unspoiled", parts.write());
    assert_eq!(tally.accepted, 1);
    // The rest of the program is as other students have it.
    let steps = parts.program["entries"][0]["segments"][0]["steps"].clone();
    let find = |op: &str| {
        let mut steps = steps.as_array().expect("steps").iter();
        steps.position(|step| step["op"] == op).expect("the op")
    };
    let (moe, mix) = (find("limbeck:moe_mlp@1"), find("limbeck:mix@1"));
    let own = json!({
        "moe": steps[moe], "mix": steps[mix], "logits": steps[moe - 1],
        "sites": parts.program["sites"],
    });
    each_mutation(&own, 15, |name, own| {
        let mut program = parts.program.clone();
        program["sites"] = own["sites"].clone();
        let steps = &mut program["entries"][0]["segments"][0]["steps"];
        for (at, part) in [(moe, "moe"), (mix, "mix"), (moe - 1, "logits")] {
            steps[at] = own[part].clone();
        }
        check(&mut tally, name, Parts { program, ..parts.clone() }.write());
    });
    let mut noise = Noise::new(16);
    for round in 0..20 {
        let mut parts = parts.clone();
        parts.weights.iter_mut().for_each(|b| *b = noise.next_u64() as u8);
        check(&mut tally, &format!("weights {round}"), parts.write());
        let (name, program) = mutate(&parts.program, 2, &mut noise);
        let plan: Arc<[u8]> = Parts { program, ..parts }.write().into();
        tally.check(&name, plan.len(), || open_and_run(&FAKE, &plan));
    }
    assert!(tally.tried > 700 && tally.accepted > 60, "{tally:?}");
}

#[test]
fn several_changes_at_once_never_panic() {
    let mut tally = Tally::default();
    let mut noise = Noise::new(10);
    for tiny in &*TINY {
        for _ in 0..700 {
            let changes = 2 + noise.below(3);
            let (name, program) = mutate(&tiny.parts.program, changes, &mut noise);
            let (more, manifest) = mutate(&tiny.parts.manifest, noise.below(2), &mut noise);
            let parts = Parts { program, manifest, ..tiny.parts.clone() };
            check(&mut tally, &format!("{}: {name}{more}", tiny.name), parts.write());
        }
    }
}

/// The reference backend trusts the same rules.
#[test]
fn the_fake_backend_keeps_the_same_limits() {
    let mut tally = Tally::default();
    let mut noise = Noise::new(11);
    for tiny in &*TINY {
        for _ in 0..400 {
            let changes = 1 + noise.below(2);
            let (name, program) = mutate(&tiny.parts.program, changes, &mut noise);
            let plan: Arc<[u8]> = Parts { program, ..tiny.parts.clone() }.write().into();
            let name = format!("{}: {name}", tiny.name);
            tally.check(&name, plan.len(), || open_and_run(&FAKE, &plan));
        }
    }
}

#[test]
fn tokenizers_of_any_value_never_panic() {
    let mut tally = Tally::default();
    for (tiny, seed) in [&TINY[0], &TINY[2]].into_iter().zip(12..) {
        let bytes = tiny.parts.tokenizer.clone().expect("a tokenizer");
        let document: Value = serde_json::from_slice(&bytes).expect("JSON");
        each_mutation(&document, seed, |name, tokenizer| {
            let tokenizer = Some(tokenizer.to_string().into_bytes());
            let parts = Parts { tokenizer, ..tiny.parts.clone() };
            check(&mut tally, &format!("{}: tokenizer {name}", tiny.name), parts.write());
        });
        for bad in [&b""[..], b"{}", b"null", b"\xff\xfe", &b"[".repeat(100_000), b"{\"model\":"] {
            let parts = Parts { tokenizer: Some(bad.to_vec()), ..tiny.parts.clone() };
            check(&mut tally, &format!("{}: tokenizer {bad:.20?}", tiny.name), parts.write());
        }
    }
    assert!(tally.tried > 1_000, "{tally:?}");
}

/// Opens plans that a change has made wrong, and gives the message.
fn refusal(tiny: &Tiny, change: impl FnOnce(&mut Parts)) -> String {
    let mut parts = tiny.parts.clone();
    change(&mut parts);
    let plan: Arc<[u8]> = parts.write().into();
    let mut tally = Tally::default();
    let mut message = String::new();
    tally.check(tiny.name, plan.len(), || {
        let result = open_and_run(&CPU, &plan);
        message = result.clone().err().unwrap_or_default();
        result
    });
    assert_eq!(tally.accepted, 0, "{} was accepted", tiny.name);
    message
}

fn operand<'a>(parts: &'a mut Parts, name: &str) -> &'a mut Value {
    let operands = parts.program["entries"][0]["operands"].as_array_mut().expect("operands");
    operands.iter_mut().find(|o| o["name"] == name).expect("the operand")
}

#[test]
fn a_tokenizer_of_another_student_is_refused_in_one_sentence() {
    let mut tokenizer: Value = serde_json::from_str(TEXT_TOKENIZER).expect("JSON");
    for i in 9..300 {
        tokenizer["model"]["vocab"][format!("t{i}")] = json!(i);
    }
    let mut parts = TINY[0].parts.clone();
    parts.tokenizer = Some(tokenizer.to_string().into_bytes());
    let model = CPU.open_bytes(parts.write()).expect("a plan");
    let error = model.tokenizer().expect_err("a tokenizer that is too large");
    assert_eq!(error.kind(), ErrorKind::Plan);
    let expected = "the tokenizer has 300 tokens, the student 256: it belongs to another student";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn interfaces_that_the_task_does_not_know_are_refused() {
    let [llama, _, bert, ..] = &*TINY;
    let message = refusal(llama, |p| operand(p, "input_ids")["name"] = "pixels".into());
    assert!(message.contains("\"pixels\""), "{message}");
    let message = refusal(llama, |p| operand(p, "logits")["name"] = "answers".into());
    assert!(message.contains("\"logits\""), "{message}");
    let message = refusal(llama, |p| p.manifest["vocab_size"] = 255.into());
    assert!(message.contains("256") && message.contains("255"), "{message}");
    let message = refusal(llama, |p| p.manifest["context_length"] = (1u64 << 40).into());
    assert!(message.contains("1099511627776"), "{message}");
    let message = refusal(llama, |p| p.manifest["task"] = "embed".into());
    assert!(message.contains("\"embed\""), "{message}");
    let message = refusal(llama, |p| {
        p.program["entries"] = json!([]);
        p.program["states"] = json!([]);
    });
    assert!(message.contains("\"text\""), "{message}");
    let message = refusal(bert, |p| operand(p, "last_hidden_state")["name"] = "x".into());
    assert!(message.contains("\"last_hidden_state\""), "{message}");
    let message = refusal(bert, |p| operand(p, "positions")["name"] = "input_ids".into());
    assert!(message.contains("\"input_ids\""), "{message}");
}

/// Positions of a session are what its attention layers have stored, so each must store them.
#[test]
fn attention_that_the_task_does_not_know_is_refused() {
    let [llama, _, bert, ..] = &*TINY;
    let change = |parts: &mut Parts, key: &str, value: Value| {
        let steps = parts.program["entries"][0]["segments"][0]["steps"].as_array_mut();
        let mut steps = steps.expect("steps").iter_mut().rev();
        let step = steps.find(|step| step["op"] == "limbeck:attention@1").expect("attention");
        step["params"][key] = value;
    };
    let message = refusal(llama, |p| {
        change(p, "state", Value::Null);
        p.program["states"].as_array_mut().expect("states").pop();
    });
    assert!(message.contains("causal with a state"), "{message}");
    let message = refusal(bert, |p| change(p, "causal", true.into()));
    assert!(message.contains("neither causal nor stateful"), "{message}");
}

/// Inputs of a fixed or unheard-of size would make values of any size, whatever a caller gives.
#[test]
fn inputs_of_other_shapes_are_refused() {
    let rows = [json!(1u64 << 40), json!(7), json!("frames"), json!(["*", "tokens", 1u64 << 40])];
    for size in rows {
        let message = refusal(&TINY[0], |p| {
            // Every value's rows follow the input's, so the program stays consistent.
            let text = p.program.to_string().replace("\"tokens\"", &size.to_string());
            p.program = serde_json::from_str(&text).expect("JSON");
        });
        assert!(message.contains("entry \"text\""), "{message}");
    }
    let message = refusal(&TINY[0], |p| operand(p, "input_ids")["dtype"] = "f32".into());
    assert!(message.contains("f32"), "{message}");
}

#[test]
fn images_that_the_entry_does_not_take_are_refused() {
    let context = refusal(&TINY[3], |p| p.manifest["context_length"] = 11.into());
    assert!(context.contains("images of 10 tokens"), "{context}");
    let dtype = refusal(&TINY[3], |p| operand(p, "pixel_values")["dtype"] = "i32".into());
    assert!(dtype.contains("pixel_values"), "{dtype}");
    let size = refusal(&TINY[3], |p| operand(p, "pixel_values")["shape"][1] = 1727.into());
    assert!(size.contains("step \"patches\""), "{size}");
    for (key, value) in [("lead", 1u64 << 20), ("patch", 0), ("patch", 5), ("height", 1 << 40)] {
        let message = refusal(&TINY[3], |p| {
            let steps = &mut p.program["entries"][0]["segments"][0]["steps"];
            steps[0]["params"][key] = value.into();
        });
        assert!(message.contains("whole patches"), "{key}: {message}");
    }
    let task = refusal(&TINY[3], |p| p.manifest["task"] = "embed".into());
    assert!(task.contains("\"embed\""), "{task}");
}

/// The first convolution's window, and the rows of images.
#[test]
fn windows_that_do_not_fit_their_images_are_refused() {
    let conv = |change: &dyn Fn(&mut Value)| {
        refusal(&TINY[5], |p| change(&mut p.program["entries"][0]["segments"][0]["steps"][1]))
    };
    let huge = json!([1u64 << 40, 1]);
    for (key, value) in [
        ("stride", json!([0, 2])),
        ("stride", huge.clone()),
        ("dilation", json!([1, 0])),
        ("dilation", huge.clone()),
        ("kernel", json!([0, 7])),
        ("kernel", huge.clone()),
        ("kernel", json!([99, 7])),
        ("image", json!([0, 35])),
        ("padding", json!([u64::MAX, u64::MAX, 3, 3])),
    ] {
        let message = conv(&|step| step["params"]["window"][key] = value.clone());
        assert!(message.contains("a window of"), "{key}: {message}");
    }
    let image = conv(&|step| step["params"]["window"]["image"] = json!([45, 21]));
    assert!(image.contains("step \"resnet.embedder.embedder.activation\""), "{image}");
    let groups = conv(&|step| step["params"]["groups"] = 0.into());
    assert!(groups.contains("0 groups"), "{groups}");
    let rows =
        refusal(&TINY[5], |p| operand(p, "pixels")["shape"][0] = json!(["*", "sequences", 9]));
    assert!(rows.contains("pixels"), "{rows}");
    let tokens = refusal(&TINY[5], |p| operand(p, "pixels")["shape"][0] = "tokens".into());
    assert!(tokens.contains("pixels"), "{tokens}");
}

/// Small weights can be read as often as a program likes.
#[test]
fn values_far_wider_than_the_weights_are_refused() {
    let message = refusal(&TINY[0], |p| {
        let entry = &mut p.program["entries"][0];
        let logits = |o: &Value| o["name"] == "logits";
        let operands = entry["operands"].as_array().expect("operands").clone();
        let id = operands.iter().position(logits).expect("logits");
        let steps = entry["segments"][0]["steps"].as_array().expect("steps").clone();
        let head = steps.iter().find(|s| s["outputs"] == json!([id])).expect("the head").clone();
        for i in 0..2000 {
            let new = operands.len() + i;
            let mut operand = operands[id].clone();
            operand["name"] = format!("again {i}").into();
            entry["operands"].as_array_mut().expect("operands").push(operand);
            let mut step = head.clone();
            step["outputs"] = json!([new]);
            entry["segments"][0]["steps"].as_array_mut().expect("steps").push(step);
        }
    });
    assert!(message.contains("entry \"text\""), "{message}");
}

/// JSON that takes far more memory parsed than written.
#[test]
fn metadata_that_grows_when_parsed_is_refused() {
    for tiny in &*TINY {
        let zeros = format!("[{}0]", "0,".repeat(3_000_000));
        let steps =
            tiny.parts.program.to_string().replacen("\"params\":{", "\"params\":{\"z\":@,", 1);
        let shape = tiny.parts.program.to_string().replacen("\"shape\":[", "\"shape\":[@,", 1);
        let extra = tiny.parts.program.to_string().replacen('{', "{\"z\":@,", 1);
        for program in [steps, shape, extra] {
            let program = program.replacen('@', &zeros, 1);
            let manifest = tiny.parts.manifest.to_string();
            let plan: Arc<[u8]> = write_plan(&[
                (b"WGHT", &tiny.parts.weights),
                (b"MANI", manifest.as_bytes()),
                (b"PROG", program.as_bytes()),
            ])
            .into();
            let mut tally = Tally::default();
            tally.check(tiny.name, plan.len(), || open_and_run(&CPU, &plan));
            assert_eq!(tally.accepted, 0);
        }
    }
}

/// A plan with `count` more norms and then, to read them all, `adds` sums.
fn long_program(tiny: &Tiny, count: usize, adds: usize) -> Parts {
    let mut parts = tiny.parts.clone();
    let weights = tiny.parts.program["weights"].as_array().expect("weights");
    let norm = weights.iter().position(|w| w["rows"] == 1 && w["cols"] == 64).expect("a norm");
    let entry = &mut parts.program["entries"][0];
    let mut operands = entry["operands"].as_array().expect("operands").clone();
    let mut steps = entry["segments"][0]["steps"].as_array().expect("steps").clone();
    let wide = json!(["tokens", 64]);
    let start = operands.iter().position(|o| o["shape"] == wide).expect("a value");
    let vector = operands.len();
    operands.push(json!({"name": "w", "kind": {"weight": norm}, "dtype": "f32", "shape": [1, 64]}));
    let mut add = |op: &str, params: &Value, inputs: [usize; 2]| {
        let new = operands.len();
        operands.push(json!({"name": "", "kind": "scratch", "dtype": "f32", "shape": wide}));
        steps.push(json!({
            "name": "", "op": op, "macs": ["*", "tokens", 64], "params": params,
            "inputs": inputs, "outputs": [new],
        }));
        new
    };
    let params = json!({"kind": "rms", "eps": 0.001, "bias": false});
    let norms: Vec<usize> =
        (0..count).map(|_| add("limbeck:norm@1", &params, [start, vector])).collect();
    let sum = |sum, norm: &usize| add("limbeck:add@1", &json!({}), [sum, *norm]);
    norms.iter().take(adds).fold(start, sum);
    entry["operands"] = operands.into();
    entry["segments"][0]["steps"] = steps.into();
    // The values alone would be refused as wider than the weights.
    parts.weights.resize(64 << 20, 0);
    parts
}

/// A program of very many steps is refused, or opened and run in the time that a small one takes.
#[test]
fn very_long_programs_do_not_hang() {
    for (count, adds, accepted) in [(20_000, 0, 1), (10_000, 10_000, 1), (200_000, 0, 0)] {
        let plan: Arc<[u8]> = long_program(&TINY[0], count, adds).write().into();
        let mut tally = Tally::default();
        let name = format!("{count} norms, {adds} sums");
        tally.check(&name, plan.len(), || open_and_run(&CPU, &plan));
        assert_eq!(tally.accepted, accepted, "{name}");
    }
}

/// The limits mean something only if allocations are seen.
#[test]
fn allocations_are_counted() {
    let (kept, peak) = memory::peak(|| {
        drop(vec![1u8; 3 << 20]);
        vec![0u8; 2 << 20]
    });
    assert!((3 << 20..4 << 20).contains(&peak), "{peak}");
    drop(kept);
}
