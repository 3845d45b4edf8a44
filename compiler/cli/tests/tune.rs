//! `limbeck tune`.

mod common;

use common::{Place, Run, limbeck, limbeck_with, numbers, stored_table, tokenizer};
use limbeck_tests::{MINILM, SMOLLM2, minilm_acm, sentences, smollm2_levels, student};
use serde_json::json;

fn tune(place: &Place, more: &[&str]) -> Run {
    let (plan, data) = (place.plan(), place.arg("data.txt"));
    limbeck([&["tune", &plan, "--data", &data][..], more].concat())
}

/// All gates of this student choose alike: 2 learners, 1, and none as the price grows.
#[test]
fn the_table_is_stored_in_the_plan_and_shown() {
    let place = Place::adaptive();
    place.write("data.txt", "a b ab\nb b\n\na a a a\n");
    let before = place.read("student.lbk");
    let (tuned, plot) = (place.arg("tuned.lbk"), place.arg("plot.svg"));
    let report = tune(&place, &["-o", &tuned, "--plot", &plot, "--json"]).json();
    assert_eq!(place.read("student.lbk"), before);
    let table = &report["calibration"];
    assert_eq!((&table["quality"], &table["data"]), (&"cosine".into(), &"data.txt".into()));
    let (prices, shares) = (numbers(table, "price"), numbers(table, "site_fraction"));
    assert_eq!((prices.len(), prices[0]), (16, 0.0));
    assert!(prices.is_sorted() && shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
    assert_eq!((shares[0], shares[15]), (1.0, 0.0));
    assert!(shares.contains(&0.5), "{shares:?}");
    let quality = numbers(table, "quality");
    assert!((quality[0] - 1.0).abs() < 1e-6);
    assert!(numbers(table, "ms_per_token").iter().all(|ms| *ms > 0.0));
    assert!(numbers(table, "percentile_5").iter().zip(&quality).all(|(low, mean)| low <= mean));
    let svg = String::from_utf8(place.read("plot.svg")).expect("text");
    roxmltree::Document::parse(&svg).expect("XML");

    let shown = limbeck(["inspect", &tuned, "--json", "--verify"]).json();
    assert_eq!(numbers(&shown["calibration"], "price"), prices);
    assert_eq!(shown["sites"].as_array().map(Vec::len), Some(2));
    let text = limbeck(["inspect", &tuned]).ok();
    assert!(text.contains("cosine on \"data.txt\""), "{text}");
    assert!(limbeck(["inspect", &place.plan(), "--json"]).json()["calibration"].is_null());

    // In place, with as many prices as are asked for; the embeddings stay.
    let text = tune(&place, &["--prices", "12", "--search", "--search-rounds", "1"]).ok();
    assert_eq!(text.lines().count(), 15, "{text}");
    let embed = |plan: &str| limbeck_with(["embed", plan], b"a b\n").ok();
    assert_eq!(embed(&place.plan()), embed(&tuned));
    let names = place.names();
    assert!(!names.iter().any(|name| name.contains(".part")), "{names:?}");
}

#[test]
fn what_cannot_be_tuned_is_refused_and_the_plan_stays() {
    let place = Place::adaptive();
    let before = place.read("student.lbk");
    tune(&place, &[]).fails(&["data.txt", "No such file"]);
    place.write("data.txt", "");
    tune(&place, &[]).fails(&["data.txt", "no sentence"]);
    place.write("data.txt", "\n  \n");
    tune(&place, &[]).fails(&["data.txt", "no sentence"]);
    place.write("data.txt", b"a \xff\n");
    tune(&place, &[]).fails(&["data.txt", "utf-8"]);
    place.write("data.txt", "a b\n");
    tune(&place, &["--max-tokens", "1"]).fails(&["data.txt", "no sentence"]);
    tune(&place, &["--search-rounds", "1"]).usage(&["--search"]);
    tune(&place, &["-o", &place.arg("data.txt")]).fails(&["data.txt", "not a plan"]);
    tune(&place, &["-o", &place.arg("no/where.lbk")]).fails(&["no"]);
    tune(&place, &["--plot", &place.arg("no/plot.svg")]).fails(&["no"]);
    assert_eq!(place.read("student.lbk"), before);

    for dense in [Place::encoder(), Place::text()] {
        dense.write("data.txt", "a b\n");
        tune(&dense, &[]).fails(&["student.lbk", "no site"]);
    }
    let place = Place::checkpoint("bert");
    common::acm(&place);
    place.write("data.txt", "a b\n");
    tune(&place, &[]).fails(&["no tokenizer", "tokenizer.json"]);
    for golden in ["acm/decoder", "moe/mixtral"] {
        let place = Place::golden(golden);
        place.compile().ok();
        place.write("data.txt", "a b\n");
        tune(&place, &[]).fails(&["no tokenizer", "tokenizer.json"]);
        place.write("student/tokenizer.json", tokenizer(7).to_string());
        place.compile().ok();
        tune(&place, &[]).fails(&["data.txt", "do not fill a context of 512"]);
    }
}

/// Letters without an order.
fn letters(seed: u32, count: usize) -> String {
    let mut state = seed;
    let mut letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ['a', 'b', 'c', ' '][(state >> 30) as usize]
    };
    (0..count).map(|_| letter()).collect()
}

