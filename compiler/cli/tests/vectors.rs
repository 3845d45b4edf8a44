//! `limbeck embed` and `limbeck forward`.

mod common;

use std::process::{Command, Stdio};

use common::{Place, acm, golden, limbeck, limbeck_with, tensor};
use limbeck_tests::relative_error;
use serde_json::Value;

fn embed(place: &Place, stdin: &[u8], more: &[&str]) -> common::Run {
    let plan = place.plan();
    limbeck_with([&["embed", &plan][..], more].concat(), stdin)
}

#[test]
fn each_line_becomes_a_vector() {
    let place = Place::encoder();
    let lines = embed(&place, b"a b\nab\n\nb", &[]).ok();
    let lines: Vec<Vec<f32>> =
        lines.lines().map(|l| serde_json::from_str(l).expect("a vector")).collect();
    // An empty line is a text too: it has its special tokens.
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|v| v.len() == 32));
    let report = embed(&place, b"a b\nab\n\nb", &["--json", "--batch", "3"]).json();
    let json: Vec<Vec<f32>> =
        serde_json::from_value(report["embeddings"].clone()).expect("vectors");
    assert_eq!(json, lines);
    assert!(report["usage"]["macs"].as_u64().is_some_and(|v| v > 0));
    // More words than positions are cut, which is said once.
    let long = format!("{}\n", "a ".repeat(500));
    let found = embed(&place, long.as_bytes(), &[]);
    assert_eq!(found.stderr, "limbeck: note: 1 line was cut at 40 tokens\n");
    assert_eq!(found.ok().lines().count(), 1);
    let found = embed(&place, format!("{long}a\n{long}").as_bytes(), &["--batch", "1", "--json"]);
    assert_eq!(found.stderr, "limbeck: note: 2 lines were cut at 40 tokens\n");
    assert_eq!(found.json()["cut_lines"], 2);
    // As many as there is room for are not.
    let full = "a ".repeat(38);
    assert_eq!(embed(&place, full.as_bytes(), &[]).stderr, "");
}

#[test]
fn a_latency_is_judged_by_a_single_call() {
    let encoder = Place::adaptive();
    let decoder = Place::golden("acm/decoder");
    decoder.write("student/tokenizer.json", common::tokenizer(7).to_string());
    decoder.compile().ok();
    decoder.write("text.txt", "ab c a b ".repeat(5));
    let (plan, file) = (decoder.plan(), decoder.arg("text.txt"));
    for (budget, met) in [("latency:1us", false), ("latency:60s", true)] {
        let report = embed(&encoder, b"a b\n", &["--budget", budget, "--json"]).json();
        assert_eq!(report["budget"]["met"], met, "{report}");
        let args = ["perplexity", &plan, "--file", &file, "--context", "32", "--json"];
        let report = limbeck([&args[..], &["--budget", budget]].concat()).json();
        assert_eq!((&report["tokens"], &report["budget"]["met"]), (&15.into(), &met.into()));
        let args = ["run", &plan, "--prompt", "ab", "--max-tokens", "1", "--json"];
        let report = limbeck([&args[..], &["--budget", budget]].concat()).json();
        assert_eq!(report["budget"]["met"], met, "{report}");
    }
}

#[test]
fn input_that_cannot_be_embedded_is_refused() {
    let place = Place::encoder();
    embed(&place, b"", &[]).fails(&["stdin"]);
    embed(&place, b"", &["--json"]).fails(&["stdin"]);
    embed(&place, b"\xff\xfe\n", &[]).fails(&["stdin", "UTF-8"]);
    let plan = place.plan();
    limbeck(["run", &plan, "--prompt", "a"]).fails(&["\"text\""]);
    limbeck(["chat", &plan]).fails(&["chat template"]);
    let text = Place::text();
    embed(&text, b"a\n", &[]).fails(&["\"embed\"", "continues text"]);
    let plain = Place::checkpoint("bert");
    plain.compile().ok();
    embed(&plain, b"a\n", &[]).fails(&["no tokenizer"]);
    limbeck(["bench", &plain.plan(), "-p", "8", "-r", "1", "--json"]).json();
}

