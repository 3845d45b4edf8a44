//! Residual convolutional networks against transformers, on every backend and in every format.
//!
//! Expected values: `golden/tiny_resnet.py`.

use std::path::{Path, PathBuf};

use limbeck::plan::{Op, Values};
use limbeck::{BackendKind, Classifier, Model};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::{Compiled, Npz, backends, golden, relative_error};
use serde_json::{Value, json};

const NAMES: &[&str] = &["basic", "bottleneck", "odd"];

fn source(name: &str) -> PathBuf {
    golden().join("resnet").join(name)
}

fn expected(name: &str) -> (Vec<f32>, Vec<f32>) {
    let mut npz = Npz::open(&source(name).join("expected.npz"));
    (npz.floats("pixel_values").1, npz.floats("logits").1)
}

fn classify(model: &Model, pixels: &[f32]) -> Vec<f32> {
    Classifier::new(model).expect("a classifier").classify(pixels).expect("a call").0
}

#[test]
fn classifiers_give_the_logits_of_transformers() {
    for name in NAMES {
        let (pixels, logits) = expected(name);
        for passes in [false, true] {
            let plan = Compiled::new(&source(name), Quant::F32, passes);
            for backend in backends() {
                let error = relative_error(&classify(&plan.open(backend, 2), &pixels), &logits);
                let case = format!("{name}, passes {passes}, {backend:?}");
                assert!(error <= 1e-4, "{case}: relative error {error:.2e}");
            }
        }
    }
}

#[test]
fn other_formats_stay_near_and_backends_agree() {
    for name in NAMES {
        let (pixels, logits) = expected(name);
        for (quant, most) in [(Quant::F16, 5e-3), (Quant::Q8, 0.05), (Quant::Q4, 0.4)] {
            let plan = Compiled::new(&source(name), quant, true);
            let [fake, cpu] =
                [BackendKind::Fake, BackendKind::Cpu].map(|b| classify(&plan.open(b, 2), &pixels));
            let error = relative_error(&cpu, &logits);
            println!("{name} {quant}: relative error {error:.4}");
            assert!(error < most, "{name} {quant}: relative error {error:.4}");
            // Sums in another order round some activations to the other neighbour of 127 steps.
            let apart = relative_error(&cpu, &fake);
            assert!(apart < 2e-2, "{name} {quant}: backends are {apart:.4} apart");
        }
    }
}

#[test]
fn threads_and_other_images_change_no_bit() {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for name in NAMES {
        let (pixels, _) = expected(name);
        let image = pixels.len() / 3;
        for quant in [Quant::F32, Quant::F16, Quant::Q8, Quant::Q4] {
            let plan = Compiled::new(&source(name), quant, true);
            let whole = bits(&classify(&plan.open(BackendKind::Cpu, 1), &pixels));
            for threads in [1, 2, 3] {
                let model = plan.open(BackendKind::Cpu, threads);
                let case = format!("{name} {quant}, {threads} threads");
                assert_eq!(bits(&classify(&model, &pixels)), whole, "{case}");
                let mut classifier = Classifier::new(&model).expect("a classifier");
                let alone = pixels
                    .chunks(image)
                    .flat_map(|pixels| bits(&classifier.classify(pixels).expect("a call").0));
                assert!(alone.eq(whole.iter().copied()), "{case}: image by image");
            }
        }
    }
}

fn ops(model: &Model) -> Vec<&'static str> {
    model.plan().program().entries[0].steps().map(|step| step.op.name()).collect()
}

#[test]
fn activations_and_residuals_become_a_part_of_convolutions() {
    let plan = Compiled::new(&source("basic"), Quant::Q4, true);
    let model = plan.open(BackendKind::Cpu, 1);
    let found = ops(&model);
    assert!(!found.contains(&"limbeck:add@1") && !found.contains(&"limbeck:activate@1"));
    let convolutions = found.iter().filter(|op| **op == "limbeck:conv2d@1");
    // The first, three blocks of two, and a shortcut.
    assert_eq!(convolutions.count(), 8);
    let steps = || model.plan().program().entries[0].steps();
    let residuals = steps().filter(|step| matches!(&step.op, Op::Conv2d(p) if p.residual));
    assert_eq!(residuals.count(), 3);
    let apart = Compiled::new(&source("basic"), Quant::Q4, false);
    let found = ops(&apart.open(BackendKind::Cpu, 1));
    assert!(found.contains(&"limbeck:add@1") && found.contains(&"limbeck:activate@1"));
    // The convolution of the pixels and the head keep 8 bits.
    let weights = &model.plan().program().weights;
    let eight = weights.iter().filter(|w| w.format.values == Values::Q8);
    let mut names: Vec<&str> = eight.map(|w| w.name.as_str()).collect();
    names.sort_unstable();
    let first = "resnet.embedder.embedder.convolution.weight normalised";
    assert_eq!(names, ["classifier.1.weight", first]);
}

#[test]
fn an_image_is_one_token_and_spends_its_convolutions() {
    let plan = Compiled::new(&source("basic"), Quant::F32, true);
    let (pixels, _) = expected("basic");
    let mut classifier = Classifier::new(&plan.open(BackendKind::Cpu, 1)).expect("a classifier");
    assert_eq!((classifier.image(), classifier.tokens()), ([3, 32, 32], 1));
    let usage = classifier.classify(&pixels).expect("a call").1;
    assert_eq!((usage.tokens, usage.fraction), (3, 1.0));
    let first = 16 * 16 * 16 * 3 * 49;
    let stages = 64 * 16 * 16 * 9 * 4 + 16 * (32 * 16 * 9 + 32 * 32 * 9 + 32 * 16);
    let rest = 64 * 16 * 9 + 16 * 32 + 32 * 7;
    assert_eq!(usage.macs, 3 * (first + stages + rest));
    let error = classifier.classify(&pixels[1..]).expect_err("not whole images");
    assert!(error.to_string().contains("3 x 32 x 32"), "{error}");
}

