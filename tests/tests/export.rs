//! Plans written as ONNX: what is imported of that gives what the plan gives, and the checker of `onnx`
//! accepts it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use limbeck::plan::{Plan, Sampler};
use limbeck::{
    BackendKind, DiffuseOptions, Diffuser, Engine, EngineOptions, Forward, KvFormat, Model,
    SessionOptions, Tensor, TensorData, TensorValues, TensorView,
};
use limbeck_compiler::{Options, Quant, compile, export};
use limbeck_tests::{
    Compiled, MINILM, Npz, golden, minilm_acm, onnx_check, relative_error, student,
};

/// A plan, what was written of it, and the plan made of that.
struct RoundTrip {
    plan: Model,
    again: Model,
    _folder: tempfile::TempDir,
}

impl RoundTrip {
    fn new(plan: &Path) -> RoundTrip {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes = std::fs::read(plan).expect("a plan file");
        let parsed = Plan::parse(&bytes).expect("a plan");
        let exported = export(&parsed, &bytes, folder.path()).unwrap_or_else(|e| panic!("{e}"));
        assert!(exported.nodes > 0 && exported.bytes > 0);
        let model = folder.path().join("model.onnx");
        onnx_check(&model);
        let again = folder.path().join("again.lbk");
        compile(&Options::new(&model, &again, Quant::F32), &mut |_, _, _| {})
            .unwrap_or_else(|e| panic!("{e}"));
        let again = open(&again);
        RoundTrip { plan: open(plan), again, _folder: folder }
    }

    /// Both give the same for these inputs.
    fn compare(&self, inputs: &[Input], most: f64, case: &str) {
        let (expected, found) = (run(&self.plan, inputs), run(&self.again, inputs));
        assert!(!expected.is_empty(), "{case}");
        for expected in &expected {
            let name = &expected.name;
            let found = found.iter().find(|tensor| tensor.name == *name);
            let found = found.unwrap_or_else(|| panic!("{case}: no output {name}"));
            match (&expected.values, &found.values) {
                (TensorValues::F32(expected), TensorValues::F32(found)) => {
                    if expected.iter().all(|v| *v == 0.0) {
                        assert_eq!(found, expected, "{case}, output {name}");
                        continue;
                    }
                    let error = relative_error(found, expected);
                    assert!(error <= most, "{case}, output {name}: relative error {error:.2e}");
                }
                (expected, found) => assert_eq!(found, expected, "{case}, output {name}"),
            }
        }
    }
}

fn open(plan: &Path) -> Model {
    let options = EngineOptions { backend: BackendKind::Cpu, threads: 2, ..Default::default() };
    let engine = Engine::new(options).expect("an engine");
    engine.open(plan).unwrap_or_else(|e| panic!("{e}"))
}

struct Input {
    name: String,
    shape: Vec<usize>,
    values: Values,
}

enum Values {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl Input {
    fn integers(name: &str, shape: &[usize], values: Vec<i64>) -> Input {
        Input { name: name.into(), shape: shape.to_vec(), values: Values::Integers(values) }
    }

    fn view(&self) -> TensorView<'_> {
        let data = match &self.values {
            Values::Floats(values) => TensorData::F32(values),
            Values::Integers(values) => TensorData::I64(values),
        };
        TensorView { name: &self.name, shape: &self.shape, data }
    }
}

/// A plan of text takes its tokens without a batch, and gives logits without one.
fn run(model: &Model, inputs: &[Input]) -> Vec<Tensor> {
    let options = SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() };
    let mut forward = Forward::new(model, options).expect("a runner");
    let views: Vec<TensorView<'_>> = inputs.iter().map(Input::view).collect();
    forward.run(&views).unwrap_or_else(|e| panic!("{e}")).0
}

/// Ids of two sequences, of which the second is shorter.
fn sequences(tokens: usize, vocab: usize) -> Vec<Input> {
    let ids = (0..2 * tokens).map(|i| (i * 37 % vocab) as i64).collect();
    let mask = (0..2 * tokens).map(|i| i64::from(i < tokens + tokens / 2)).collect();
    let shape = [2, tokens];
    vec![Input::integers("input_ids", &shape, ids), Input::integers("attention_mask", &shape, mask)]
}