/// An adaptive golden is tuned on letters: its table holds what `perplexity` measures, and budgets
/// are nearer to their targets in the first call, on other letters.
fn tune_text(golden: &str, targets: [f64; 4]) {
    let place = Place::golden(golden);
    place.write("student/tokenizer.json", tokenizer(7).to_string());
    place.compile().ok();
    let (plan, tuned, data) = (place.plan(), place.arg("tuned.lbk"), place.arg("data.txt"));
    place.write("data.txt", letters(1, 1200));
    let report = tune(&place, &["--context", "64", "-o", &tuned, "--json"]).json();
    let table = stored_table(&report, &tuned, &["agreement"]);
    assert_eq!((&table["quality"], &table["data"]), (&"perplexity".into(), &"data.txt".into()));
    assert!(table["tokens"].as_u64().is_some_and(|n| n > 512 && n % 64 == 0), "{table}");
    let (prices, fractions) = (numbers(&table, "price"), numbers(&table, "fraction"));
    let shares = numbers(&table, "site_fraction");
    assert_eq!((prices.len(), prices[0]), (16, 0.0));
    assert!(prices.is_sorted_by(|a, b| a < b), "{prices:?}");
    assert!(fractions.is_sorted_by(|a, b| a >= b), "{fractions:?}");
    assert!(fractions[15] < fractions[0] * 0.85 && shares[15] < shares[0] * 0.6, "{table}");
    let agreement = numbers(&report["calibration"], "agreement");
    assert!(agreement[0] == 1.0 && agreement[15] < 0.9, "{agreement:?}");
    let quality = numbers(&table, "quality");
    for i in [0, 8, 15] {
        let price = format!("price:{}", prices[i]);
        let args = ["perplexity", &plan, "--file", &data, "--context", "64", "--budget", &price];
        let found = limbeck([&args[..], &["--json"]].concat()).json();
        let perplexity = found["perplexity"].as_f64().expect("a perplexity");
        assert!((perplexity / quality[i] - 1.0).abs() < 1e-6, "{perplexity} {}", quality[i]);
        assert_eq!(found["usage"]["fraction"].as_f64(), Some(fractions[i]));
    }

    let prompt = letters(9, 100);
    let (mut plain, mut off) = (0.0, 0.0);
    for target in targets {
        let budget = target.to_string();
        let error = |plan: &str| {
            let args = ["run", plan, "--prompt", &prompt, "--max-tokens", "1", "--json"];
            let report = limbeck([&args[..], &["--budget", &budget]].concat()).json();
            let fraction = report["usage"]["fraction"].as_f64().expect("a fraction");
            (fraction / target - 1.0).abs()
        };
        (plain, off) = (plain + error(&plan), off + error(&tuned));
    }
    println!("{golden}: off in the first call: {plain:.3} without the table, {off:.3} with it");
    assert!(off < 0.1 && off < plain / 2.0, "{off} with the table, {plain} without");
}

#[test]
fn the_last_window_is_cut_where_tokens_end() {
    let place = Place::golden("acm/decoder");
    place.write("student/tokenizer.json", tokenizer(7).to_string());
    place.compile().ok();
    place.write("data.txt", letters(1, 1200));
    let tune = |most: &str| {
        tune(
            &place,
            &["--context", "64", "--max-tokens", most, "-o", &place.arg("o.lbk"), "--json"],
        )
    };
    for (most, used) in [("4", 4), ("50", 50), ("64", 64), ("67", 64), ("150", 150)] {
        assert_eq!(tune(most).json()["calibration"]["tokens"], used, "{most}");
    }
    tune("3").fails(&["--max-tokens", "fewer than 4"]);
}

/// The plan on the way has no name while the student is measured.
#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_of_a_search_for_thresholds_that_is_killed() {
    let place = Place::text();
    place.write("data.txt", "a b ab b ba a b b a ".repeat(40));
    let (dense, data, to) = (place.arg("q4.lbk"), place.arg("data.txt"), place.arg("o.lbk"));
    limbeck(["compile", &place.arg("student"), "-o", &dense, "--quant", "q4"]).ok();
    let before = place.names();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_limbeck"));
    command.args(["tune", "--sparsity", &dense, "--data", &data, "-o", &to]);
    let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("a process");
    let maps = format!("/proc/{}/maps", child.id());
    let nameless =
        || std::fs::read_to_string(&maps).is_ok_and(|m| m.contains("repacked (deleted)"));
    while !nameless() {
        assert!(child.try_wait().expect("a status").is_none(), "it ended before it was seen");
    }
    child.kill().expect("killed");
    child.wait().expect("an end");
    assert_eq!(place.names(), before);
}