/// A copy of a golden to spoil.
struct Folder(tempfile::TempDir);

impl Folder {
    fn copy(name: &str) -> Folder {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for file in ["config.json", "model.safetensors", "preprocessor_config.json"] {
            std::fs::copy(source(name).join(file), folder.path().join(file)).expect("a copy");
        }
        Folder(folder)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn change(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let bytes = std::fs::read(self.path(file)).expect("a file");
        let mut value = serde_json::from_slice(&bytes).expect("JSON");
        change(&mut value);
        std::fs::write(self.path(file), value.to_string()).expect("a written file");
    }

    fn compile(&self, image_size: Option<[usize; 2]>) -> Result<PathBuf, String> {
        let output = self.path("student.lbk");
        let options = Options { image_size, ..Options::new(self.0.path(), &output, Quant::F32) };
        compile(&options, &mut |_, _, _| {}).map_err(|e| e.to_string())?;
        Ok(output)
    }
}

fn open(path: &Path) -> Model {
    let engine = limbeck::Engine::new(limbeck::EngineOptions::default()).expect("an engine");
    engine.open(path).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_size_of_images_is_the_checkpoints_or_the_callers() {
    let folder = Folder::copy("odd");
    let (pixels, logits) = expected("odd");
    let file = "preprocessor_config.json";
    for config in [
        json!({"size": 64, "do_center_crop": true, "crop_size": {"height": 27, "width": 35}}),
        json!({"size": {"height": 27, "width": 35}, "crop_size": 99}),
    ] {
        folder.change(file, |value| *value = config);
        let model = open(&folder.compile(None).expect("a plan"));
        assert!(relative_error(&classify(&model, &pixels), &logits) <= 1e-4);
    }
    folder.change(file, |value| *value = json!({"size": {"shortest_edge": 40}}));
    let model = open(&folder.compile(None).expect("a plan"));
    assert_eq!(Classifier::new(&model).expect("a classifier").image(), [1, 40, 40]);
    std::fs::remove_file(folder.path(file)).expect("a file");
    let message = folder.compile(None).expect_err("no size");
    assert!(message.contains("--image-size"), "{message}");
    let model = open(&folder.compile(Some([27, 35])).expect("a plan"));
    assert!(relative_error(&classify(&model, &pixels), &logits) <= 1e-4);
    // A single pixel is an image too.
    let model = open(&folder.compile(Some([1, 1])).expect("a plan"));
    assert_eq!(classify(&model, &[0.5]).len(), 7);
    for size in [[0, 8], [1 << 15, 8], [1 << 14, 1 << 14], [usize::MAX, usize::MAX]] {
        let message = folder.compile(Some(size)).expect_err("no size");
        assert!(message.contains("out of range"), "{message}");
    }
    let options = Options {
        image_size: Some([8, 8]),
        ..Options::new(golden().join("acm/vit_dense"), folder.path("vit.lbk"), Quant::F32)
    };
    let refused = compile(&options, &mut |_, _, _| {}).expect_err("images of one size");
    assert!(refused.to_string().contains("any size"), "{refused}");
}

#[test]
fn configurations_that_do_not_fit_are_refused_by_key() {
    for (key, value, words) in [
        ("layer_type", json!("wide"), "layer_type"),
        ("layer_type", json!(null), "layer_type"),
        ("hidden_act", json!("mish"), "hidden_act"),
        ("depths", json!([2, 0]), "depths"),
        ("depths", json!([]), "depths"),
        ("depths", json!([1u64 << 40, 1u64 << 40]), "depths"),
        ("depths", json!([2]), "hidden_sizes"),
        ("depths", json!([3, 1]), "stages.0.layers.2"),
        ("depths", json!([1, 1]), "stages.0.layers.1"),
        ("hidden_sizes", json!([16, 0]), "hidden_sizes"),
        ("hidden_sizes", json!([16, u64::MAX]), "hidden_sizes"),
        ("hidden_sizes", json!([16, 48]), "stages.1"),
        ("hidden_sizes", json!(null), "hidden_sizes"),
        ("embedding_size", json!(8), "embedder.convolution.weight"),
        ("num_channels", json!(1), "embedder.convolution.weight"),
        ("num_channels", json!(1u64 << 20), "out of range"),
        ("downsample_in_first_stage", json!(true), "shortcut.convolution.weight"),
        ("stem_type", json!("deep"), "stem_type"),
    ] {
        let folder = Folder::copy("basic");
        folder.change("config.json", |config| config[key] = value.clone());
        let message = folder.compile(None).expect_err("refused");
        assert!(message.contains(words), "{key} {value}: {message}");
    }
    let folder = Folder::copy("basic");
    let bytes = std::fs::read(folder.path("config.json")).expect("a file");
    std::fs::write(folder.path("config.json"), &bytes[..bytes.len() / 2]).expect("a file");
    let message = folder.compile(None).expect_err("cut off");
    assert!(message.contains("config.json"), "{message}");
}
