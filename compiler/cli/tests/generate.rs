//! `limbeck generate`: pictures and tensors, steps and budgets, and what is refused.

mod common;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use common::{Place, golden, limbeck, tensor};

/// A place with the plan of a small student that denoises.
fn denoiser() -> Place {
    let place = Place::empty();
    let model = golden("diffusion/denoiser.onnx");
    limbeck(["compile", model.to_str().expect("a path"), "-o", &place.plan()]).ok();
    place
}

/// Width, height, colour, and bytes of a picture.
fn picture(path: &Path) -> (u32, u32, png::ColorType, Vec<u8>) {
    let file = BufReader::new(File::open(path).expect("the file"));
    let mut reader = png::Decoder::new(file).read_info().expect("a PNG file");
    let mut bytes = vec![0; reader.output_buffer_size().expect("a size")];
    let info = reader.next_frame(&mut bytes).expect("a picture");
    bytes.truncate(info.buffer_size());
    (info.width, info.height, info.color_type, bytes)
}

#[test]
fn a_sample_becomes_a_picture_and_its_values() {
    let place = denoiser();
    let (plan, png, npz) = (place.plan(), place.arg("a.png"), place.arg("a.npz"));
    let preview = place.arg("a.preview.png");
    let common = ["generate", &plan, "--seed", "7", "--set", "level=0.25", "--steps", "2"];
    let run = limbeck([&common[..], &["-o", &png, "--preview", &preview]].concat());
    assert!(run.stderr.contains("a.png: 2 steps"), "{run:?}");
    assert_eq!(run.ok(), "");
    limbeck([&common[..], &["-o", &npz]].concat()).ok();
    let (shape, values) = tensor::<f32>(&place.path("a.npz"), "samples");
    assert_eq!(shape, [1, 1, 8, 8]);
    // The golden's sample of this seed.
    let (_, expected) = tensor::<f32>(&golden("diffusion/denoiser.npz"), "2");
    assert!(limbeck_tests::relative_error(&values, &expected[..64]) < 1e-4);
    let (width, height, colour, bytes) = picture(&place.path("a.png"));
    assert_eq!((width, height, colour), (8, 8, png::ColorType::Grayscale));
    let shown = bytes.chunks(2).map(|b| f64::from(u16::from_be_bytes([b[0], b[1]])));
    for (shown, value) in shown.zip(&values) {
        assert!((shown - (f64::from(*value) + 1.0) / 2.0 * 65535.0).abs() <= 0.51, "{value}");
    }
    let (width, height, colour, _) = picture(&place.path("a.preview.png"));
    assert_eq!((width, height, colour), (24, 24, png::ColorType::Rgb));
}

#[test]
fn several_samples_have_the_seeds_that_follow() {
    let place = denoiser();
    let (plan, npz) = (place.plan(), place.arg("a.npz"));
    let report =
        limbeck(["generate", &plan, "--seed", "7", "--samples", "3", "-o", &npz, "--json"]).json();
    assert_eq!(
        (&report["samples"], &report["steps"], &report["seed"]),
        (&3.into(), &4.into(), &7.into())
    );
    assert_eq!(report["shape"], serde_json::json!([3, 1, 8, 8]));
    let (_, together) = tensor::<f32>(&place.path("a.npz"), "samples");
    limbeck(["generate", &plan, "--seed", "9", "-o", &npz]).ok();
    assert_eq!(tensor::<f32>(&place.path("a.npz"), "samples").1, together[128..]);
}

#[test]
fn budgets_are_reported_with_the_steps_they_chose() {
    let place = denoiser();
    let (plan, npz) = (place.plan(), place.arg("a.npz"));
    let run = |more: &[&str]| {
        limbeck([&["generate", &plan, "-o", &npz, "--json"][..], more].concat()).json()
    };
    for (budget, steps, met) in [
        ("full", 4, true),
        ("0.5", 2, true),
        ("deadline:600s", 4, true),
        ("deadline:1us", 1, false),
    ] {
        let report = run(&["--budget", budget]);
        assert_eq!(
            (&report["steps"], &report["budget"]["met"]),
            (&steps.into(), &met.into()),
            "{report}"
        );
        assert_eq!(report["usage"]["sites"][0]["histogram"][steps], 1, "{report}");
        assert_eq!(report["usage"]["fraction"], steps as f64 / 4.0);
        assert!(report["usage"]["ms"].as_f64().is_some_and(|ms| ms > 0.0));
    }
    let run = limbeck(["generate", &plan, "-o", &npz, "--budget", "0.1"]);
    assert!(run.stderr.contains("the budget 0.1 is not met"), "{run:?}");
    run.ok();
}

#[test]
fn what_cannot_be_made_is_refused() {
    let place = denoiser();
    let (plan, png) = (place.plan(), place.arg("a.png"));
    let run = |more: &[&str]| limbeck([&["generate", &plan][..], more].concat());
    run(&[]).usage(&["--output"]);
    run(&["-o", "a.jpg"]).usage(&[".png or .npz"]);
    run(&["-o", &png, "--samples", "2"]).usage(&["one sample"]);
    run(&["-o", &png, "--set", "level"]).usage(&["NAME=VALUE"]);
    run(&["-o", &png, "--steps", "0"]).usage(&["--steps"]);
    run(&["-o", &png, "--steps", "3"]).fails(&["3 steps", "1, 2, 4"]);
    run(&["-o", &png, "--set", "level=2"]).fails(&["level", "0 to 1"]);
    run(&["-o", &png, "--set", "hue=1"]).fails(&["\"hue\"", "level"]);
    run(&["-o", &place.arg("no/a.png")]).fails(&["a.png"]);
    assert_eq!(place.names(), ["student.lbk"]);
    let plan_as_png = place.arg("plan.png");
    std::fs::copy(place.path("student.lbk"), &plan_as_png).expect("a copy");
    run(&["-o", &plan_as_png]).fails(&["plan.png", "not replaced"]);
    let text = Place::text();
    limbeck(["generate", &text.plan(), "-o", &png]).fails(&["no sampler"]);
    limbeck(["tune", &plan, "--data", &plan]).fails(&["sampler"]);
    limbeck(["bench", &plan]).fails(&["generate"]);
    assert!(limbeck(["inspect", &plan]).ok().contains("sampler consistency: 1, 2, 4 steps"));
}

#[test]
fn a_sampler_may_be_given() {
    let place = Place::empty();
    let model = golden("diffusion/denoiser.onnx");
    let model = model.to_str().expect("a path");
    place.write("own.json", r#"{"scheduler": {"rule": "edm"}, "steps": [3], "values": [0, 1]}"#);
    let (plan, own) = (place.plan(), place.arg("own.json"));
    limbeck(["compile", model, "-o", &plan, "--sampler", &own]).ok();
    let run = |more: &str| {
        limbeck(["generate", &plan, "-o", &place.arg("a.npz"), "--set", "level=1", "--json", more])
    };
    assert_eq!(run("--seed=1").json()["steps"], 3);
    // Without a default, a condition must be set.
    limbeck(["generate", &plan, "-o", &place.arg("a.npz")]).fails(&["\"level\" must be given"]);
    place.write("own.json", r#"{"scheduler": {"rule": "magic"}}"#);
    limbeck(["compile", model, "-o", &plan, "--sampler", &own]).fails(&["\"magic\"", "edm"]);
    let folder = golden("tiny/llama");
    place.write("own.json", r#"{"scheduler": {"rule": "edm"}}"#);
    limbeck(["compile", folder.to_str().expect("a path"), "-o", &plan, "--sampler", &own])
        .fails(&["does not denoise"]);
}
