//! Real ONNX students on the CPU against ONNX Runtime.
//!
//! Expected values: `golden/onnx_students.py`, whose inputs are made here again.

use std::path::Path;

use limbeck::{
    BackendKind, Engine, EngineOptions, ErrorKind, Forward, SessionOptions, Tensor, TensorData,
    TensorValues, TensorView,
};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::{Npz, adapter, cosine, golden, onnx_runtime, relative_error, student};

/// Every so many-th value of a large output is kept.
const STRIDE: usize = 101;
/// Outputs up to this size are kept whole.
const WHOLE: usize = 4096;

/// An input.
struct Input {
    name: &'static str,
    shape: Vec<usize>,
    values: Values,
}

enum Values {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl Input {
    fn view(&self) -> TensorView<'_> {
        let data = match &self.values {
            Values::Floats(values) => TensorData::F32(values),
            Values::Integers(values) => TensorData::I64(values),
        };
        TensorView { name: self.name, shape: &self.shape, data }
    }
}

fn unit(count: usize, seed: u64) -> impl Iterator<Item = f64> {
    (0..count as u64).map(move |i| {
        let noise = (i + seed * 1_000_003).wrapping_mul(2_654_435_761) as u32 >> 8;
        f64::from(noise) / f64::from(1 << 24)
    })
}

fn floats(name: &'static str, shape: &[usize], seed: u64, (low, high): (f64, f64)) -> Input {
    let count = shape.iter().product();
    let values = unit(count, seed).map(|v| (low + v * (high - low)) as f32).collect();
    Input { name, shape: shape.to_vec(), values: Values::Floats(values) }
}

fn ids(name: &'static str, shape: &[usize], seed: u64, below: u32) -> Input {
    let count = shape.iter().product();
    let values = unit(count, seed).map(|v| (v as f32 * below as f32) as i64).collect();
    Input { name, shape: shape.to_vec(), values: Values::Integers(values) }
}

fn constant(name: &'static str, shape: &[usize], value: i64) -> Input {
    let values = vec![value; shape.iter().product()];
    Input { name, shape: shape.to_vec(), values: Values::Integers(values) }
}

/// A compiled student.
struct Student {
    _folder: tempfile::TempDir,
    forward: Forward,
}

impl Student {
    /// `None`, with the reason printed, where it is missing.
    fn open(path: &str, fixed: &[(&str, f64)]) -> Option<Student> {
        Student::open_on(BackendKind::Cpu, path, fixed)
    }

