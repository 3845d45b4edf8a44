//! Plans with segments of ONNX Runtime: what they give is what native kernels give, and what ONNX Runtime
//! gives by itself.

use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use limbeck::plan::{Op, Plan, PlanWriter};
use limbeck::{
    BackendKind, Budget, Classifier, DiffuseOptions, Diffuser, Encoder, Engine, EngineOptions,
    Forward, Limits, Model, SessionOptions, TensorData, TensorValues, TensorView, Usage,
};
use limbeck_compiler::{Options, Prefer, Quant, Report, compile};
use limbeck_tests::{MINILM, golden, minilm_acm, onnx_runtime, relative_error, sentences, student};

const BACKENDS: &[BackendKind] = &[BackendKind::Fake, BackendKind::Cpu];

/// A compiled plan and what its compilation said.
struct Compiled {
    folder: tempfile::TempDir,
    report: Report,
}

impl Compiled {
    fn new(source: &Path, change: impl FnOnce(&mut Options)) -> Compiled {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut options = Options::new(source, folder.path().join("plan.lbk"), Quant::F32);
        change(&mut options);
        let report = compile(&options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"));
        Compiled { folder, report }
    }

    fn native(source: &Path) -> Compiled {
        Compiled::new(source, |_| ())
    }

    fn onnx(source: &Path) -> Compiled {
        Compiled::new(source, |options| options.prefer = Prefer::Onnx)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("plan.lbk")
    }

    fn open(&self, backend: BackendKind) -> Model {
        open(&self.path(), backend).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The names of the ops of each step.
    fn ops(&self) -> Vec<&'static str> {
        let bytes = std::fs::read(self.path()).expect("a plan file");
        let plan = Plan::parse(&bytes).expect("a plan");
        plan.program().entries.iter().flat_map(|e| e.steps()).map(|s| s.op.name()).collect()
    }
}

fn open(plan: &Path, backend: BackendKind) -> limbeck::Result<Model> {
    let options = EngineOptions { backend, threads: 2, ..EngineOptions::default() };
    Engine::new(options).expect("an engine").open(plan)
}

fn embed(model: &Model, texts: &[&str], price: f64) -> Vec<f32> {
    let mut encoder = Encoder::new(model).expect("an encoder");
    encoder.control().set_budget(Budget::Price(price), Limits::default()).expect("a price");
    encoder.embed(texts).expect("embeddings").0.concat()
}

#[test]
fn minilm_is_one_segment_and_gives_the_same_vectors() {
    let (Some(_), Some(source)) = (onnx_runtime(), student(MINILM)) else { return };
    let (native, onnx) = (Compiled::native(&source), Compiled::onnx(&source));
    assert_eq!(onnx.ops(), ["limbeck:onnx@1"]);
    assert_eq!(onnx.report.segments.len(), 1);
    // Of weights no second copy: the model of the segment has names and nodes.
    let size = |plan: &Compiled| std::fs::metadata(plan.path()).expect("a file").len();
    assert!(size(&onnx) < size(&native) + 256 * 1024, "{} {}", size(&onnx), size(&native));
    let sentences = sentences();
    let texts: Vec<&str> = sentences.iter().take(24).map(String::as_str).collect();
    let expected = embed(&native.open(BackendKind::Cpu), &texts, 0.0);
    let model = onnx.open(BackendKind::Cpu);
    let found = embed(&model, &texts, 0.0);
    let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("largest difference {apart:.2e}, relative {:.2e}", relative_error(&found, &expected));
    assert!(apart <= 1e-5, "largest difference {apart:.2e}");
    let mut encoder = Encoder::new(&model).expect("an encoder");
    let (_, usage) = encoder.embed(&texts).expect("embeddings");
    let mut dense = Encoder::new(&native.open(BackendKind::Cpu)).expect("an encoder");
    let (_, wanted) = dense.embed(&texts).expect("embeddings");
    assert_eq!(usage.macs, wanted.macs);
    // Of tables that are looked up few rows are read.
    let apart = usage.bytes.abs_diff(wanted.bytes);
    assert!(apart <= wanted.bytes / 100, "{} {}", usage.bytes, wanted.bytes);
}

/// Sequences of their own lengths, with padding that is computed and not seen.
#[test]
fn encoders_give_the_same_on_every_backend() {
    if onnx_runtime().is_none() {
        return;
    }
    for name in ["bert", "bert_cls"] {
        let source = golden().join("tiny").join(name);
        let (native, onnx) = (Compiled::native(&source), Compiled::onnx(&source));
        let tokens = 9usize;
        let ids: Vec<i64> = (0..3 * tokens as i64).map(|i| i * 7 % 40).collect();
        let mask: Vec<i64> =
            (0..3 * tokens).map(|i| i64::from(i < 5 || (i >= 9 && i % 4 != 1) || i > 24)).collect();
        let shape = [3, tokens];
        let views = [
            TensorView { name: "input_ids", shape: &shape, data: TensorData::I64(&ids) },
            TensorView { name: "attention_mask", shape: &shape, data: TensorData::I64(&mask) },
        ];
        let expected = forward(&native.open(BackendKind::Cpu), &views);
        for &backend in BACKENDS {
            let found = forward(&onnx.open(backend), &views);
            for (found, expected) in found.iter().zip(&expected) {
                let error = relative_error(found, expected);
                assert!(error <= 1e-5, "{name}, {backend:?}: relative error {error:.2e}");
            }
        }
    }
}

/// Of a model that passes as it is no multiply-adds are known: the share of a call is that of its steps.
#[test]
fn a_sampler_in_one_segment_counts_its_steps() {
    let Some(_) = onnx_runtime() else { return };
    let onnx = Compiled::onnx(&golden().join("diffusion/denoiser.onnx"));
    let mut diffuser = Diffuser::new(&onnx.open(BackendKind::Cpu)).expect("a diffuser");
    let options = DiffuseOptions { samples: 2, numbers: &[("level", 0.25)], ..Default::default() };
    let mut total = Usage::default();
    for (ceiling, steps, mean) in [(0.25, 1, 0.25), (0.5, 2, 0.375), (1.0, 4, 7.0 / 12.0)] {
        let limits = Limits { floor: 0.0, ceiling };
        diffuser.control().set_budget(Budget::Full, limits).expect("a budget");
        let found = diffuser.diffuse(&options, |_| ControlFlow::Continue(())).expect("samples");
        let usage = found.usage;
        assert_eq!((found.steps, usage.macs), (steps, 0));
        assert_eq!(usage.fraction, steps as f64 / 4.0);
        assert_eq!(usage.site_fraction, Some(usage.fraction));
        total.add(&usage);
        assert!((total.fraction - mean).abs() < 1e-12, "{total:?}");
    }
}

fn forward(model: &Model, views: &[TensorView<'_>]) -> Vec<Vec<f32>> {
    let mut forward = Forward::new(model, SessionOptions::default()).expect("a runner");
    let (outputs, _) = forward.run(views).unwrap_or_else(|e| panic!("{e}"));
    let floats = |tensor: limbeck::Tensor| match tensor.values {
        TensorValues::F32(values) => Some(values),
        TensorValues::I32(_) => None,
    };
    outputs.into_iter().filter_map(floats).collect()
}

#[test]
fn classifiers_give_the_same() {
    if onnx_runtime().is_none() {
        return;
    }
    for name in ["resnet/basic", "resnet/bottleneck", "resnet/odd", "acm/vit_dense"] {
        let source = golden().join(name);
        let (native, onnx) = (Compiled::native(&source), Compiled::onnx(&source));
        let ops = onnx.ops();
        assert!(ops.len() == 2 && ops[1] == "limbeck:onnx@1", "{name}: {ops:?}");
        let logits = |plan: &Compiled| {
            let mut classifier =
                Classifier::new(&plan.open(BackendKind::Cpu)).expect("a classifier");
            let count = 3 * classifier.image().iter().product::<usize>();
            let pixels: Vec<f32> =
                (0..count).map(|i| ((i * 7919 % 1000) as f32 / 500.0) - 1.0).collect();
            classifier.classify(&pixels).expect("logits").0
        };
        let error = relative_error(&logits(&onnx), &logits(&native));
        assert!(error <= 1e-5, "{name}: relative error {error:.2e}");
    }
}

/// What chooses per token stays native, between segments.
#[test]
fn adaptive_steps_run_between_segments() {
    if onnx_runtime().is_none() {
        return;
    }
    let mut students = vec![(golden().join("acm/bert"), Vec::new(), 0.02)];
    students.extend(student(MINILM).map(|source| (source, vec![minilm_acm()], 0.02)));
    for (source, overlays, price) in students {
        let with = |prefer| {
            let overlays = overlays.clone();
            Compiled::new(&source, |options| {
                (options.prefer, options.overlays) = (prefer, overlays);
            })
        };
        let (native, onnx) = (with(Prefer::Native), with(Prefer::Onnx));
        let ops = onnx.ops();
        let count = |name: &str| ops.iter().filter(|op| **op == name).count();
        let adaptive = count("limbeck:adaptive_mlp@1");
        assert!(adaptive > 0 && count("limbeck:onnx@1") > 1, "{ops:?}");
        let ends = [ops.first(), ops.last()];
        assert!(ends.iter().all(|op| *op == Some(&"limbeck:onnx@1")), "{ops:?}");
        assert!(onnx.report.notes.iter().any(|note| note.contains("adaptive_mlp")));
        let ids: Vec<i64> = (0..22).map(|i| 1 + i * 11 % 30).collect();
        let shape = [2, 11];
        let views = [TensorView { name: "input_ids", shape: &shape, data: TensorData::I64(&ids) }];
        for price in [0.0, price] {
            let run = |plan: &Compiled| {
                let model = plan.open(BackendKind::Cpu);
                let mut forward =
                    Forward::new(&model, SessionOptions::default()).expect("a runner");
                let budget = Budget::Price(price);
                forward.control().set_budget(budget, Limits::default()).expect("a price");
                let (outputs, usage) = forward.run(&views).unwrap_or_else(|e| panic!("{e}"));
                (outputs, usage)
            };
            let ((expected, wanted), (found, usage)) = (run(&native), run(&onnx));
            assert_eq!((usage.macs, usage.full_macs), (wanted.macs, wanted.full_macs));
            for expected in &expected {
                let found = found.iter().find(|t| t.name == expected.name).expect("an output");
                match (&found.values, &expected.values) {
                    (TensorValues::F32(found), TensorValues::F32(expected)) => {
                        let error = relative_error(found, expected);
                        assert!(error <= 1e-5, "{}: {error:.2e}", expected.len());
                    }
                    (found, expected) => assert_eq!(found, expected),
                }
            }
        }
    }
}

#[test]
fn nodes_are_chosen_by_name() {
    if onnx_runtime().is_none() {
        return;
    }
    let source = golden().join("tiny/bert");
    let chosen = Compiled::new(&source, |options| options.onnx_for = vec!["*attention*".into()]);
    let ops = chosen.ops();
    let count = |name: &str| ops.iter().filter(|op| **op == name).count();
    assert!(count("limbeck:onnx@1") > 1 && count("limbeck:attention@1") == 0, "{ops:?}");
    assert!(count("limbeck:linear@1") > 0, "{ops:?}");
    let ids: Vec<i64> = (0..12).map(|i| i * 5 % 40).collect();
    let shape = [2, 6];
    let views = [TensorView { name: "input_ids", shape: &shape, data: TensorData::I64(&ids) }];
    let expected = forward(&Compiled::native(&source).open(BackendKind::Cpu), &views);
    for (found, expected) in forward(&chosen.open(BackendKind::Cpu), &views).iter().zip(&expected) {
        assert!(relative_error(found, expected) <= 1e-5);
    }
    let refused = |source: &str, change: &dyn Fn(&mut Options)| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("plan.lbk");
        let mut options = Options::new(golden().join(source), &path, Quant::F32);
        change(&mut options);
        let error = compile(&options, &mut |_, _, _| {}).expect_err("a refusal").to_string();
        assert!(!path.exists());
        error
    };
    let pattern = |pattern: &str| {
        let pattern = pattern.to_owned();
        move |options: &mut Options| options.onnx_for = vec![pattern.clone()]
    };
    let error = refused("tiny/bert", &pattern("nothing.*"));
    assert!(error.contains("no node is called so"), "{error}");
    let error = refused("acm/bert", &pattern("*"));
    assert!(error.contains("stays native"), "{error}");
    for name in ["tiny/llama", "tiny/qwen3"] {
        let error = refused(name, &|options| options.prefer = Prefer::Onnx);
        assert!(error.contains("KV cache") && !error.contains('\n'), "{error}");
    }
}

/// Halves are read where they lie.
#[test]
fn segments_read_f16_weights() {
    if onnx_runtime().is_none() {
        return;
    }
    let source = golden().join("tiny/bert");
    let with = |prefer| {
        Compiled::new(&source, |options| (options.quant, options.prefer) = (Quant::F16, prefer))
    };
    let (native, onnx) = (with(Prefer::Native), with(Prefer::Onnx));
    let ids: Vec<i64> = (0..12).map(|i| i * 5 % 40).collect();
    let shape = [2, 6];
    let views = [TensorView { name: "input_ids", shape: &shape, data: TensorData::I64(&ids) }];
    let expected = forward(&native.open(BackendKind::Fake), &views);
    for (found, expected) in forward(&onnx.open(BackendKind::Cpu), &views).iter().zip(&expected) {
        assert!(relative_error(found, expected) <= 1e-3);
    }
}

/// The plan of a segment with other bytes as its models.
fn with_models(plan: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let bytes = std::fs::read(plan).expect("a plan file");
    let parsed = Plan::parse(&bytes).expect("a plan");
    let mut models = parsed.models(&bytes).to_vec();
    change(&mut models);
    let mut writer = PlanWriter::new(Cursor::new(Vec::new())).expect("a writer");
    writer.append(parsed.weights(&bytes)).expect("weights");
    writer.set_models(&models);
    let written = writer.finish(parsed.manifest(), parsed.program(), parsed.tokenizer(&bytes));
    written.expect("a plan").into_inner()
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|w| w == from) {
        bytes[at + found..][..to.len()].copy_from_slice(to);
        at += found + to.len();
    }
}

