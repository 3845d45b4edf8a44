//! Adaptive checkpoints that are not as they should be are refused with the tensor or the key that is
//! wrong; gates that cannot tell their choices apart do what is documented.

use std::path::Path;

use limbeck::{BackendKind, Classifier, ErrorKind, SessionOptions};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::checkpoint::{Tensors, read, write};
use limbeck_tests::{Compiled, all_logits, golden, relative_error};
use serde_json::{Value, json};

/// A golden checkpoint whose tensors and configuration are changed.
struct Changed {
    folder: tempfile::TempDir,
}

impl Changed {
    fn new(name: &str, change: impl FnOnce(&mut Tensors, &mut Value)) -> Changed {
        let source = golden().join("acm").join(name);
        let mut tensors = read(&source.join("model.safetensors"));
        let config = std::fs::read(source.join("config.json")).expect("the configuration");
        let mut config = serde_json::from_slice(&config).expect("JSON");
        change(&mut tensors, &mut config);
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path(), &tensors);
        let path = folder.path().join("config.json");
        std::fs::write(path, config.to_string()).expect("a file");
        Changed { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn refusal(&self) -> String {
        let output = self.path().join("student.lbk");
        let options = Options::new(self.path(), &output, Quant::Q8);
        let error = compile(&options, &mut |_, _, _| {}).expect_err("a refusal").to_string();
        assert!(!output.exists());
        error
    }
}

fn refusal(name: &str, change: impl FnOnce(&mut Tensors, &mut Value)) -> String {
    Changed::new(name, change).refusal()
}

/// Cuts a tensor to its first rows.
fn cut(tensors: &mut Tensors, name: &str, rows: usize) {
    let (shape, values) = tensors.get_mut(name).unwrap_or_else(|| panic!("{name}"));
    let cols: usize = shape[1..].iter().product();
    shape[0] = rows;
    values.truncate(rows * cols);
}

fn value<'a>(tensors: &'a mut Tensors, name: &str) -> &'a mut Vec<f32> {
    &mut tensors.get_mut(name).unwrap_or_else(|| panic!("{name}")).1
}

#[test]
fn wrong_tensors_are_named() {
    const MLP: &str = "model.layers.0.mlp.acm";
    let at = |part: &str| format!("{MLP}.{part}");
    for part in ["w1", "w2", "gate.0.weight", "gate.0.bias", "gate.2.bias"] {
        let error = refusal("decoder", |t, _| drop(t.remove(&at(part))));
        let first = part == "gate.0.weight";
        let name = if first { "model.layers.0.mlp.acm.gate" } else { &at(part) };
        assert!(error.contains(name), "{part}: {error}");
    }
    // Without its first layer, the gate looks like one that is not there.
    let last = refusal("decoder", |t, _| {
        t.remove(&at("gate.2.weight"));
        t.remove(&at("gate.2.bias"));
    });
    assert!(last.contains(&at("gate")) && last.contains("16 choices"), "{last}");
    let learners = refusal("decoder", |t, _| {
        cut(t, &at("gate.2.weight"), 1);
        cut(t, &at("gate.2.bias"), 1);
    });
    assert!(learners.contains(&at("gate")) && learners.contains("3 learners"), "{learners}");
    let none = refusal("decoder", |t, config| {
        cut(t, &at("gate.2.weight"), 1);
        cut(t, &at("gate.2.bias"), 1);
        config["acm"]["mlp"] = json!({});
    });
    assert!(none.contains(&at("w1")) && none.contains("no learner"), "{none}");
    let zero = refusal("decoder", |_, config| config["acm"]["mlp"] = json!({"learners": 0}));
    assert!(zero.contains(&at("gate")) && zero.contains("0 learners"), "{zero}");
    let hidden = refusal("decoder", |t, _| cut(t, &at("w1"), 80));
    assert!(hidden.contains(&at("w1")) && hidden.contains("multiple of 32"), "{hidden}");
    let units = refusal("decoder", |t, _| cut(t, &at("w2"), 32));
    assert!(units.contains(&at("w2")) && units.contains("[32, 64]"), "{units}");
    let up = refusal("decoder", |t, _| cut(t, &at("w1_gate"), 32));
    assert!(up.contains(&at("w1_gate")), "{up}");
    let nan = refusal("decoder", |t, _| value(t, &at("gate.1.weight"))[3] = f32::NAN);
    assert!(nan.contains(&at("gate.1.weight")) && nan.contains("NaN"), "{nan}");
    let bias = refusal("decoder", |t, _| value(t, &at("gate.2.bias"))[0] = f32::INFINITY);
    assert!(bias.contains(&at("gate.2.bias")) && bias.contains("inf"), "{bias}");
    let inner = refusal("decoder", |t, _| cut(t, &at("gate.0.weight"), 8));
    assert!(inner.contains(&at("gate.0.bias")), "{inner}");
    let flat = refusal("decoder", |t, _| {
        t.insert(at("w1"), (vec![96 * 64], vec![0.0; 96 * 64]));
    });
    assert!(flat.contains(&at("w1")) && flat.contains("no matrix"), "{flat}");
}