#[test]
fn an_adaptive_decoder_is_tuned_on_text() {
    tune_text("acm/decoder", [0.7, 0.68, 0.65, 0.62]);
}

#[test]
fn a_mixture_of_experts_is_tuned_on_text() {
    tune_text("moe/mixtral", [0.95, 0.9, 0.85, 0.8]);
}

#[test]
fn a_plot_does_not_take_the_place_of_what_is_read_or_written() {
    let place = Place::adaptive();
    place.write("data.txt", "a b\nab a\n");
    let plan = place.plan();
    for file in ["student.lbk", "data.txt"] {
        let before = place.read(file);
        tune(&place, &["--plot", &place.arg(file)]).fails(&["--plot would replace"]);
        assert_eq!(place.read(file), before);
    }
    let other = place.arg("other.lbk");
    std::fs::copy(&plan, &other).expect("a copy");
    tune(&place, &["--plot", &other]).fails(&["is a plan"]);
}

#[test]
fn sparsity_makes_levels_that_save_more_and_lose_more() {
    let place = Place::text();
    place.write("data.txt", "a b ab b ba a b b a ".repeat(40));
    let dense = place.arg("q4.lbk");
    limbeck(["compile", &place.arg("student"), "-o", &dense, "--quant", "q4"]).ok();
    let (data, before) = (place.arg("data.txt"), place.read("q4.lbk"));
    let tune = |to: &str| {
        let to = place.arg(to);
        limbeck(["tune", "--sparsity", &dense, "--data", &data, "-o", &to, "--json"]).json()
    };
    let report = tune("one.lbk");
    let levels = report["levels"].as_array().expect("levels");
    let column =
        |name: &'static str| levels.iter().map(move |l| l[name].as_f64().expect("a number"));
    assert!(levels.len() > 2, "{report}");
    assert!(column("cost").is_sorted_by(|a, b| a < b) && column("cost").all(|c| c < 1.0));
    assert!(column("loss").is_sorted_by(|a, b| a > b) && column("loss").all(|l| l > 0.0));
    tune("two.lbk");
    assert_eq!(place.read("one.lbk"), place.read("two.lbk"));
    assert_eq!(place.read("q4.lbk"), before);
    let names = place.names();
    assert!(!names.iter().any(|name| name.contains("repacked")), "{names:?}");

    let stored = |levels: &serde_json::Value| {
        place.write("levels.json", levels.to_string());
        let (to, levels) = (place.arg("three.lbk"), place.arg("levels.json"));
        limbeck(["tune", "--sparsity", &dense, "--levels", &levels, "-o", &to, "--json"])
    };
    assert_eq!(stored(&report).json()["levels"], report["levels"]);
    assert_eq!(place.read("one.lbk"), place.read("three.lbk"));
    let changed = |pointer: &str, value: serde_json::Value| {
        let mut levels = report.clone();
        *levels.pointer_mut(pointer).expect("a part of the report") = value;
        levels
    };
    stored(&changed("/linears/0", json!("other"))).fails(&["levels.json", "another student"]);
    stored(&changed("/levels/1/cost", json!(0.0))).fails(&["levels.json", "level 1"]);
    stored(&changed("/levels/0/loss", json!(-1))).fails(&["level 0"]);
    stored(&changed("/levels/2/thresholds/0", json!(-1))).fails(&["level 2"]);
    stored(&changed("/levels/2/thresholds", json!([]))).fails(&["level 2"]);
    stored(&changed("/levels/1/thresholds/0", json!(1e9))).fails(&["level 1", "above"]);
    stored(&changed("/levels", json!([]))).fails(&["levels.json", "no levels"]);
    stored(&changed("/levels", json!("x"))).fails(&["levels.json"]);
    // Channels weigh as the file says, for all linears or for none.
    let weighed = |channels: serde_json::Value| {
        let mut levels = report.clone();
        levels["channels"] = channels;
        levels
    };
    stored(&weighed(json!([[1.0]]))).fails(&["levels.json", "for all linears"]);
    let linears = report["linears"].as_array().expect("linears");
    let ones: Vec<_> = linears
        .iter()
        .map(|name| {
            vec![1.0; if name.as_str().unwrap().contains("mlp_residual") { 96 } else { 64 }]
        })
        .collect();
    assert_eq!(stored(&weighed(json!(ones))).json()["channels"], json!(ones));
    assert_ne!(place.read("one.lbk"), place.read("three.lbk"));
    stored(&weighed(json!(vec![[-1.0]; linears.len()]))).fails(&["weights of channels"]);
    // Keys and values in 8 bits lose otherwise.
    let to = place.arg("four.lbk");
    let args = ["tune", "--sparsity", &dense, "--data", &data, "-o", &to, "--json", "--kv", "q8"];
    assert_ne!(limbeck(args).json()["levels"], report["levels"]);

    let again = limbeck(["tune", "--sparsity", &place.arg("one.lbk"), "--data", &data]);
    again.fails(&["sparsity already"]);
}