#[test]
fn encoders() {
    for name in ["bert", "bert_cls"] {
        for passes in [true, false] {
            let plan = Compiled::new(&golden().join("tiny").join(name), Quant::F32, passes);
            let vocab = plan.open(BackendKind::Cpu, 1).manifest().vocab_size;
            RoundTrip::new(&plan.path()).compare_encodings(&sequences(9, vocab), name);
        }
    }
}

impl RoundTrip {
    /// As [`RoundTrip::compare`], but for what padding gives: a row of it sees other positions.
    fn compare_encodings(&self, inputs: &[Input], case: &str) {
        let Values::Integers(mask) = &inputs[1].values else { panic!("{case}: no mask") };
        let both = [run(&self.plan, inputs), run(&self.again, inputs)].map(|outputs| {
            let find = |name: &str| {
                let found = outputs.iter().find(|t| t.name == name);
                match &found.unwrap_or_else(|| panic!("{case}: no {name}")).values {
                    TensorValues::F32(values) => values.clone(),
                    TensorValues::I32(_) => panic!("{case}: {name} is of integers"),
                }
            };
            let mut hidden = find("last_hidden_state");
            let cols = hidden.len() / mask.len();
            for (row, seen) in hidden.chunks_mut(cols).zip(mask) {
                row.iter_mut().for_each(|v| *v *= *seen as f32);
            }
            (hidden, find("embedding"))
        });
        let [expected, found] = both;
        for (found, expected) in [(found.0, expected.0), (found.1, expected.1)] {
            let error = relative_error(&found, &expected);
            assert!(error <= 1e-5, "{case}: relative error {error:.2e}");
        }
    }
}

#[test]
fn minilm() {
    let Some(source) = student(MINILM) else { return };
    let plan = Compiled::new(&source, Quant::F32, true);
    RoundTrip::new(&plan.path()).compare_encodings(&sequences(12, 30_000), "minilm");
}

#[test]
fn decoders_without_a_cache() {
    for name in ["llama", "llama_bias", "llama_linear", "llama_yarn", "qwen2", "qwen3"] {
        let plan = Compiled::new(&golden().join("tiny").join(name), Quant::F32, true);
        let both = RoundTrip::new(&plan.path());
        let vocab = both.plan.manifest().vocab_size;
        let ids: Vec<i64> = (0..11).map(|i| (i * 31 % vocab) as i64).collect();
        let one = run(&both.plan, &[Input::integers("input_ids", &[11], ids.clone())]);
        // Two sequences: the same, and another whose prefix it shares.
        let mut batch = ids.clone();
        batch.extend(ids.iter().enumerate().map(|(i, id)| if i < 6 { *id } else { 3 }));
        let two = run(&both.again, &[Input::integers("input_ids", &[2, 11], batch)]);
        let (TensorValues::F32(one), TensorValues::F32(two)) = (&one[0].values, &two[0].values)
        else {
            panic!("{name}: logits are of integers")
        };
        let error = relative_error(&two[..one.len()], one);
        assert!(error <= 1e-5, "{name}: relative error {error:.2e}");
        let shared = 6 * vocab;
        let error = relative_error(&two[one.len()..][..shared], &one[..shared]);
        assert!(error <= 1e-5, "{name}: relative error {error:.2e}");
    }
}

#[test]
fn classifiers_of_images() {
    for name in ["resnet/basic", "resnet/bottleneck", "resnet/odd", "acm/vit_dense"] {
        for passes in [true, false] {
            let plan = Compiled::new(&golden().join(name), Quant::F32, passes);
            let both = RoundTrip::new(&plan.path());
            let image = limbeck::Classifier::new(&both.plan).expect("a classifier").image();
            let shape: Vec<usize> = [2].into_iter().chain(image).collect();
            let count: usize = shape.iter().product();
            let pixels = (0..count).map(|i| ((i * 7919 % 1000) as f32 / 500.0) - 1.0).collect();
            let values = Values::Floats(pixels);
            let input = Input { name: "pixel_values".into(), shape, values };
            both.compare(&[input], 1e-5, &format!("{name}, passes {passes}"));
        }
    }
}

