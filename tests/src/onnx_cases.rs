//! Small ONNX models with what ONNX Runtime computes, from `golden/onnx_models.py`: compiled, run and compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use limbeck::{
    BackendKind, Engine, EngineOptions, Forward, Model, SessionOptions, Tensor, TensorData,
    TensorValues, TensorView,
};
use limbeck_compiler::{Options, Quant, SegmentReport, compile};

use crate::{Npz, golden, relative_error};

/// A file of a case in `golden/onnx`.
pub fn path(case: &str, extension: &str) -> PathBuf {
    golden().join("onnx").join(case).with_extension(extension)
}

/// Elements of a golden.
pub enum Values {
    /// Of f32.
    Floats(Vec<f32>),
    /// Of any integers.
    Integers(Vec<i64>),
}

/// A tensor of a golden.
pub struct Golden {
    /// Of the input or the output.
    pub name: String,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Elements.
    pub values: Values,
}

impl Golden {
    /// As an input of a call.
    pub fn view(&self) -> TensorView<'_> {
        let data = match &self.values {
            Values::Floats(values) => TensorData::F32(values),
            Values::Integers(values) => TensorData::I64(values),
        };
        TensorView { name: &self.name, shape: &self.shape, data }
    }

    /// Compares an output with it.
    ///
    /// # Panics
    /// Where it is of another type or shape, or too far.
    pub fn compare(&self, found: &Tensor, case: &str) {
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
pub fn calls(case: &str) -> Vec<(Vec<Golden>, Vec<Golden>)> {
    read_calls(&path(case, "npz"))
}

/// The same of a file.
///
/// # Panics
/// Where names are of another form.
pub fn read_calls(path: &Path) -> Vec<(Vec<Golden>, Vec<Golden>)> {
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

/// A compiled case, in a folder of its own.
pub struct Plan(tempfile::TempDir);

impl Plan {
    /// Of a case, with passes or without, some of its inputs fixed.
    ///
    /// # Panics
    /// Where it does not compile, here and below.
    pub fn new(case: &str, passes: bool, fixed: &[(&str, f64)]) -> Plan {
        Plan::with(case, |options| {
            options.passes = passes;
            options.fixed = fixed.iter().map(|(name, v)| ((*name).to_owned(), *v)).collect();
        })
        .0
    }

    /// With other options, and what its compilation says of segments.
    pub fn with(case: &str, change: impl FnOnce(&mut Options)) -> (Plan, Vec<SegmentReport>) {
        Plan::of(&path(case, "onnx"), change)
    }

    /// The same of any model.
    pub fn of(model: &Path, change: impl FnOnce(&mut Options)) -> (Plan, Vec<SegmentReport>) {
        let plan = Plan(tempfile::tempdir().expect("a temporary folder"));
        let mut options = Options::new(model, plan.path(), Quant::Keep);
        change(&mut options);
        let report = compile(&options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"));
        (plan, report.segments)
    }

    /// The plan file.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("model.lbk")
    }

    /// As a model on a backend.
    pub fn open(&self, backend: BackendKind, threads: usize) -> Model {
        let options = EngineOptions { backend, threads, ..EngineOptions::default() };
        let engine = Engine::new(options).expect("an engine");
        engine.open(self.path()).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// What a call gives.
///
/// # Panics
/// Where it fails.
pub fn run(model: &Model, inputs: &[Golden]) -> Vec<Tensor> {
    let mut forward = Forward::new(model, SessionOptions::default()).expect("a runner");
    let views: Vec<TensorView<'_>> = inputs.iter().map(Golden::view).collect();
    forward.run(&views).unwrap_or_else(|e| panic!("{e}")).0
}

/// Compares a call with what it should give.
///
/// # Panics
/// Where it gives something else.
pub fn compare(model: &Model, inputs: &[Golden], outputs: &[Golden], case: &str) {
    let found = run(model, inputs);
    assert_eq!(found.len(), outputs.len(), "{case}");
    for expected in outputs {
        let found = found.iter().find(|tensor| tensor.name == expected.name);
        expected.compare(found.unwrap_or_else(|| panic!("{case}: {}", expected.name)), case);
    }
}
