//! `limbeck run`, `chat`, `perplexity` and `bench` on a text student.

mod common;

use common::{Place, limbeck, limbeck_with};
use serde_json::{Value, json};

fn run(place: &Place, more: &[&str]) -> common::Run {
    let plan = place.plan();
    limbeck([&["run", &plan][..], more].concat())
}

/// Every count of a usage, in the place and of the kind that reports promise.
fn check_usage(report: &Value) {
    let usage = &report["usage"];
    assert!(usage["macs"].as_u64().is_some_and(|v| v > 0), "{usage}");
    assert!(usage["bytes"].as_u64().is_some_and(|v| v > 0), "{usage}");
    assert_eq!(usage["fraction"], 1.0, "{usage}");
    assert!(usage.get("site_fraction").is_some_and(Value::is_null), "{usage}");
    assert!(usage["ms"].as_f64().is_some_and(|v| v > 0.0), "{usage}");
    assert!(usage["sites"].as_array().is_some_and(Vec::is_empty), "{usage}");
}

#[test]
fn a_continuation_is_reported_in_json() {
    let place = Place::text();
    let args = ["--prompt", "abc a", "--max-tokens", "5", "--json"];
    let report = run(&place, &args).json();
    assert_eq!(report["tokens"].as_array().map(Vec::len), Some(5));
    assert_eq!(report["finish"], "max_tokens");
    // ab, c, space, a.
    assert_eq!(report["prefill"]["tokens"], 4);
    assert_eq!(report["budget"]["requested"], "full");
    check_usage(&report);
    assert_eq!(run(&place, &args).json()["tokens"], report["tokens"]);

    let equal = run(&place, &[&args[..], &["--samples", "2"]].concat());
    assert!(equal.stderr.contains("samples are equal"), "{equal:?}");
    let samples = [&args[..], &["--samples", "3", "--temp", "1", "--seed", "7"]].concat();
    let report = run(&place, &samples);
    assert!(!report.stderr.contains("equal"), "{report:?}");
    let report = report.json();
    let samples = report["samples"].as_array().expect("samples").clone();
    assert_eq!(samples.len(), 3);
    assert!(
        samples[0]["tokens"] != samples[1]["tokens"]
            || samples[1]["tokens"] != samples[2]["tokens"]
    );
}

#[test]
fn prompts_that_cannot_be_run_are_refused() {
    let place = Place::text();
    run(&place, &["--prompt", ""]).fails(&["prompt is empty"]);
    run(&place, &["--prompt", &"a b ".repeat(200)]).fails(&["beyond the context of 128"]);
    run(&place, &["--prompt", "a", "--image", "x.png"]).fails(&["--image x.png"]);
    run(&place, &["--prompt", "a", "--backend", "abacus"]).usage(&["abacus"]);
    run(&place, &["--prompt", "a", "--chat"]).fails(&["chat template"]);
    run(&place, &[]).usage(&["--prompt"]);
    let huge = usize::MAX.to_string();
    run(&place, &["--prompt", "a b", "--max-tokens", &huge, "--json"]).json();
}

#[test]
fn every_budget_is_accepted_on_a_dense_plan_and_reported() {
    let place = Place::text();
    for (budget, met) in [
        ("full", true),
        ("1", true),
        ("0.6", false),
        ("price:0", true),
        ("price:0.02", true),
        ("latency:8ms", false),
        ("latency:250us", false),
        ("deadline:400ms", false),
        ("deadline:2s", false),
    ] {
        let args = ["--prompt", "a", "--max-tokens", "1", "--json", "--budget", budget];
        let found = run(&place, &args);
        assert_eq!(found.stderr.contains("is not met"), !met, "{budget}: {found:?}");
        let report = found.json();
        assert_eq!(report["budget"]["requested"], budget);
        assert_eq!(report["budget"]["met"], met, "{budget}");
        let reason = if met { Value::Null } else { "dense".into() };
        assert_eq!(report["budget"]["unmet"], reason, "{budget}");
    }
    for budget in [
        "NaN",
        "-1",
        "0",
        "1.5",
        "inf",
        "price:-1",
        "price:NaN",
        "latency:0ms",
        "latency:8",
        "deadline:",
        "speed:9",
        "",
    ] {
        run(&place, &["--prompt", "a", &format!("--budget={budget}")]).usage(&["budget"]);
    }
    run(&place, &["--prompt", "a", "--floor", "0.9", "--ceiling", "0.1"]).usage(&["floor 0.9"]);
}