    fn open_on(backend: BackendKind, path: &str, fixed: &[(&str, f64)]) -> Option<Student> {
        let source = student(path)?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let plan = folder.path().join("student.lbk");
        let fixed = fixed.iter().map(|(name, v)| ((*name).to_owned(), *v)).collect();
        let options = Options { fixed, ..Options::new(source, &plan, Quant::Keep) };
        compile(&options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"));
        let options = EngineOptions { backend, threads: 2, ..Default::default() };
        let model = Engine::new(options).expect("an engine").open(&plan).expect("a model");
        let forward = Forward::new(&model, SessionOptions::default()).expect("a runner");
        Some(Student { _folder: folder, forward })
    }

    fn run(&mut self, inputs: &[Input]) -> Vec<Tensor> {
        let views: Vec<TensorView<'_>> = inputs.iter().map(Input::view).collect();
        self.forward.run(&views).unwrap_or_else(|e| panic!("{e}")).0
    }
}

fn expected() -> Npz {
    Npz::open(&golden().join("onnx_students.npz"))
}

/// Compares the outputs of a call of a student; gives the largest relative error.
fn compare(npz: &mut Npz, call: &str, outputs: &[Tensor]) -> f64 {
    let mut worst = 0.0f64;
    for output in outputs {
        let key = format!("{call}.{}", output.name);
        let shape: Vec<usize> = npz.integers(&key).1.iter().map(|n| *n as usize).collect();
        assert_eq!(output.shape, shape, "{key}");
        let TensorValues::F32(values) = &output.values else { panic!("{key} is of integers") };
        let step = if values.len() > WHOLE { STRIDE } else { 1 };
        let found: Vec<f32> = values.iter().step_by(step).copied().collect();
        let error = relative_error(&found, &npz.floats(&format!("{key}.values")).1);
        println!("{key}: relative error {error:.2e}");
        worst = worst.max(error);
    }
    worst
}

/// Runs each call of a student and compares it.
fn check(path: &str, calls: &[Vec<Input>]) {
    check_on(BackendKind::Cpu, path, calls);
}

fn check_on(backend: BackendKind, path: &str, calls: &[Vec<Input>]) {
    let Some(mut student) = Student::open_on(backend, path, &[]) else { return };
    let mut npz = expected();
    for (number, inputs) in calls.iter().enumerate() {
        let outputs = student.run(inputs);
        let stem = Path::new(path).with_extension("");
        let call = format!("{}.{number}", stem.display().to_string().replace('.', "_"));
        let error = compare(&mut npz, &call, &outputs);
        assert!(error <= 1e-4, "{call}: relative error {error:.2e}");
    }
}

#[test]
fn a_classifier_of_files() {
    let call = |n: usize| vec![ids("bytes", &[n, 2048], n as u64, 257)];
    check("magika/model.onnx", &[call(2), call(1)]);
}

#[test]
fn a_convolutional_classifier() {
    let call = |n: usize| vec![floats("pixels", &[n, 3, 224, 224], n as u64, (-1.0, 1.0))];
    check("efficientnet/model.onnx", &[call(2), call(1)]);
}

#[test]
fn a_denoising_unet() {
    let call = |n: usize| {
        vec![
            floats("noisy", &[n, 1, 128, 128], n as u64, (-80.0, 80.0)),
            floats("sigma", &[n], 0, (80.0, 80.0)),
            floats("difficulty", &[n], 3, (0.0, 1.0)),
        ]
    };
    check("terrain/terrain_consistency_unet_difficulty100.onnx", &[call(1), call(2)]);
}

#[test]
fn a_classifier_and_a_unet_on_a_gpu() {
    if !adapter() {
        return;
    }
    let pixels = floats("pixels", &[1, 3, 224, 224], 1, (-1.0, 1.0));
    let mut npz = expected();
    let path = "efficientnet/model.onnx";
    let Some(mut student) = Student::open_on(BackendKind::Wgpu, path, &[]) else { return };
    let error = compare(&mut npz, "efficientnet/model.1", &student.run(&[pixels]));
    assert!(error <= 1e-4, "efficientnet: relative error {error:.2e}");
    let terrain = vec![
        floats("noisy", &[1, 1, 128, 128], 1, (-80.0, 80.0)),
        floats("sigma", &[1], 0, (80.0, 80.0)),
        floats("difficulty", &[1], 3, (0.0, 1.0)),
    ];
    let path = "terrain/terrain_consistency_unet_difficulty100.onnx";
    check_on(BackendKind::Wgpu, path, &[terrain]);
}

/// A golden's image as readers of text take it.
fn image(name: &str) -> Vec<Input> {
    let (sides, pixels) = expected().integers(&format!("image.{name}"));
    let values: Vec<f32> = pixels.iter().map(|v| (*v as f32 / 255.0 - 0.5) / 0.5).collect();
    let shape = vec![1, 3, sides[0], sides[1]];
    vec![Input { name: "x", shape, values: Values::Floats(values.repeat(3)) }]
}

#[test]
fn readers_of_text() {
    check("ppocr/PP-OCRv6_det_small.onnx", &[image("det.0"), image("det.1")]);
    check("ppocr/PP-OCRv6_rec_small.onnx", &[image("rec.0"), image("rec.1")]);
}

#[test]
fn an_encoder_of_eight_bits() {
    let Some(mut student) = Student::open("minilm-int8/model.onnx", &[]) else { return };
    let mut npz = expected();
    for (number, (n, t)) in [(2, 16), (1, 40)].into_iter().enumerate() {
        let outputs = student.run(&[
            ids("input_ids", &[n, t], 5, 30000),
            constant("attention_mask", &[n, t], 1),
            constant("token_type_ids", &[n, t], 0),
        ]);
        let TensorValues::F32(found) = &outputs[0].values else { panic!("integers") };
        let key = format!("minilm-int8/model.{number}.last_hidden_state.values");
        let found: Vec<f32> = found.iter().step_by(STRIDE).copied().collect();
        let cosine = cosine(&found, &npz.floats(&key).1);
        println!("{key}: cosine {cosine:.6}");
        assert!(cosine >= 0.999, "{key}: cosine {cosine}");
    }
}

#[test]
fn a_listener_whose_state_goes_from_call_to_call() {
    let sequence = vec![
        floats("input", &[5, 576], 9, (-0.1, 0.1)),
        floats("h", &[1, 1, 128], 1, (-1.0, 1.0)),
        floats("c", &[1, 1, 128], 2, (-1.0, 1.0)),
    ];
    check("silero/silero_vad_16k_sequence.onnx", &[sequence]);
    let fixed = [("sr", 16000.0), ("batch", 1.0), ("sequence", 576.0)];
    stream("silero/silero_vad_16k_op15.onnx", &fixed, "silero/streamed");
}

/// The model that the package itself uses: the rate is known, so that its branch is, and so are sizes.
#[test]
fn a_listener_that_chooses_its_branch_by_the_rate() {
    let fixed = [("sr", 16000.0), ("input.0", 1.0), ("input.1", 576.0), ("state.1", 1.0)];
    stream("silero/silero_vad.onnx", &fixed, "silero/main");
}

/// The same without a rate: the branches are a segment, which ONNX Runtime computes.
#[test]
fn a_listener_whose_branches_are_a_segment() {
    if onnx_runtime().is_none() {
        return;
    }
    stream("silero/silero_vad.onnx", &[], "silero/main");
}

/// Four steps, each with the state of the one before.
fn stream(path: &str, fixed: &[(&str, f64)], golden: &str) {
    let Some(mut student) = Student::open(path, fixed) else { return };
    let mut npz = expected();
    let mut state = vec![0.0; 2 * 128];
    for step in 0..4 {
        let mut inputs = vec![
            floats("input", &[1, 576], step, (-0.3, 0.3)),
            Input { name: "state", shape: vec![2, 1, 128], values: Values::Floats(state) },
        ];
        if fixed.is_empty() {
            inputs.push(constant("sr", &[], 16000));
        }
        let outputs = student.run(&inputs);
        let error = compare(&mut npz, &format!("{golden}.{step}"), &outputs);
        assert!(error <= 1e-4, "step {step}: relative error {error:.2e}");
        let next = outputs.into_iter().find(|o| o.name == "stateN").expect("a state");
        let TensorValues::F32(values) = next.values else { panic!("integers") };
        state = values;
    }
}

#[test]
fn a_long_call_is_cancelled_between_its_steps() {
    let path = "terrain/terrain_consistency_unet_difficulty100.onnx";
    let Some(mut student) = Student::open(path, &[]) else { return };
    // Seconds of work, where the cancelling thread waits for hundredths.
    let batch = 16;
    let inputs = [
        floats("noisy", &[batch, 1, 128, 128], 1, (-1.0, 1.0)),
        floats("sigma", &[batch], 2, (0.1, 1.0)),
        floats("difficulty", &[batch], 3, (0.0, 1.0)),
    ];
    let views: Vec<TensorView<'_>> = inputs.iter().map(Input::view).collect();
    let control = student.forward.control();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        control.cancel();
    });
    let ran = student.forward.run(&views);
    canceller.join().expect("the other thread");
    assert_eq!(ran.expect_err("cancelled").kind(), ErrorKind::Cancelled);
}