fn open_bytes(bytes: Vec<u8>) -> limbeck::Result<Model> {
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    Engine::new(options).expect("an engine").open_bytes(bytes)
}

#[test]
fn models_that_look_elsewhere_are_refused() {
    if onnx_runtime().is_none() {
        return;
    }
    let plan = Compiled::onnx(&golden().join("tiny/bert"));
    open_bytes(with_models(&plan.path(), |_| ())).expect("a model");
    for (from, to) in [
        ("weights", "/etc/pw"),
        ("weights", "../../x"),
        ("weights", "weight\0"),
        ("location", "locatioN"),
        ("offset", "Offset"),
        ("Softmax", "Softmux"),
    ] {
        let bytes =
            with_models(&plan.path(), |models| replace(models, from.as_bytes(), to.as_bytes()));
        let error = open_bytes(bytes).expect_err(to).to_string();
        assert!(error.contains("step") && error.contains("model"), "{to}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    // Its bytes end before the section's, or beyond.
    let bytes = std::fs::read(plan.path()).expect("a plan file");
    let mut program = Plan::parse(&bytes).expect("a plan").program().clone();
    for step in program.entries.iter_mut().flat_map(|e| &mut e.segments).flat_map(|s| &mut s.steps)
    {
        if let Op::Onnx(p) = &mut step.op {
            p.offset = 1;
        }
    }
    let parsed = Plan::parse(&bytes).expect("a plan");
    let error = parsed.with_program(program).expect_err("a model beyond the section").to_string();
    assert!(error.contains("beyond"), "{error}");
}

#[test]
fn damaged_models_give_errors() {
    if onnx_runtime().is_none() {
        return;
    }
    let plan = Compiled::onnx(&golden().join("tiny/bert"));
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut refused = 0;
    for _ in 0..200 {
        let bytes = with_models(&plan.path(), |models| {
            for _ in 0..=random(3) {
                let at = random(models.len());
                models[at] ^= 1 << random(8);
            }
        });
        refused += usize::from(open_bytes(bytes).is_err());
    }
    assert!(refused > 20, "{refused} of 200");
}
