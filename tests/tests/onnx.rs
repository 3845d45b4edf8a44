//! ONNX models of each family of operators against ONNX Runtime, on every backend, with passes and
//! without.
//!
//! Expected values: `golden/onnx_models.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use limbeck::{
    BackendKind, Engine, EngineOptions, Forward, Model, SessionOptions, Tensor, TensorData,
    TensorValues, TensorView,
};
use limbeck_compiler::{Options, Prefer, Quant, SegmentReport, compile, export};
use limbeck_tests::{
    Npz, adapter, golden, onnx_check, onnx_runtime, relative_error, run_onnx_runtime,
};

const CASES: &[&str] = &[
    "contrib",
    "conv",
    "elementwise",
    "every_op",
    "gated",
    "gather",
    "images",
    "images_known",
    "integers",
    "layout",
    "norms",
    "norms_21",
    "ordered",
    "products",
    "quantised",
    "quantised_linear",
    "recurrent",
    "reductions",
    "reductions_11",
    "rotary",
];

const BACKENDS: &[BackendKind] = &[BackendKind::Fake, BackendKind::Cpu];

fn path(case: &str, extension: &str) -> PathBuf {
    golden().join("onnx").join(case).with_extension(extension)
}

/// A tensor of a golden.
enum Values {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

struct Golden {
    name: String,
    shape: Vec<usize>,
    values: Values,
}

impl Golden {
    fn view(&self) -> TensorView<'_> {
        let data = match &self.values {
            Values::Floats(values) => TensorData::F32(values),
            Values::Integers(values) => TensorData::I64(values),
        };
        TensorView { name: &self.name, shape: &self.shape, data }
    }

    fn compare(&self, found: &Tensor, case: &str) {
        let name = &self.name;
        assert_eq!(found.shape, self.shape, "{case}, output {name}");
        match (&found.values, &self.values) {
            (TensorValues::F32(found), Values::Floats(expected)) => {
                let error = if expected.iter().all(|v| *v == 0.0) {
                    assert!(found.iter().all(|v| *v == 0.0), "{case}, output {name}");
                    0.0
                } else {
                    relative_error(found, expected)
                };
                assert!(error <= 1e-5, "{case}, output {name}: relative error {error:.2e}");
            }
            (TensorValues::I32(found), Values::Integers(expected)) => {
                let found: Vec<i64> = found.iter().map(|v| i64::from(*v)).collect();
                assert_eq!(found, *expected, "{case}, output {name}");
            }
            _ => panic!("{case}, output {name} is of another type"),
        }
    }
}

/// The inputs and outputs of each call of a golden.
fn calls(case: &str) -> Vec<(Vec<Golden>, Vec<Golden>)> {
    read_calls(&path(case, "npz"))
}

fn read_calls(path: &Path) -> Vec<(Vec<Golden>, Vec<Golden>)> {
    let mut npz = Npz::open(path);
    let mut calls: BTreeMap<usize, (Vec<Golden>, Vec<Golden>)> = BTreeMap::new();
    for full in npz.names() {
        let parts: Vec<&str> = full.splitn(3, '.').collect();
        let [number, side, name] = parts[..] else { panic!("{full}") };
        let (shape, values) = if npz.is_float(&full) {
            let (shape, values) = npz.floats(&full);
            (shape, Values::Floats(values))
        } else {
            let (shape, values) = npz.integers(&full);
            (shape, Values::Integers(values))
        };
        let call = calls.entry(number.parse().expect("a number")).or_default();
        let side = if side == "in" { &mut call.0 } else { &mut call.1 };
        side.push(Golden { name: name.into(), shape, values });
    }
    calls.into_values().collect()
}

struct Plan(tempfile::TempDir);

impl Plan {
    fn new(case: &str, passes: bool, fixed: &[(&str, f64)]) -> Plan {
        Plan::with(case, |options| {
            options.passes = passes;
            options.fixed = fixed.iter().map(|(name, v)| ((*name).to_owned(), *v)).collect();
        })
        .0
    }