/// Whatever the plan: what is asked for cannot be meant. A file that fails is another matter.
#[test]
fn values_out_of_range_are_wrong_usage() {
    for (option, values) in [
        ("--kv", &["q4", "f8", ""][..]),
        ("--threads", &["257", "100000", "-1", "many"]),
        ("--backend", &["abacus", ""]),
        ("--floor", &["NaN", "-0.1", "1.1"]),
        ("--ceiling", &["NaN", "-0.1", "1.1"]),
        ("--budget", &["foo", "1.01"]),
        ("--samples", &["0", "1025", "99999999999"]),
        ("--temp", &["-1", "NaN", "inf"]),
        ("--top-p", &["0", "2", "NaN"]),
        ("--min-p", &["-1", "2"]),
        ("--repetition-penalty", &["0", "NaN"]),
        ("--presence-penalty", &["inf"]),
        ("--stop", &[""]),
    ] {
        for value in values {
            let given = format!("{option}={value}");
            limbeck(["run", "nowhere.lbk", "--prompt", "a", &given]).usage(&[option]);
        }
    }
    for (command, more, option, values) in [
        ("embed", "", "--batch", &["0"][..]),
        ("perplexity", "--file=a.txt", "--context", &["0", "3"]),
        ("forward", "--inputs=i.npz --outputs=o.npz", "--chunk", &["0", "65537"]),
        ("forward", "--inputs=i.npz --outputs=o.npz", "--repeat", &["0"]),
        ("bench", "", "-p", &["0"]),
        ("bench", "", "--batch", &["0", "1025"]),
        ("bench", "", "-r", &["0"]),
        ("tune", "--data=a.txt", "--prices", &["0", "11", "4097"]),
        ("tune", "--data=a.txt", "--context", &["0"]),
        ("tune", "--data=a.txt", "--max-tokens", &["0"]),
        ("tune", "--data=a.txt", "--kv", &["q4"]),
        ("tune", "--data=a.txt", "--backend", &["abacus"]),
        ("tune", "--data=a.txt", "--threads", &["257"]),
    ] {
        for value in values {
            let given = [option, value];
            let args = [command, "nowhere.lbk"].into_iter().chain(more.split_whitespace());
            limbeck(args.chain(given)).usage(&[option]);
        }
    }
    limbeck(["bench"]).usage(&["PLAN"]);
    limbeck(["bench", "--kernels", "nowhere.lbk"]).usage(&["--kernels", "PLAN"]);
    limbeck(["bench", "--kernels", "--batch", "2"]).usage(&["--kernels", "--batch"]);
    limbeck(["run", "nowhere.lbk", "--prompt", "a"]).fails(&["nowhere.lbk"]);
    // As many threads as there are cores.
    run(&Place::text(), &["--prompt", "a", "--threads", "0", "--max-tokens", "1"]).ok();
}

#[test]
fn perplexity_is_reported_in_json() {
    let place = Place::text();
    let (plan, file) = (place.plan(), place.arg("text.txt"));
    place.write("text.txt", "ab c a b ".repeat(40));
    let args = ["perplexity", &plan, "--file", &file, "--context", "32", "--json"];
    let report = limbeck(args).json();
    assert!(report["perplexity"].as_f64().is_some_and(|p| p > 1.0), "{report}");
    // Of each window the second half but its first token is scored.
    assert!(report["tokens"].as_u64().is_some_and(|n| n > 0 && n % 15 == 0), "{report}");
    check_usage(&report);
    assert!(limbeck(&args[..6]).ok().starts_with("perplexity "));

    let perplexity =
        |context: &str| limbeck(["perplexity", &plan, "--file", &file, "--context", context]);
    perplexity("129").fails(&["129", "128"]);
    perplexity(&usize::MAX.to_string()).fails(&["do not fill"]);
    place.write("text.txt", "");
    perplexity("32").fails(&["text.txt", "do not fill"]);
    place.write("text.txt", b"abc \xff\xfe");
    perplexity("32").fails(&["text.txt", "utf-8"]);
    let missing = place.arg("nowhere.txt");
    limbeck(["perplexity", &plan, "--file", &missing]).fails(&["nowhere.txt", "No such file"]);
}