/// Nobody reading is no failure, on either side.
#[test]
fn closed_pipes_are_no_failure() {
    let place = Place::encoder();
    let start = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_limbeck"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("a process")
    };
    let plan = place.plan();
    let mut child = start(&["embed", &plan]);
    drop(child.stdout.take());
    let lines = b"a b a b\n".repeat(200);
    let mut stdin = child.stdin.take().expect("stdin");
    // It may be gone before it has read everything.
    let _ = std::io::Write::write_all(&mut stdin, &lines);
    drop(stdin);
    let output = child.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");

    let mut child = start(&["inspect", "nowhere.lbk"]);
    drop(child.stderr.take());
    assert_eq!(child.wait().expect("an end").code(), Some(1));
}

fn forward(place: &Place, more: &[&str]) -> common::Run {
    let (plan, input, output) = (place.plan(), place.arg("in.npz"), place.arg("out.npz"));
    let args = ["forward", &plan, "--inputs", &input, "--outputs", &output];
    limbeck([&args[..], more].concat())
}

/// Expected values: `tests/golden/tiny_text.py`.
#[test]
fn a_decoder_gives_its_logits_for_ids_of_either_width() {
    let place = Place::checkpoint("llama");
    place.compile().ok();
    let expected = golden("tiny/llama/expected.npz");
    let (shape, ids) = tensor::<i64>(&expected, "input_ids");
    let (_, logits) = tensor::<f32>(&expected, "logits");
    let narrow: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    for chunk in ["256", "7"] {
        let mut found = Vec::new();
        place.npz("in.npz", &[("input_ids", &shape, &ids)]);
        let report = forward(&place, &["--kv", "f32", "--chunk", chunk, "--json"]).json();
        assert!(report["usage"]["macs"].as_u64().is_some_and(|v| v > 0));
        found.push(tensor::<f32>(&place.path("out.npz"), "logits"));
        place.npz("in.npz", &[("input_ids", &[1, shape[0]], &narrow)]);
        assert_eq!(forward(&place, &["--kv", "f32", "--chunk", chunk]).ok(), "");
        found.push(tensor::<f32>(&place.path("out.npz"), "logits"));
        for (shape, values) in found {
            assert_eq!(shape, [48, 256]);
            assert!(relative_error(&values, &logits) <= 1e-4);
        }
    }
}