    /// With other options, and what its compilation says of segments.
    fn with(case: &str, change: impl FnOnce(&mut Options)) -> (Plan, Vec<SegmentReport>) {
        let plan = Plan(tempfile::tempdir().expect("a temporary folder"));
        let mut options = Options::new(path(case, "onnx"), plan.path(), Quant::Keep);
        change(&mut options);
        let report = compile(&options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"));
        (plan, report.segments)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("model.lbk")
    }

    fn open(&self, backend: BackendKind, threads: usize) -> Model {
        let options = EngineOptions { backend, threads, ..EngineOptions::default() };
        let engine = Engine::new(options).expect("an engine");
        engine.open(self.path()).unwrap_or_else(|e| panic!("{e}"))
    }
}

fn run(model: &Model, inputs: &[Golden]) -> Vec<Tensor> {
    let mut forward = Forward::new(model, SessionOptions::default()).expect("a runner");
    let views: Vec<TensorView<'_>> = inputs.iter().map(Golden::view).collect();
    forward.run(&views).unwrap_or_else(|e| panic!("{e}")).0
}

fn compare(model: &Model, inputs: &[Golden], outputs: &[Golden], case: &str) {
    let found = run(model, inputs);
    assert_eq!(found.len(), outputs.len(), "{case}");
    for expected in outputs {
        let found = found.iter().find(|tensor| tensor.name == expected.name);
        expected.compare(found.unwrap_or_else(|| panic!("{case}: {}", expected.name)), case);
    }
}

#[test]
fn operators_give_what_onnx_runtime_does() {
    for case in CASES {
        for passes in [false, true] {
            let plan = Plan::new(case, passes, &[]);
            for &backend in BACKENDS {
                let model = plan.open(backend, 2);
                for (number, (inputs, outputs)) in calls(case).iter().enumerate() {
                    let case = format!("{case}, call {number}, passes {passes}, {backend:?}");
                    compare(&model, inputs, outputs, &case);
                }
            }
        }
    }
}

#[test]
fn operators_give_the_same_on_gpus() {
    if !adapter() {
        return;
    }
    for case in CASES {
        for passes in [false, true] {
            let model = Plan::new(case, passes, &[]).open(BackendKind::Wgpu, 0);
            for (number, (inputs, outputs)) in calls(case).iter().enumerate() {
                let case = format!("{case}, call {number}, passes {passes}, a GPU");
                compare(&model, inputs, outputs, &case);
            }
        }
    }
}

#[test]
fn what_is_exported_and_imported_again_gives_the_same() {
    for case in CASES {
        let plan = Plan::new(case, true, &[]);
        let bytes = std::fs::read(plan.path()).expect("a plan file");
        let parsed = limbeck::plan::Plan::parse(&bytes).expect("a plan");
        let folder = tempfile::tempdir().expect("a temporary folder");
        export(&parsed, &bytes, folder.path()).unwrap_or_else(|e| panic!("{case}: {e}"));
        let model = folder.path().join("model.onnx");
        onnx_check(&model);
        let again = Plan(tempfile::tempdir().expect("a temporary folder"));
        compile(&Options::new(&model, again.path(), Quant::F32), &mut |_, _, _| {})
            .unwrap_or_else(|e| panic!("{case}: {e}"));
        let model = again.open(BackendKind::Cpu, 2);
        for (inputs, outputs) in &calls(case) {
            compare(&model, inputs, outputs, case);
        }
    }
}

#[test]
fn calls_of_other_sizes_follow_each_other() {
    for case in CASES {
        let model = Plan::new(case, true, &[]).open(BackendKind::Cpu, 2);
        let mut forward = Forward::new(&model, SessionOptions::default()).expect("a runner");
        let calls = calls(case);
        for (inputs, outputs) in calls.iter().chain(&calls) {
            let views: Vec<TensorView<'_>> = inputs.iter().map(Golden::view).collect();
            let (found, usage) = forward.run(&views).unwrap_or_else(|e| panic!("{case}: {e}"));
            for expected in outputs {
                let found = found.iter().find(|tensor| tensor.name == expected.name);
                expected.compare(found.expect("an output"), case);
            }
            assert_eq!(usage.fraction, 1.0);
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for case in CASES {
        let plan = Plan::new(case, true, &[]);
        let (inputs, _) = &calls(case)[0];
        let alone = run(&plan.open(BackendKind::Cpu, 1), inputs);
        for threads in [2, 3] {
            let found = run(&plan.open(BackendKind::Cpu, threads), inputs);
            for (a, b) in alone.iter().zip(&found) {
                let same = match (&a.values, &b.values) {
                    (TensorValues::F32(a), TensorValues::F32(b)) => {
                        a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()))
                    }
                    (a, b) => a == b,
                };
                assert!(same, "{case}, {threads} threads, output {}", a.name);
            }
        }
    }
}

#[test]
fn a_fixed_input_chooses_a_branch() {
    for (number, rate) in [16.0, 8.0].into_iter().enumerate() {
        let model = Plan::new("branches", true, &[("rate", rate)]).open(BackendKind::Cpu, 1);
        let (inputs, outputs) = &calls("branches")[number];
        let views = inputs.iter().filter(|i| i.name != "rate").map(Golden::view);
        let mut forward = Forward::new(&model, SessionOptions::default()).expect("a runner");
        let (found, _) = forward.run(&views.collect::<Vec<_>>()).expect("a call");
        outputs[0].compare(&found[0], "branches");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    refused(BackendKind::Cpu, "id 11");
    if adapter() {
        refused(BackendKind::Wgpu, "index 11");
    }
}

/// `outside_table` are words of the message for an id that a table has not.
fn refused(backend: BackendKind, outside_table: &str) {
    let model = Plan::new("gather", true, &[]).open(backend, 1);
    let mut forward = Forward::new(&model, SessionOptions::default()).expect("a runner");
    let x = vec![0.5; 2 * 6 * 3];
    let ids = vec![1i64; 2 * 4];
    let view = |name, shape, data| TensorView { name, shape, data };
    let (good_x, good_ids) =
        (view("x", &[2, 6, 3], TensorData::F32(&x)), view("ids", &[2, 4], TensorData::I64(&ids)));
    assert!(forward.run(&[good_x, good_ids]).is_ok());
    let far = [i64::MAX; 8];
    let outside = [11i64; 8];
    for (message, inputs) in [
        ("no tensor \"ids\"", vec![good_x]),
        ("given twice", vec![good_x, good_x, good_ids]),
        ("takes no \"y\"", vec![good_x, good_ids, view("y", &[], TensorData::F32(&x[..1]))]),
        ("not that of f32[n, 6, 3]", vec![view("x", &[2, 3, 6], good_x.data), good_ids]),
        ("not that of f32[n, 6, 3]", vec![view("x", &[36], good_x.data), good_ids]),
        ("where", vec![good_x, view("ids", &[8, 1], good_ids.data)]),
        ("dtype f32", vec![good_x, view("ids", &[2, 4], TensorData::F32(&x[..8]))]),
        ("does not fit 32 bits", vec![good_x, view("ids", &[2, 4], TensorData::I64(&far))]),
        (outside_table, vec![good_x, view("ids", &[2, 4], TensorData::I64(&outside))]),
    ] {
        let error = forward.run(&inputs).expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    // A call that failed leaves nothing behind.
    assert!(forward.run(&[good_x, good_ids]).is_ok());
}

#[test]
fn nodes_without_a_native_form_are_segments() {
    if onnx_runtime().is_none() {
        return;
    }
    for passes in [false, true] {
        let (plan, segments) = Plan::with("segments", |options| options.passes = passes);
        let reasons: Vec<&str> = segments.iter().map(|s| s.reason.as_str()).collect();
        let reasons = reasons.join("; ");
        for words in [
            "no native operator Celu",
            "(Tan)",
            "(BitwiseAnd)",
            "condition is not known",
            "(NonZero)",
            "of which only ONNX Runtime knows the sizes",
            "(ReduceSum)",
        ] {
            assert!(reasons.contains(words), "{words:?} is not in {reasons}");
        }
        for native in ["(Relu)", "(MatMul)", "(Where)"] {
            assert!(!reasons.contains(native), "{native:?} is in {reasons}");
        }
        for &backend in BACKENDS {
            let model = plan.open(backend, 2);
            for (number, (inputs, outputs)) in calls("segments").iter().enumerate() {
                let case = format!("segments, call {number}, passes {passes}, {backend:?}");
                compare(&model, inputs, outputs, &case);
            }
        }
    }
}

/// Operators that only ONNX Runtime has, which no shape rule is known for.
#[test]
fn attention_over_a_cache_and_mixtures_are_segments() {
    if onnx_runtime().is_none() {
        return;
    }
    let (plan, segments) = Plan::with("runtimes_own", |_| ());
    let reasons: Vec<&str> = segments.iter().map(|s| s.reason.as_str()).collect();
    let reasons = reasons.join("; ");
    for words in ["com.microsoft.GroupQueryAttention", "com.microsoft.MoE"] {
        assert!(reasons.contains(words), "{words:?} is not in {reasons}");
    }
    for native in ["(Tanh)", "(MatMul)"] {
        assert!(!reasons.contains(native), "{native:?} is in {reasons}");
    }
    let model = plan.open(BackendKind::Cpu, 2);
    for (inputs, outputs) in &calls("runtimes_own") {
        compare(&model, inputs, outputs, "runtimes_own");
    }
}

/// A model that passes as it is gives the bits that ONNX Runtime gives by itself.
#[test]
fn whole_models_in_onnx_runtime_give_its_bits() {
    if onnx_runtime().is_none() {
        return;
    }
    for case in CASES.iter().chain(&["branches", "runtimes_own", "segments"]) {
        let (plan, segments) = Plan::with(case, |options| options.prefer = Prefer::Onnx);
        assert_eq!(segments.len(), 1, "{case}");
        let Some(expected) = run_onnx_runtime(&path(case, "onnx"), &path(case, "npz"), 2) else {
            return;
        };
        let model = plan.open(BackendKind::Cpu, 2);
        let expected = read_calls(&expected.path().join("out.npz"));
        for ((inputs, _), (_, outputs)) in calls(case).iter().zip(&expected) {
            let found = run(&model, inputs);
            assert_eq!(found.len(), outputs.len(), "{case}");
            for expected in outputs {
                let name = &expected.name;
                let found = found.iter().find(|tensor| tensor.name == *name);
                let found = found.unwrap_or_else(|| panic!("{case}: {name}"));
                assert_eq!(found.shape, expected.shape, "{case}, output {name}");
                match (&found.values, &expected.values) {
                    (TensorValues::F32(a), Values::Floats(b)) => {
                        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                        assert_eq!(bits(a), bits(b), "{case}, output {name}");
                    }
                    _ => expected.compare(found, case),
                }
            }
        }
    }
}