#[test]
fn speed_is_reported_in_json() {
    let place = Place::text();
    let plan = place.plan();
    let args = ["bench", &plan, "-p", "16", "-n", "4", "-r", "1", "--json"];
    let report = limbeck(args).json();
    for part in ["prefill", "decode"] {
        assert!(report[part]["tokens_per_second"].as_f64().is_some_and(|v| v > 0.0), "{report}");
    }
    assert_eq!(report["prefill"]["tokens"], 16);
    check_usage(&report);
    assert!(limbeck(&args[..8]).ok().contains("tokens/s"));
    assert!(report["ceilings"].is_null(), "{report}");
    for number in [&report["prefill"]["ops_per_second"], &report["decode"]["bytes_per_second"]] {
        assert!(number.as_f64().is_some_and(|v| v > 0.0), "{report}");
    }
    let report = limbeck([&args[..], &["--ceilings"]].concat()).json();
    for ceiling in ["read_bytes_per_second", "f32_ops_per_second", "int8_ops_per_second"] {
        assert!(report["ceilings"][ceiling].as_f64().is_some_and(|v| v > 0.0), "{report}");
    }
    // Of a GPU there is one.
    let devices = limbeck(["devices", "--json"]).json()["devices"].clone();
    if devices.as_array().is_some_and(|list| list.iter().any(|d| d["backend"] == "wgpu")) {
        let args = [&args[..], &["--ceilings", "--backend", "wgpu"]].concat();
        let ceilings = &limbeck(&args).json()["ceilings"];
        assert!(ceilings["read_bytes_per_second"].as_f64().is_some_and(|v| v > 0.0), "{ceilings}");
        assert_eq!(ceilings.as_object().map(|c| c.len()), Some(1), "{ceilings}");
        let told = limbeck(args.iter().filter(|a| **a != "--json")).ok();
        assert!(told.contains("of what memory gives"), "{told}");
    }

    let huge = usize::MAX.to_string();
    limbeck(["bench", &plan]).fails(&["beyond the context of 128"]);
    limbeck(["bench", &plan, "-p", &huge, "-n", &huge]).fails(&["beyond the context"]);
}

#[test]
fn a_conversation_needs_a_template_and_text() {
    let place = Place::checkpoint("llama");
    place.write("student/tokenizer.json", common::tokenizer(7).to_string());
    place.write(
        "student/chat_template.jinja",
        "{% for m in messages %}{{ m.content }} {% endfor %}",
    );
    place.compile().ok();
    let plan = place.plan();
    let chat = |stdin: &[u8]| limbeck_with(["chat", &plan, "--max-tokens", "3", "--json"], stdin);
    let none = chat(b"").json();
    assert_eq!((&none["answers"], &none["budget"]["met"]), (&json!([]), &true.into()));
    let report =
        chat(b"ab\n\n/reset\n/budget 0.5\n/budget nonsense\n/what\nc a\n/quit\nab\n").json();
    let answers = report["answers"].as_array().expect("answers");
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|a| a["finish"] == "max_tokens"));
    check_usage(&report);
    let sum: u64 = answers.iter().filter_map(|a| a["usage"]["tokens"].as_u64()).sum();
    assert_eq!(report["usage"]["tokens"], sum);
    // The budget was turned between the two, and a dense plan keeps no fraction.
    let budget = |report: &Value| report["budget"]["requested"].clone();
    assert_eq!([&answers[0], &answers[1], &report].map(budget), ["full", "0.5", "0.5"]);
    assert_eq!(
        (&answers[0]["budget"]["met"], &report["budget"]["met"]),
        (&true.into(), &false.into())
    );
    chat(b"\xff\xfe\n").fails(&["stdin", "UTF-8"]);
    // What can be answered is, a line that is too long is told, and so is it in the end.
    let mixed = chat(format!("ab\n{}\nab\n", "a b ".repeat(200)).as_bytes());
    assert_eq!(mixed.status, Some(1));
    assert!(mixed.stderr.contains("beyond the context of 128"), "{}", mixed.stderr);
    assert!(mixed.stderr.contains("lines not answered: 1"), "{}", mixed.stderr);
    let report: serde_json::Value = serde_json::from_str(&mixed.stdout).expect("an object");
    assert_eq!(report["answers"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_tokenizer_that_sees_nothing_makes_an_empty_prompt() {
    let place = Place::text();
    run(&place, &["--prompt", "\u{4e2d}\u{6587}"]).fails(&["prompt is empty"]);
}