#[test]
fn wrong_settings_are_named() {
    let key = refusal("decoder", |_, config| config["acm"]["k_proj"] = json!({"min_choice": 0}));
    assert!(key.contains("layers.0.self_attn.k_proj") && key.contains("min_choice"), "{key}");
    let empty = refusal("bert", |t, config| {
        for name in ["weight", "bias"] {
            let at = format!("encoder.layer.0.attention.self.value.acm.gate.2.{name}");
            let (shape, values) = t.get_mut(&at).expect("the gate");
            shape[0] = 3;
            let more = values.len() / 2;
            values.extend(vec![0.1; more]);
        }
        config["acm"]["v_proj"] = json!({"min_choice": 0});
    });
    assert!(empty.contains("attention.self.value") && empty.contains("min_choice"), "{empty}");
    let unused = refusal("bert", |_, config| config["acm"]["k_proj"] = json!({}));
    assert!(unused.contains("acm.k_proj"), "{unused}");
    let unknown = refusal("bert", |_, config| config["acm"]["mlp"]["beta"] = json!(0.5));
    assert!(unknown.contains("acm.mlp.beta"), "{unknown}");
    for (name, acm, word) in [
        ("vit", json!({"num_blocks": 3}), "w1"),
        ("vit", json!({"num_blocks": 0}), "num_blocks"),
        ("vit", json!({"depth": 2}), "depth"),
        ("vit", json!({"gating_hidden_dim": 8}), "gating_hidden_dim"),
        ("vit", json!({"min_choice": {"mlp": 1, "self_attention": 1}}), "min_choice"),
        ("vit", json!({"bias": true}), "mlp.b2"),
        ("vit", json!({"attention_bias": "some"}), "attention_bias"),
        ("vit", json!({"ffn": false}), "mlp.0.weight"),
        ("vit_gelu", json!({"k_proj": true}), "k_proj.w1"),
        ("vit_gelu", json!({"gate": {"depth": 1, "width": 3}}), "acm.gate.width"),
    ] {
        let error = refusal(name, |_, config| {
            for (key, value) in acm.as_object().expect("an object") {
                config["acm"][key] = value.clone();
            }
        });
        assert!(error.contains(word), "{acm}: {error}");
    }
    let image = refusal("vit", |_, config| config["patch_size"] = json!(7));
    assert!(image.contains("patch_size"), "{image}");
}

#[test]
fn an_overlay_brings_its_own_settings() {
    let source = golden().join("acm/decoder_affine");
    let all = read(&source.join("model.safetensors"));
    let (over, base): (Tensors, Tensors) =
        all.into_iter().partition(|(name, _)| name.contains(".acm."));
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(source.join("config.json")).expect("a file"))
            .expect("JSON");
    let acm = config["acm"].take();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    write(&path("base"), &base);
    write(&path("over"), &over);
    std::fs::write(path("base/config.json"), config.to_string()).expect("a file");
    let with = |plan: &str| {
        let overlays = vec![path("over")];
        let options = Options { overlays, ..Options::new(path("base"), path(plan), Quant::F32) };
        compile(&options, &mut |_, _, _| {}).map_err(|e| e.to_string())
    };
    std::fs::write(path("over/acm.json"), acm.to_string()).expect("a file");
    with("file.lbk").expect("a plan");
    let both = json!({"acm": acm}).to_string();
    std::fs::write(path("over/config.json"), &both).expect("a file");
    let error = with("both.lbk").expect_err("two descriptions");
    assert!(error.contains("acm.json") && error.contains("over"), "{error}");
    std::fs::remove_file(path("over/acm.json")).expect("the file");
    with("config.lbk").expect("a plan");
    let [file, config] =
        ["file.lbk", "config.lbk"].map(|p| std::fs::read(path(p)).expect("a plan"));
    assert_eq!(file, config);
    std::fs::write(path("over/acm.json"), "{").expect("a file");
    assert!(with("bad.lbk").expect_err("no JSON").contains("acm.json"));
}

