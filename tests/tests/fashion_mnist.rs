//! The few-step student of `models/recipes/fashion_mnist`, from safetensors and from ONNX, and what the
//! classifier of the same recipe makes of its images.

use std::path::PathBuf;

use limbeck::{BackendKind, Forward, Model, SessionOptions, TensorData, TensorValues, TensorView};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, fashion_mnist, relative_error};

const CLASSES: usize = 10;
/// Accuracies by number of steps, as the recipe's README has them.
const ACCURACIES: &[(usize, f64)] = &[(1, 0.1), (2, 0.1), (4, 0.1)];
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
        for backend in [BackendKind::Fake, BackendKind::Cpu] {
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

/// Noise levels of so many steps, as `models/recipes/fashion_mnist/sampling.py` has them.
fn levels(steps: usize) -> &'static [f32] {
    match steps {
        1 => &[1.0, 0.0],
        2 => &[1.0, 0.5, 0.0],
        _ => &[1.0, 0.75, 0.5, 0.25, 0.0],
    }
}

/// Normal numbers by Box and Muller from SplitMix64.
fn noise(seed: &mut u64, count: usize) -> Vec<f32> {
    let mut uniform = || {
        *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (*seed ^ (*seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let normal = |_| {
        let (radius, angle) = (1.0 - uniform(), uniform());
        ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
    };
    (0..count).map(normal).collect()
}

/// Images of these classes.
fn images(student: &mut Forward, classes: &[i64], steps: usize) -> Vec<f32> {
    let mut seed = 7;
    let count = classes.len() * IMAGE.iter().product::<usize>();
    let mut x = noise(&mut seed, count);
    for pair in levels(steps).windows(2) {
        let times = vec![1000.0 * pair[0]; classes.len()];
        let velocity = denoise(student, &x, &times, classes);
        let fresh = noise(&mut seed, count);
        for ((x, velocity), fresh) in x.iter_mut().zip(&velocity).zip(&fresh) {
            *x = (1.0 - pair[1]) * (*x - pair[0] * velocity) + pair[1] * fresh;
        }
    }
    x
}

/// The share of images that the classifier gives their class.
fn accuracy(classifier: &mut Forward, images: &[f32], classes: &[i64]) -> f64 {
    let [channels, height, width] = IMAGE;
    let shape = [classes.len(), channels, height, width];
    let view = TensorView { name: "images", shape: &shape, data: TensorData::F32(images) };
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
    for source in [safetensors(), onnx()] {
        let model = Compiled::new(&source, Quant::F32, true).open(BackendKind::Cpu, 2);
        for (steps, expected) in ACCURACIES {
            let images = images(&mut forward(&model), &classes, *steps);
            let found = accuracy(&mut forward(&classifier), &images, &classes);
            println!("{}, {steps} steps: {found:.4}", source.display());
            assert!((found - expected).abs() <= 0.05, "{steps} steps: {found:.4}, not {expected}");
        }
    }
}