/// The levels of SmolLM2 that the repository holds, on sentences that they were not fitted to: a fifth
/// of the multiply-adds for at most 1 % of perplexity, a quarter for 2 %, three tenths for 5 %.
#[test]
fn the_stored_levels_of_a_real_student_hold() {
    let Some(smollm2) = student(SMOLLM2) else { return };
    let place = Place::empty();
    let (dense, sparse) = (place.arg("dense.lbk"), place.arg("sparse.lbk"));
    limbeck(["compile", &smollm2.display().to_string(), "-o", &dense]).ok();
    let levels = smollm2_levels().display().to_string();
    limbeck(["tune", &dense, "--sparsity", "--levels", &levels, "-o", &sparse]).ok();
    place.write("text.txt", sentences()[400..800].join("\n"));
    let text = place.arg("text.txt");
    let at = |price: &str| {
        let args = ["perplexity", &sparse, "--file", &text, "--budget", price, "--json"];
        let report = limbeck(args).json();
        let number = |pointer| report.pointer(pointer).and_then(|v| v.as_f64()).expect("a number");
        (number("/perplexity"), 1.0 - number("/usage/site_fraction"))
    };
    let (full, nothing) = at("price:0");
    assert_eq!(nothing, 0.0);
    let bars = [("price:0.3", 0.195, 1.01), ("price:0.4", 0.235, 1.02), ("price:0.8", 0.3, 1.05)];
    for (price, least, most) in bars {
        let (perplexity, left_out) = at(price);
        let ratio = perplexity / full;
        println!("{price}: {left_out:.3} left out, perplexity {ratio:.4} of full");
        assert!(left_out > least && ratio < most, "{left_out} left out at {ratio}");
    }
}

/// Sentences of one kind calibrate, others are embedded under budgets: the first batch is close to
/// its target, and so is the mean.
#[test]
fn a_real_student_meets_budgets_sooner_with_its_table() {
    let Some(minilm) = student(MINILM) else { return };
    let acm = minilm_acm();
    let place = Place::empty();
    let sentences = sentences();
    place.write("data.txt", sentences[..160].join("\n"));
    let (minilm, acm) = (minilm.display().to_string(), acm.display().to_string());
    let plain = place.arg("plain.lbk");
    limbeck(["compile", &minilm, "--with", &acm, "--quant", "f32", "-o", &plain]).ok();
    std::fs::copy(&plain, place.path("student.lbk")).expect("a copy");
    let report = tune(&place, &["--json"]).json();
    let table = &report["calibration"];
    let (fraction, quality) = (numbers(table, "fraction"), numbers(table, "quality"));
    assert!(fraction.len() >= 12 && fraction[0] > 0.99 && fraction.last() < Some(&0.4));
    assert!(fraction.is_sorted_by(|a, b| a >= b), "{fraction:?}");
    assert!((quality[0] - 1.0).abs() < 1e-6);
    let middle = fraction.iter().position(|f| *f < 0.75).expect("a middle");
    assert!(quality[middle] > 0.9, "{quality:?}");

    let mut off = [0.0f64; 2];
    for target in ["0.9", "0.7", "0.6", "0.5"] {
        let error = |plan: &str, count: usize| {
            let text = sentences[500..500 + count].join("\n");
            let args = ["embed", plan, "--json", "--budget", target];
            let report = limbeck_with(args, text.as_bytes()).json();
            let fraction = report["usage"]["fraction"].as_f64().expect("a fraction");
            (fraction / target.parse::<f64>().expect("a number") - 1.0).abs()
        };
        let plan = place.plan();
        off[0] += error(&plain, 32);
        off[1] += error(&plan, 32);
        let (first, mean) = (error(&plan, 32), error(&plan, 320));
        assert!(first < 0.05 && mean < 0.02, "{target}: {first:.4}, then {mean:.4}");
    }
    println!("off in the first batch: {:.3} without the table, {:.3} with it", off[0], off[1]);
    assert!(off[1] < off[0] / 2.0, "{off:?}");
}
