//! Image classifiers and adaptive decoders on the command line, without a tokenizer.

mod common;

use common::{Place, Run, array, golden, limbeck, numbers, stored_table, tensor};
use limbeck_tests::relative_error;
use npyz::npz::NpzWriter;

const IMAGE: [u64; 4] = [3, 3, 24, 24];

/// The plan of an adaptive golden in `student.lbk`.
fn adaptive(name: &str) -> Place {
    let place = Place::empty();
    let source = golden("acm").join(name).display().to_string();
    limbeck(["compile", &source, "-o", &place.plan(), "--quant", "f32"]).ok();
    place
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

/// The gates of this student spend three quarters of its compute at price 0.
#[test]
fn a_floor_above_what_the_student_spends_is_unmet() {
    let place = adaptive("vit");
    let (plan, input, output) = (place.plan(), place.arg("in.npz"), place.arg("out.npz"));
    let (_, pixels) = tensor::<f32>(&golden("acm/vit/expected.npz"), "pixel_values");
    write(&place, &IMAGE, &pixels, None);
    for (floor, met, reason) in [("0.9", false, "below_floor"), ("0.5", true, "")] {
        for budget in ["full", "price:0"] {
            let args = ["--inputs", &input, "--outputs", &output, "--json", "--floor", floor];
            let found = limbeck([&["forward", &plan, "--budget", budget][..], &args].concat());
            assert_eq!(found.stderr.contains("spends less than the floor"), !met, "{found:?}");
            let report = found.json();
            assert_eq!(report["budget"]["met"], met, "{budget} {floor}");
            assert_eq!(report["budget"]["unmet"].as_str().unwrap_or(""), reason);
        }
    }
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
fn a_convolutional_classifier_goes_from_checkpoint_to_logits() {
    let place = Place::empty();
    let source = golden("resnet/odd").display().to_string();
    let plan = place.plan();
    let compile = |more: &[&str]| {
        let args = ["compile", &source, "-o", &plan, "--quant", "f32"];
        limbeck([&args[..], more].concat())
    };
    for bad in ["0", "27x", "x", "27x35x1", "1x-3"] {
        compile(&["--image-size", bad]).usage(&["--image-size", "HEIGHTxWIDTH"]);
    }
    compile(&["--image-size", "40"]).ok();
    let expected = golden("resnet/odd/expected.npz");
    let (shape, pixels) = tensor::<f32>(&expected, "pixel_values");
    write(&place, &shape, &pixels, None);
    let (input, output) = (place.arg("in.npz"), place.arg("out.npz"));
    let forward =
        || limbeck(["forward", &plan, "--inputs", &input, "--outputs", &output, "--json"]);
    forward().fails(&["pixel_values", "[batch, 1, 40, 40]"]);
    compile(&[]).ok();
    assert_eq!(forward().json()["usage"]["tokens"], 3);
    let (shape, logits) = tensor::<f32>(&place.path("out.npz"), "logits");
    let (_, want) = tensor::<f32>(&expected, "logits");
    assert_eq!(shape, [3, 7]);
    assert!(relative_error(&logits, &want) <= 1e-4);
    let text = limbeck(["inspect", &plan, "--verify"]).ok();
    assert!(text.contains("resnet, task classify"), "{text}");
    let report = limbeck(["bench", &plan, "--batch", "2", "-r", "1", "--json"]).json();
    assert_eq!(report["prefill"]["tokens"], 1);
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

/// A file of images for `tune`, with labels where they are given.
fn data(place: &Place, shape: &[u64], pixels: &[f32], labels: Option<&[i32]>) {
    let mut npz = NpzWriter::create(place.path("in.npz")).expect("a file");
    array(&mut npz, "pixel_values", shape, pixels);
    if let Some(labels) = labels {
        array(&mut npz, "labels", &[labels.len() as u64], labels);
    }
}

fn tune(place: &Place, more: &[&str]) -> Run {
    let (plan, data) = (place.plan(), place.arg("in.npz"));
    limbeck([&["tune", &plan, "--data", &data][..], more].concat())
}

/// The classes that PyTorch finds at the golden's prices are the labels: accuracy is 1 where the
/// table comes by that price, and agreement with price 0 falls.
#[test]
fn a_classifier_is_tuned_on_labelled_images() {
    let place = adaptive("vit");
    let expected = golden("acm/vit/expected.npz");
    let (_, pixels) = tensor::<f32>(&expected, "pixel_values");
    let top = |i: usize| -> Vec<i32> {
        let (_, logits) = tensor::<f32>(&expected, &format!("outputs_{i}"));
        let by_value = |a: &(i32, &f32), b: &(i32, &f32)| a.1.total_cmp(b.1);
        let rows = logits.chunks_exact(10);
        rows.map(|row| (0..).zip(row).max_by(by_value).expect("a class").0).collect()
    };
    let (full, less) = (top(0), top(1));
    let same = full.iter().zip(&less).filter(|(a, b)| a == b).count();
    assert!(same < 3, "the golden's classes do not move");
    let tuned = place.arg("tuned.lbk");
    let tune = |labels: &[i32]| {
        data(&place, &IMAGE, &pixels, Some(labels));
        let report = tune(&place, &["-o", &tuned, "--json"]).json();
        assert_eq!(report["calibration"]["quality"], "accuracy");
        let agreement = numbers(&report["calibration"], "agreement");
        (stored_table(&report, &tuned, &["agreement"]), agreement)
    };
    let (table, agreement) = tune(&full);
    let (prices, quality) = (numbers(&table, "price"), numbers(&table, "quality"));
    assert_eq!((table["tokens"].as_u64(), prices[0], quality[0]), (Some(30), 0.0, 1.0));
    assert_eq!(quality, agreement);
    let (table, agreement) = tune(&less);
    let (prices, quality) = (numbers(&table, "price"), numbers(&table, "quality"));
    assert_eq!(quality[0], same as f64 / 3.0);
    assert_eq!(agreement[0], 1.0);
    let after = prices.iter().position(|price| *price > 1.6).expect("a price above the golden's");
    assert_eq!(quality[after - 1..=after], [1.0, 1.0], "{table}");

    // Each price spends what `forward` spends at it.
    let fractions = numbers(&table, "fraction");
    assert!(fractions.is_sorted_by(|a, b| a >= b) && fractions[15] < fractions[0] * 0.9);
    write(&place, &IMAGE, &pixels, None);
    let spent = |plan: &str, budget: &str| {
        let (input, output) = (place.arg("in.npz"), place.arg("out.npz"));
        let files = ["--inputs", &input, "--outputs", &output];
        let args = [&["forward", plan, "--budget", budget, "--json"][..], &files].concat();
        limbeck(args).json()["usage"]["fraction"].as_f64().expect("a fraction")
    };
    for i in [0, 7, 15] {
        assert_eq!(spent(&place.plan(), &format!("price:{}", prices[i])), fractions[i]);
    }
    // A fraction is met by the table at once, and missed without it.
    let (mut plain, mut off) = (0.0, 0.0);
    for target in [0.7, 0.65, 0.6] {
        let error = |plan: &str| (spent(plan, &target.to_string()) / target - 1.0).abs();
        (plain, off) = (plain + error(&place.plan()), off + error(&tuned));
    }
    assert!(off < 0.06 && off < plain / 2.0, "{off} with the table, {plain} without");
}

#[test]
fn a_classifier_is_tuned_without_labels_in_place() {
    let place = adaptive("vit");
    let (_, pixels) = tensor::<f32>(&golden("acm/vit/expected.npz"), "pixel_values");
    data(&place, &IMAGE, &pixels, None);
    let plot = place.arg("plot.svg");
    let report = tune(&place, &["--plot", &plot, "--json"]).json();
    let table = stored_table(&report, &place.plan(), &[]);
    assert_eq!(table["quality"], "agreement");
    assert_eq!(numbers(&table, "quality")[0], 1.0);
    roxmltree::Document::parse(&String::from_utf8(place.read("plot.svg")).expect("text"))
        .expect("XML");
    assert!(limbeck(["inspect", &place.plan()]).ok().contains("agreement on \"in.npz\""));
    // Two of the images, and the weights of the sites fitted to them.
    let report =
        tune(&place, &["--max-tokens", "29", "--search", "--search-rounds", "1", "--json"]);
    let report = report.json();
    assert_eq!(stored_table(&report, &place.plan(), &[])["tokens"], 20);
    assert_eq!(report["search"]["sites"].as_array().map(Vec::len), Some(10));
}

#[test]
fn images_that_cannot_be_tuned_on_are_refused_and_the_plan_stays() {
    let place = adaptive("vit");
    let before = place.read("student.lbk");
    let (_, pixels) = tensor::<f32>(&golden("acm/vit/expected.npz"), "pixel_values");
    let refused = |words: &[&str]| tune(&place, &[]).fails(words);
    refused(&["in.npz", "No such file"]);
    place.write("in.npz", "no archive");
    refused(&["in.npz", "archive"]);
    for shape in [&[3, 24, 24, 3][..], &[3, 3, 12, 48], &[9, 24, 24], &[1, 3, 3, 24, 24]] {
        data(&place, shape, &pixels, None);
        refused(&["in.npz", "pixel_values", "[batch, 3, 24, 24]"]);
    }
    data(&place, &[0, 3, 24, 24], &[], None);
    refused(&["pixel_values", "no image"]);
    data(&place, &[0, 3, 24, 24], &[], Some(&[]));
    refused(&["pixel_values", "no image"]);
    for value in [f32::NAN, f32::INFINITY] {
        let mut broken = pixels.clone();
        broken[2 * 1728 + 5] = value;
        data(&place, &IMAGE, &broken, None);
        refused(&["pixel_values", "value 5 of image 2", &value.to_string()]);
    }
    for (labels, word) in [(&[1, 10, 2][..], "10 of image 1"), (&[1, 2, -1], "-1 of image 2")] {
        data(&place, &IMAGE, &pixels, Some(labels));
        refused(&["labels", word, "10 classes"]);
    }
    data(&place, &IMAGE, &pixels, Some(&[1, 2]));
    refused(&["labels", "[2]", "[3]"]);
    data(&place, &IMAGE, &pixels, Some(&[1, 2, 3]));
    tune(&place, &["--max-tokens", "9"]).fails(&["--max-tokens", "10 tokens"]);
    write(&place, &IMAGE, &pixels, Some(&[1; 300]));
    refused(&["choices", "labels"]);
    place.npz::<i64>("in.npz", &[("pixel_values", &IMAGE, &[1; 5184])]);
    refused(&["pixel_values", "f32"]);
    place.npz::<f32>("in.npz", &[("pixel_values", &IMAGE, &pixels), ("labels", &[3], &[1.0; 3])]);
    refused(&["labels", "i64"]);
    place.npz::<i64>("in.npz", &[("labels", &[3], &[1; 3])]);
    refused(&["no tensor", "pixel_values"]);
    assert_eq!(place.read("student.lbk"), before);

    let dense = adaptive("vit_dense");
    data(&dense, &IMAGE, &pixels, None);
    tune(&dense, &[]).fails(&["no site"]);
    tune(&dense, &["--sparsity", "-o", &dense.arg("o.lbk")]).fails(&["continues text"]);
}