/// The sampler is written beside the model, and found there: samples are those of ONNX Runtime, as the plan's are.
#[test]
fn students_that_denoise_keep_their_sampler() {
    let plan = Compiled::new(&golden().join("diffusion/denoiser.onnx"), Quant::F32, true);
    let both = RoundTrip::new(&plan.path());
    let sampler = |model: &Model| model.plan().program().sampler.clone().expect("a sampler");
    let (expected, found) = (sampler(&both.plan), sampler(&both.again));
    assert_eq!((&*expected.rule, &*found.rule), ("consistency", "table"));
    assert_eq!(Sampler { rule: expected.rule.clone(), ..found }, expected);
    let mut npz = Npz::open(&golden().join("diffusion/denoiser.npz"));
    let mut diffuser = Diffuser::new(&both.again).expect("a diffuser");
    for steps in [1, 2, 4] {
        let numbers = &[("level", 0.25)];
        let options =
            DiffuseOptions { samples: 3, seed: 7, steps: Some(steps), numbers, tensors: &[] };
        let found = diffuser.diffuse(&options, |_| ControlFlow::Continue(())).expect("samples");
        let error = relative_error(&found.values, &npz.floats(&steps.to_string()).1);
        assert!(error <= 1e-4, "{steps} steps: relative error {error:.2e}");
    }
}

/// Weights of fewer bits are written as what they stand for.
#[test]
fn quantised_weights_are_dequantised() {
    let plan = Compiled::new(&golden().join("tiny/bert"), Quant::Q4, true);
    let both = RoundTrip::new(&plan.path());
    let vocab = both.plan.manifest().vocab_size;
    let inputs = sequences(7, vocab);
    let fake = Engine::new(EngineOptions { backend: BackendKind::Fake, ..Default::default() });
    let fake = fake.expect("an engine").open(plan.path()).expect("a model");
    let (expected, found) = (run(&fake, &inputs), run(&both.again, &inputs));
    let embedding = |outputs: &[Tensor]| match &outputs
        .iter()
        .find(|t| t.name == "embedding")
        .expect("an embedding")
        .values
    {
        TensorValues::F32(values) => values.clone(),
        TensorValues::I32(_) => panic!("an embedding of integers"),
    };
    // Activations are quantised where weights are, and are not after.
    let error = relative_error(&embedding(&found), &embedding(&expected));
    assert!(error <= 0.02, "relative error {error:.2e}");
}

#[test]
fn what_chooses_per_token_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refused = |plan: PathBuf| {
        let bytes = std::fs::read(plan).expect("a plan file");
        let parsed = Plan::parse(&bytes).expect("a plan");
        let into = folder.path().join("out");
        let error = export(&parsed, &bytes, &into).expect_err("an adaptive plan").to_string();
        assert!(!into.exists(), "a folder was made");
        error
    };
    let error = refused(Compiled::new(&golden().join("acm/bert"), Quant::F32, true).path());
    for words in ["limbeck:choose@1", "limbeck:adaptive_mlp@1", "dense student"] {
        assert!(error.contains(words), "{error}");
    }
    let Some(source) = student(MINILM) else { return };
    let plan = Compiled::with(&source, &[minilm_acm()], Quant::F32, true);
    assert!(refused(plan.path()).contains("limbeck:adaptive_mlp@1"));
}

/// What cannot be put in its place leaves nothing behind.
#[test]
fn an_export_that_fails_leaves_no_file() {
    let plan = Compiled::new(&golden().join("tiny/bert"), Quant::F32, true);
    let bytes = std::fs::read(plan.path()).expect("a plan file");
    let parsed = Plan::parse(&bytes).expect("a plan");
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A folder lies where the model should.
    std::fs::create_dir_all(folder.path().join("model.onnx/in")).expect("a folder");
    let error = export(&parsed, &bytes, folder.path()).expect_err("an error").to_string();
    assert!(error.contains("model.onnx"), "{error}");
    let left = std::fs::read_dir(folder.path()).expect("a folder");
    let left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["model.onnx"]);
}
