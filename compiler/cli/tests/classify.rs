//! Image classifiers and adaptive decoders on the command line, without a tokenizer.

mod common;

use common::{Place, golden, limbeck, relative_error, tensor};
use npyz::WriterBuilder;
use npyz::npz::NpzWriter;

const IMAGE: [u64; 4] = [3, 3, 24, 24];

/// The plan of an adaptive golden in `student.lbk`.
fn adaptive(name: &str) -> Place {
    let place = Place::empty();
    let source = golden("acm").join(name).display().to_string();
    limbeck(["compile", &source, "-o", &place.plan(), "--quant", "f32"]).ok();
    place
}

fn array<T: npyz::AutoSerialize + Copy>(
    npz: &mut NpzWriter<std::io::BufWriter<std::fs::File>>,
    name: &str,
    shape: &[u64],
    values: &[T],
) {
    let array = npz.array(name, Default::default()).expect("an array");
    let mut array = array.default_dtype().shape(shape).begin_nd().expect("an array");
    array.extend(values.iter().copied()).expect("values");
    array.finish().expect("an end");
}

fn write(place: &Place, shape: &[u64], pixels: &[f32], choices: Option<&[i64]>) {
    let mut npz = NpzWriter::create(place.path("in.npz")).expect("a file");
    array(&mut npz, "pixel_values", shape, pixels);
    if let Some(choices) = choices {
        array(&mut npz, "choices", &[10, 30], choices);
    }
}

#[test]
fn images_are_classified_and_their_choices_given_and_forced() {
    let place = adaptive("vit");
    let expected = golden("acm/vit/expected.npz");
    let (_, pixels) = tensor::<f32>(&expected, "pixel_values");
    let (plan, input, output) = (place.plan(), place.arg("in.npz"), place.arg("out.npz"));
    let forward = |budget: &str| {
        let args = ["--inputs", &input, "--outputs", &output, "--budget", budget, "--json"];
        limbeck([&["forward", &plan][..], &args[..]].concat())
    };
    write(&place, &IMAGE, &pixels, None);
    for (i, budget) in ["price:0", "price:1.6", "price:5"].into_iter().enumerate() {
        let report = forward(budget).json();
        assert_eq!(report["usage"]["tokens"], 30);
        let (shape, logits) = tensor::<f32>(&place.path("out.npz"), "logits");
        let (_, want) = tensor::<f32>(&expected, &format!("outputs_{i}"));
        assert_eq!(shape, [3, 10]);
        assert!(relative_error(&logits, &want) <= 1e-4, "{budget}");
        let (shape, found) = tensor::<i32>(&place.path("out.npz"), "choices");
        let (_, want) = tensor::<i64>(&expected, &format!("choices_{i}"));
        assert_eq!(shape, [10, 30]);
        assert!(found.iter().map(|k| i64::from(*k)).eq(want), "{budget}");
    }
    let (_, route) = tensor::<i64>(&expected, "choices_2");
    write(&place, &IMAGE, &pixels, Some(&route));
    forward("full").ok();
    let (_, logits) = tensor::<f32>(&place.path("out.npz"), "logits");
    let (_, want) = tensor::<f32>(&expected, "outputs_2");
    assert!(relative_error(&logits, &want) <= 1e-4);

    write(&place, &IMAGE, &pixels, Some(&[0; 300]));
    forward("full").fails(&["q_proj", "no choice 0"]);
    write(&place, &[3, 24, 24, 3], &pixels, None);
    forward("full").fails(&["pixel_values", "[batch, 3, 24, 24]"]);
    let mut broken = pixels.clone();
    broken[7] = f32::NAN;
    write(&place, &IMAGE, &broken, None);
    forward("full").fails(&["value 7", "NaN"]);
    place.npz::<i64>("in.npz", &[("pixel_values", &IMAGE, &[1; 5184])]);
    forward("full").fails(&["pixel_values", "f32"]);
    place.npz::<i64>("in.npz", &[("choices", &[10, 30], &[1; 300])]);
    forward("full").fails(&["\"pixel_values\""]);
}

#[test]
fn a_classifier_is_inspected_and_measured() {
    let place = adaptive("vit");
    let plan = place.plan();
    let text = limbeck(["inspect", &plan, "--verify"]).ok();
    for word in ["acm_vit, task classify", "10 tokens", "self_attention.q_proj", "choices 1..=2"] {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    assert_eq!(limbeck(["inspect", &plan, "--json"]).json()["manifest"]["task"], "classify");
    let args = ["bench", &plan, "--batch", "2", "-r", "1", "--budget", "price:1.6", "--json"];
    let report = limbeck(args).json();
    assert_eq!(report["prefill"]["tokens"], 10);
    assert!(report["prefill"]["tokens_per_second"].as_f64().is_some_and(|rate| rate > 0.0));
    assert!(report["usage"]["site_fraction"].as_f64().is_some_and(|f| f < 1.0));
    limbeck(["bench", &plan, "-r", "1"]).ok();
    limbeck(["embed", &plan]).fails(&["classifies images"]);
}

#[test]
fn an_adaptive_decoder_needs_no_tokenizer() {
    let place = adaptive("decoder");
    let plan = place.plan();
    let args =
        ["bench", &plan, "-p", "16", "-n", "4", "-r", "1", "--budget", "price:2.5", "--json"];
    let report = limbeck(args).json();
    assert!(report["usage"]["site_fraction"].as_f64().is_some_and(|f| f < 0.6), "{report}");
    place.npz::<i64>("in.npz", &[("input_ids", &[4], &[5, 6, 7, 8])]);
    let (input, output) = (place.arg("in.npz"), place.arg("out.npz"));
    limbeck(["forward", &plan, "--inputs", &input, "--outputs", &output]).ok();
    assert_eq!(tensor::<i32>(&place.path("out.npz"), "choices").0, [7, 4]);
    let folded = place.arg("folded.lbk");
    let source = golden("acm/decoder").display().to_string();
    limbeck(["compile", &source, "-o", &folded, "--fold-gates"]).ok();
    assert!(limbeck(["inspect", &folded]).ok().contains("mlp"));
}