#[test]
fn a_constant_gate_makes_the_smallest_choice() {
    let constant = Changed::new("decoder_affine", |t, config| {
        for (name, (_, values)) in t.iter_mut().filter(|(n, _)| n.contains("acm.gate")) {
            assert!(name.contains("gate"));
            values.fill(0.0);
        }
        config["acm"]["mlp"] = json!({"gate_transform": "identity"});
    });
    let model = Compiled::new(constant.path(), Quant::F32, true).open(BackendKind::Cpu, 1);
    let mut session = model.session(SessionOptions::default()).expect("a session");
    let sequence = session.sequence();
    let work = [limbeck::Work { sequence, tokens: &[1, 2, 3], wanted: limbeck::Wanted::Last }];
    session.step(&work, |_, _| {}).expect("a step");
    // Value projection, then the two MLPs.
    let firsts: Vec<i32> = model.plan().program().sites.iter().map(|s| s.first as i32).collect();
    assert_eq!(firsts, [1, 0, 0]);
    assert_eq!(session.route(), [1, 1, 1, 0, 0, 0, 0, 0, 0]);
}

/// Gains that overflow are compared like others: nothing fails.
#[test]
fn gains_that_overflow_still_make_a_choice() {
    let huge = Changed::new("decoder", |t, _| {
        for (_, (_, values)) in t.iter_mut().filter(|(n, _)| n.contains("acm.gate")) {
            values.iter_mut().for_each(|v| *v *= 1e30);
        }
    });
    let plan = Compiled::new(huge.path(), Quant::F32, true);
    let ids = [3, 1, 4, 1, 5];
    let [cpu, fake] = [BackendKind::Cpu, BackendKind::Fake]
        .map(|b| all_logits(&plan.open(b, 1), &ids, SessionOptions::default()));
    assert!(relative_error(&cpu, &fake) < 1e-2);
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let plan = Compiled::new(&golden().join("acm/vit"), Quant::Q8, true);
    let model = plan.open(BackendKind::Cpu, 1);
    let mut classifier = Classifier::new(&model).expect("a classifier");
    assert_eq!(
        (classifier.image(), classifier.tokens(), classifier.classes()),
        ([3, 24, 24], 10, 10)
    );
    let image = 3 * 24 * 24;
    for bad in [vec![], vec![0.0; image - 1], vec![0.0; image + 1], vec![f32::NAN; image]] {
        let error = classifier.classify(&bad).expect_err("a refusal");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    classifier.force_route(vec![0; 10 * 10]);
    let forced = classifier.classify(&vec![0.1; image]).expect_err("keys choose at least 1");
    assert!(forced.to_string().contains("no choice 0"), "{forced}");
    // A route is forced on one call, also where that is refused.
    classifier.force_route(vec![0; 10 * 10]);
    assert!(classifier.classify(&vec![f32::NAN; image]).is_err());
    classifier.classify(&vec![0.1; image]).expect("free choices");
    // More images than are computed at a time give the same as one alone.
    let pixels: Vec<f32> = (0..300 * image).map(|i| ((i * 7919) % 1013) as f32 / 500.0).collect();
    let (all, usage) = classifier.classify(&pixels).expect("a call");
    assert_eq!((all.len(), usage.tokens), (300 * 10, 3000));
    let route = classifier.route().to_vec();
    for i in [0, 203, 204, 299] {
        let (one, _) = classifier.classify(&pixels[i * image..][..image]).expect("a call");
        assert_eq!(one, all[i * 10..][..10], "image {i}");
        for (one, all) in classifier.route().chunks(10).zip(route.chunks(3000)) {
            assert_eq!(one, &all[i * 10..][..10], "image {i}");
        }
    }
    assert!(limbeck::Encoder::new(&model).is_err());
    assert!(model.session(SessionOptions::default()).is_err());
}