/// What `inspect` says that `forward` takes and gives is what it takes and gives.
#[test]
fn the_names_of_forward_are_shown() {
    let (text, encoder) = (Place::text(), Place::adaptive());
    for (place, inputs, outputs) in [
        (&text, &["input_ids"][..], &["logits"][..]),
        (
            &encoder,
            &["attention_mask", "choices", "input_ids"],
            &["choices", "embedding", "last_hidden_state"],
        ),
    ] {
        let plan = place.plan();
        let shown = limbeck(["inspect", &plan, "--json"]).json();
        let names = |part: &str| -> Vec<String> {
            let names = shown["forward"][part].as_object().expect("names");
            names.keys().cloned().collect()
        };
        assert_eq!(names("inputs"), inputs);
        assert_eq!(names("outputs"), outputs);
        place.npz("in.npz", &[("input_ids", &[1, 3], &[1i64, 2, 3])]);
        let report = forward(place, &["--repeat", "3", "--json"]).json();
        assert!(report["median_ms"].as_f64().expect("a time") > 0.0, "{report}");
        let told = report["memory"]["resident_peak_bytes"].is_u64();
        assert!(told || !cfg!(target_os = "linux"), "{report}");
        let npz = npyz::npz::NpzArchive::<std::io::BufReader<_>>::open(place.path("out.npz"));
        let npz = npz.expect("an archive");
        let mut given: Vec<&str> = npz.array_names().collect();
        given.sort_unstable();
        assert_eq!(given, outputs);
        let text = limbeck(["inspect", &plan]).ok();
        assert!(outputs.iter().chain(inputs).all(|name| text.contains(name)), "{text}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_and_nothing_is_written() {
    let place = Place::checkpoint("llama");
    place.compile().ok();
    let fails = |words: &[&str]| {
        forward(&place, &[]).fails(words);
        assert!(!place.path("out.npz").exists());
    };
    place.npz::<i64>("in.npz", &[("ids", &[2], &[1, 2])]);
    fails(&["\"ids\"", "input_ids"]);
    place.npz::<i64>("in.npz", &[]);
    fails(&["\"input_ids\""]);
    place.npz::<i64>("in.npz", &[("input_ids", &[2, 2], &[1, 2, 3, 4])]);
    fails(&["input_ids", "[2, 2]"]);
    place.npz::<i64>("in.npz", &[("input_ids", &[0], &[])]);
    fails(&["at least one token"]);
    place.npz::<i64>("in.npz", &[("input_ids", &[], &[1])]);
    fails(&["input_ids"]);
    place.npz::<i64>("in.npz", &[("input_ids", &[2], &[1, -1])]);
    fails(&["-1"]);
    place.npz::<i64>("in.npz", &[("input_ids", &[2], &[1, i64::MAX])]);
    fails(&["9223372036854775807"]);
    place.npz::<i64>("in.npz", &[("input_ids", &[2], &[1, 256])]);
    fails(&["256"]);
    place.npz::<i64>("in.npz", &[("input_ids", &[129], &[1; 129])]);
    fails(&["beyond the context of 128"]);
    place.npz::<f32>("in.npz", &[("input_ids", &[2], &[1.0, 2.0])]);
    fails(&["input_ids", "f32"]);
    place.npz::<i64>("in.npz", &[("input_ids", &[2], &[1, 2])]);
    forward(&place, &["--entry", "sing"]).fails(&["\"sing\""]);
    place.write("in.npz", b"not an archive");
    fails(&["in.npz"]);
    std::fs::remove_file(place.path("in.npz")).expect("removed");
    fails(&["in.npz", "No such file"]);
    std::fs::create_dir(place.path("in.npz")).expect("a folder");
    fails(&["in.npz", "not a file"]);
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_cannot_be_written_are_a_failure() {
    let place = Place::checkpoint("llama");
    place.compile().ok();
    place.npz::<i64>("in.npz", &[("input_ids", &[2], &[1, 2])]);
    let (plan, input) = (place.plan(), place.arg("in.npz"));
    let to = |output: &str| limbeck(["forward", &plan, "--inputs", &input, "--outputs", output]);
    to("/dev/full").fails(&["/dev/full", "No space"]);
    to(&place.arg("nowhere/out.npz")).fails(&["nowhere"]);
}

struct Batch {
    tokens: usize,
    ids: Vec<i64>,
    mask: Vec<i64>,
}

impl Batch {
    fn golden() -> (Batch, Vec<f32>, Vec<f32>) {
        let file = golden("tiny/bert/expected.npz");
        let (shape, ids) = tensor::<i64>(&file, "input_ids");
        let (_, mask) = tensor::<i64>(&file, "attention_mask");
        let hidden = tensor::<f32>(&file, "last_hidden_state").1;
        let embedding = tensor::<f32>(&file, "embedding").1;
        (Batch { tokens: shape[1] as usize, ids, mask }, hidden, embedding)
    }

    fn run(&self, place: &Place) -> (Vec<f32>, Vec<f32>) {
        let shape = [(self.ids.len() / self.tokens) as u64, self.tokens as u64];
        let tensors =
            [("input_ids", &shape[..], &self.ids[..]), ("attention_mask", &shape, &self.mask)];
        place.npz("in.npz", &tensors);
        forward(place, &[]).ok();
        let (size, hidden) = tensor::<f32>(&place.path("out.npz"), "last_hidden_state");
        assert_eq!(size, [shape[0], shape[1], 32]);
        (hidden, tensor::<f32>(&place.path("out.npz"), "embedding").1)
    }

    /// Only the rows that count: the golden has zeros in the others.
    fn valid(&self, hidden: &[f32]) -> Vec<f32> {
        let rows = hidden.chunks(32).zip(&self.mask).filter(|(_, m)| **m == 1);
        rows.flat_map(|(row, _)| row.to_vec()).collect()
    }
}

/// Expected values: `tests/golden/tiny_text.py`.
#[test]
fn an_encoder_takes_padding_on_the_right_or_none() {
    let place = Place::encoder();
    let (batch, hidden, embedding) = Batch::golden();
    let (found_hidden, found_embedding) = batch.run(&place);
    assert!(relative_error(&batch.valid(&found_hidden), &batch.valid(&hidden)) <= 1e-4);
    assert!(relative_error(&found_embedding, &embedding) <= 1e-4);
    for (row, valid) in [(0, 20), (1, 7), (2, 13)] {
        let ids = batch.ids[row * 20..][..valid].to_vec();
        let place_of = |size: usize| row * size..(row + 1) * size;
        // Without a mask every token counts.
        place.npz("in.npz", &[("input_ids", &[1, valid as u64], &ids)]);
        forward(&place, &[]).ok();
        let found = tensor::<f32>(&place.path("out.npz"), "embedding").1;
        assert!(relative_error(&found, &embedding[place_of(32)]) <= 1e-4);
        let found = tensor::<f32>(&place.path("out.npz"), "last_hidden_state").1;
        assert!(relative_error(&found, &hidden[place_of(640)][..valid * 32]) <= 1e-4);
    }
}

/// Tokens keep the positions at which they stand. Expected values: transformers' `BertModel` on
/// the golden's rows moved to the right.
#[test]
fn an_encoder_takes_padding_on_the_left() {
    let place = Place::encoder();
    let (right, _, _) = Batch::golden();
    let mut left = Batch { ids: vec![0; 60], mask: vec![0; 60], tokens: 20 };
    for (row, valid) in [(0, 20), (1, 7), (2, 13)] {
        let (from, to) = (row * 20, (row + 1) * 20 - valid);
        left.ids[to..to + valid].copy_from_slice(&right.ids[from..from + valid]);
        left.mask[to..to + valid].fill(1);
    }
    let (hidden, embedding) = left.run(&place);
    for (row, expected) in [
        (
            1,
            [
                0.01234346,
                -0.01663932,
                0.13522562,
                -0.3945753,
                0.0478139,
                -0.00876961,
                -0.18930805,
                -0.32586312,
            ],
        ),
        (
            2,
            [
                -0.05156707,
                -0.02393476,
                0.05173063,
                -0.31414863,
                0.1893671,
                0.01730965,
                -0.0371984,
                -0.32865527,
            ],
        ),
    ] {
        let error = relative_error(&embedding[row * 32..][..8], &expected);
        assert!(error <= 1e-4, "row {row}: {error}");
    }
    let first = &hidden[(20 + 13) * 32..][..4];
    assert!(relative_error(first, &[0.5119657, -0.44709653, 0.6019983, -2.2398653]) <= 1e-4);
    // What stands in the padding is not seen.
    left.ids.iter_mut().zip(&left.mask).for_each(|(id, m)| *id = if *m == 0 { 99 } else { *id });
    assert_eq!(left.run(&place).1, embedding);
}

#[test]
fn an_encoder_refuses_batches_that_do_not_fit() {
    let place = Place::encoder();
    place.npz::<i64>("in.npz", &[("input_ids", &[2], &[1, 2])]);
    forward(&place, &[]).fails(&["input_ids", "[2]"]);
    place.npz::<i64>(
        "in.npz",
        &[("input_ids", &[1, 2], &[1, 2]), ("attention_mask", &[2, 1], &[1, 1])],
    );
    forward(&place, &[]).fails(&["attention_mask", "[2, 1]"]);
    place.npz::<i64>(
        "in.npz",
        &[("input_ids", &[2, 2], &[1, 2, 3, 4]), ("attention_mask", &[2, 2], &[1, 1, 0, 0])],
    );
    forward(&place, &[]).fails(&["sequence 1", "no tokens"]);
    place.npz::<i64>("in.npz", &[("attention_mask", &[1, 2], &[1, 1])]);
    forward(&place, &[]).fails(&["\"input_ids\""]);
    place.npz::<i64>("in.npz", &[("input_ids", &[1, 2], &[1, 200])]);
    forward(&place, &[]).fails(&["token 200", "200"]);
    place.npz::<i64>("in.npz", &[("input_ids", &[1, 41], &[1; 41])]);
    forward(&place, &[]).fails(&["beyond the context of 40"]);
    place.npz::<i64>("in.npz", &[("input_ids", &[2, 0], &[])]);
    forward(&place, &[]).fails(&["input_ids", "it holds no tokens"]);
    assert!(!place.path("out.npz").exists());
    place.npz::<i64>("in.npz", &[("input_ids", &[0, 2], &[])]);
    forward(&place, &[]).fails(&["no sequence"]);
}

#[test]
fn devices_are_listed() {
    let report = limbeck(["devices", "--json"]).json();
    let devices = report["devices"].as_array().expect("devices").clone();
    assert!(devices.iter().any(|d| d["backend"] == "cpu"));
    assert!(devices.iter().all(|d| d["description"].as_str().is_some_and(|t| !t.is_empty())));
    assert!(matches!(report, Value::Object(_)));
    let adapters: Vec<_> = devices.iter().filter(|d| d["backend"] == "wgpu").collect();
    let chosen: Vec<_> = adapters.iter().filter(|d| d["chosen"] == true).collect();
    assert_eq!(chosen.len(), usize::from(!adapters.is_empty()), "{adapters:?}");
    let software = |d: &Value| d["kind"] == "software";
    let others = adapters.iter().any(|d| !software(d));
    assert!(!chosen.iter().any(|d| software(d) && others), "software goes before: {adapters:?}");
    assert!(adapters.iter().all(|d| d["reason"].as_str().is_some_and(|t| !t.is_empty())));
    let named = std::env::var_os("LIMBECK_ADAPTER").is_some_and(|name| !name.is_empty());
    let first = if others || named { "wgpu" } else { "cpu" };
    assert_eq!(report["auto"], first);
    assert!(limbeck(["devices"]).ok().ends_with(&format!("auto  takes {first}\n")));
}

#[test]
fn an_adapter_that_is_not_there_is_refused() {
    let place = Place::encoder();
    let (plan, lacking) = (place.plan(), "no such adapter");
    for backend in ["auto", "wgpu"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_limbeck"));
        command.args(["embed", &plan, "--backend", backend]).env("LIMBECK_ADAPTER", lacking);
        let found = common::run(command, b"a\n");
        assert_eq!((found.status, found.stdout.as_str()), (Some(1), ""), "{found:?}");
        // Drivers write to stderr too.
        let told = found.stderr.lines().filter(|line| line.starts_with("limbeck: "));
        let told: Vec<_> = told.collect();
        assert!(told.len() == 1 && told[0].contains("LIMBECK_ADAPTER"), "{found:?}");
        assert!(told[0].contains(lacking), "{found:?}");
    }
}

#[test]
fn choices_are_given_follow_the_price_and_can_be_forced() {
    let place = Place::checkpoint("bert");
    acm(&place);
    let ids: (&str, &[u64], &[i64]) = ("input_ids", &[2, 3], &[5, 6, 7, 8, 0, 9]);
    let mask: (&str, &[u64], &[i64]) = ("attention_mask", &[2, 3], &[1, 1, 1, 1, 0, 1]);
    place.npz::<i64>("in.npz", &[ids, mask]);
    let (plan, output) = (place.plan(), place.arg("out.npz"));
    let forward = |input: &str, budget: &str| {
        let input = place.arg(input);
        let args = ["--inputs", &input, "--outputs", &output, "--budget", budget, "--json"];
        limbeck([&["forward", &plan][..], &args[..]].concat())
    };
    let choices = || tensor::<i32>(&place.path("out.npz"), "choices");
    // Gains are -1, -exp(-2) and -exp(-4): the second learner is worth 0.117, both 0.98.
    for (budget, choice, fraction) in
        [("full", 2, 1.0), ("price:0.2", 2, 1.0), ("price:0.3", 1, 0.5), ("price:9", 0, 0.0)]
    {
        let report = forward("in.npz", budget).json();
        assert_eq!(report["usage"]["site_fraction"], fraction, "{budget}");
        assert_eq!(report["usage"]["sites"][1]["histogram"][choice as usize], 6, "{budget}");
        let row = [choice, choice, choice, choice, -1, choice];
        assert_eq!(choices(), (vec![2, 6], [row, row].concat()), "{budget}");
    }
    let forced: [i64; 12] = [0, 1, 2, -1, -1, 1, 2, 2, 0, 0, -1, 0];
    place.npz::<i64>("forced.npz", &[ids, mask, ("choices", &[2, 6], &forced)]);
    forward("forced.npz", "full").ok();
    assert_eq!(choices().1, [0, 1, 2, 2, -1, 1, 2, 2, 0, 0, -1, 0]);
    place.npz::<i64>("bad.npz", &[ids, mask, ("choices", &[2, 6], &[3; 12])]);
    forward("bad.npz", "full").fails(&["layers.0.acm", "3", "0..=2"]);
    place.npz::<i64>("shape.npz", &[ids, mask, ("choices", &[6, 2], &forced)]);
    forward("shape.npz", "full").fails(&["choices", "[6, 2]"]);
    assert!(limbeck(["inspect", &plan]).ok().contains("layers.1.acm"));
    // A dense plan has none to give or take.
    place.compile().ok();
    forward("forced.npz", "full").fails(&["choices"]);
}

/// An archive with one tensor of this header and no data.
fn write_header(place: &Place, file: &str, header: &str) {
    use std::io::Write;
    let mut array = b"\x93NUMPY\x02\x00".to_vec();
    array.extend((header.len() as u32).to_le_bytes());
    array.extend(header.as_bytes());
    let mut zip = npyz::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("input_ids.npy", Default::default()).expect("an entry");
    zip.write_all(&array).expect("a header");
    place.write(file, zip.finish().expect("an archive").into_inner());
}

#[test]
fn headers_of_tensors_are_not_trusted() {
    let place = Place::encoder();
    let run = |header: &str| {
        write_header(&place, "in.npz", header);
        let (plan, inputs) = (place.plan(), place.arg("in.npz"));
        limbeck(["forward", &plan, "--inputs", &inputs, "--outputs", &place.arg("out.npz")])
    };
    let with_shape =
        |shape: &str| format!("{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}\n");
    for shape in ["(4611686018427387904, 0)", "(1073741824, 0)", "(0, 1099511627776)"] {
        run(&with_shape(shape)).fails(&["input_ids", "too large"]);
    }
    for (shape, what) in [("(3, 0)", "tokens"), ("(0, 3)", "sequence")] {
        run(&with_shape(shape)).fails(&["input_ids", "holds no", what]);
    }
    // A parser that tries every way through these would take days.
    for bracket in ["{", "[", "("] {
        let start = std::time::Instant::now();
        run(&bracket.repeat(40)).fails(&["input_ids", "header"]);
        run(&bracket.repeat(40_000)).fails(&["input_ids", "header"]);
        assert!(start.elapsed().as_secs() < 10);
    }
}

#[test]
fn results_do_not_take_the_place_of_plans() {
    let place = Place::encoder();
    place.npz("in.npz", &[("input_ids", &[1, 3], &[1i64, 2, 3])]);
    let (plan, before) = (place.plan(), place.read("student.lbk"));
    let inputs = place.arg("in.npz");
    limbeck(["forward", &plan, "--inputs", &inputs, "--outputs", &plan]).fails(&["is a plan"]);
    assert_eq!(place.read("student.lbk"), before);
}
