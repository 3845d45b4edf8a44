//! The few-step student of `models/recipes/fashion_mnist`, from safetensors and from ONNX, and what the
//! classifier of the same recipe makes of its images.

use std::ops::ControlFlow;
use std::path::PathBuf;

use limbeck::{
    BackendKind, DiffuseOptions, Diffuser, Forward, Model, SessionOptions, TensorData,
    TensorValues, TensorView,
};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, backends, fashion_mnist, relative_error};

const CLASSES: usize = 10;
const SEED: u64 = 7;
const STEPS: [usize; 3] = [1, 2, 4];
/// Of 2,000 images in PyTorch, by number of steps: the recipe's README.
const ACCURACIES: [f64; 3] = [0.751, 0.789, 0.7785];
/// Three standard deviations of the difference of 400 images from 2,000.
const TOLERANCE: f64 = 0.07;
/// Channels and sides of an image.
const IMAGE: [usize; 3] = [1, 32, 32];

fn safetensors() -> PathBuf {
    fashion_mnist().join("student")
}

fn onnx() -> PathBuf {
    safetensors().join("model.onnx")
}

/// One output of a call.
fn run(forward: &mut Forward, inputs: &[TensorView<'_>], name: &str) -> Vec<f32> {
    let (outputs, _) = forward.run(inputs).unwrap_or_else(|e| panic!("{e}"));
    let output = outputs.into_iter().find(|output| output.name == name);
    match output.map(|output| output.values) {
        Some(TensorValues::F32(values)) => values,
        _ => panic!("there are no floats {name:?}"),
    }
}

fn forward(model: &Model) -> Forward {
    Forward::new(model, SessionOptions::default()).expect("a runner")
}

fn denoise(forward: &mut Forward, sample: &[f32], times: &[f32], classes: &[i64]) -> Vec<f32> {
    let [channels, height, width] = IMAGE;
    let shape = [times.len(), channels, height, width];
    let view = |name, shape, data| TensorView { name, shape, data };
    let inputs = [
        view("sample", &shape[..], TensorData::F32(sample)),
        view("timestep", &shape[..1], TensorData::F32(times)),
        view("class_labels", &shape[..1], TensorData::I64(classes)),
    ];
    run(forward, &inputs, "out_sample")
}

#[test]
fn both_imports_give_what_pytorch_does() {
    let mut npz = Npz::open(&safetensors().join("expected.npz"));
    let (sample, times) = (npz.floats("sample").1, npz.floats("timestep").1);
    let (classes, expected) = (npz.integers("class_labels").1, npz.floats("out_sample").1);
    for passes in [false, true] {
        let plans = [safetensors(), onnx()].map(|path| Compiled::new(&path, Quant::F32, passes));
        for backend in backends() {
            let found = plans.each_ref().map(|plan| {
                let mut forward = forward(&plan.open(backend, 2));
                denoise(&mut forward, &sample, &times, &classes)
            });
            let [a, b] = found.each_ref().map(|found| relative_error(found, &expected));
            let apart = relative_error(&found[0], &found[1]);
            println!("passes {passes}, {backend:?}: {a:.2e}, {b:.2e}, apart {apart:.2e}");
            assert!(a <= 1e-4 && b <= 1e-4 && apart <= 1e-4, "{a:.2e}, {b:.2e}, {apart:.2e}");
        }
    }
}

/// Images of these classes.
fn images(model: &Model, classes: &[i64], steps: usize) -> Vec<f32> {
    let mut diffuser = Diffuser::new(model).expect("a diffuser");
    assert_eq!((diffuser.shape(), diffuser.counts()), (IMAGE.to_vec(), STEPS.to_vec()));
    let shape = [classes.len()];
    let tensors =
        [TensorView { name: "class_labels", shape: &shape, data: TensorData::I64(classes) }];
    let (samples, steps) = (classes.len(), Some(steps));
    let options =
        DiffuseOptions { samples, seed: SEED, steps, tensors: &tensors, ..Default::default() };
    let found = diffuser.diffuse(&options, |_| ControlFlow::Continue(()));
    found.unwrap_or_else(|e| panic!("{e}")).values
}

/// The share of images that the classifier gives their class; they are held in -1..1 first.
fn accuracy(classifier: &mut Forward, images: &[f32], classes: &[i64]) -> f64 {
    let images: Vec<f32> = images.iter().map(|v| v.clamp(-1.0, 1.0)).collect();
    let [channels, height, width] = IMAGE;
    let shape = [classes.len(), channels, height, width];
    let view = TensorView { name: "images", shape: &shape, data: TensorData::F32(&images) };
    let logits = run(classifier, &[view], "logits");
    let largest = |row: &[f32]| (0..CLASSES).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let found = logits.chunks_exact(CLASSES).map(largest);
    let right = found.zip(classes).filter(|(found, class)| *found == Some(**class as usize));
    right.count() as f64 / classes.len() as f64
}

#[test]
fn images_show_their_class_in_one_two_and_four_steps() {
    let classes: Vec<i64> = (0..400).map(|i| i % CLASSES as i64).collect();
    let classifier = fashion_mnist().join("classifier.onnx");
    let classifier = Compiled::new(&classifier, Quant::F32, true).open(BackendKind::Cpu, 2);
    let models = [safetensors(), onnx()]
        .map(|source| Compiled::new(&source, Quant::F32, true).open(BackendKind::Cpu, 2));
    for (steps, expected) in STEPS.into_iter().zip(ACCURACIES) {
        let [a, b] = models.each_ref().map(|model| images(model, &classes, steps));
        let apart = relative_error(&a, &b);
        assert!(apart <= 1e-4, "{steps} steps: imports are {apart:.2e} apart");
        let found = accuracy(&mut forward(&classifier), &a, &classes);
        println!("{steps} steps: accuracy {found:.4}, imports {apart:.2e} apart");
        let bound = (expected - TOLERANCE)..=(expected + TOLERANCE);
        assert!(bound.contains(&found), "{steps} steps: accuracy {found:.4}, not {expected:.4}");
    }
}
