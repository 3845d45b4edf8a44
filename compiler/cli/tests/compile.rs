//! `limbeck compile` and `limbeck inspect`: what they print, what they refuse, and that a plan that
//! stood before survives whatever fails.

mod common;

use common::{Place, golden, limbeck, run, tokenizer};

#[test]
fn a_compiled_plan_is_described_in_json() {
    let place = Place::checkpoint("llama");
    let output = place.plan();
    let report =
        limbeck(["compile", &place.arg("student"), "-o", &output, "--quant", "q8", "--json"])
            .json();
    assert_eq!(report["architecture"], "llama");
    assert_eq!(report["quant"], "q8");
    assert_eq!(report["file_bytes"], place.read("student.lbk").len());
    assert!(report["formats"].as_array().is_some_and(|f| !f.is_empty()));
    assert_eq!(place.names(), ["student", "student.lbk"]);

    let plan = limbeck(["inspect", &output, "--json", "--verify"]).json();
    assert_eq!(plan["manifest"]["vocab_size"], 256);
    assert_eq!(plan["verified"], true);
    assert!(limbeck(["inspect", &output]).ok().contains("format 1."));
}

#[test]
fn sources_that_are_no_checkpoint_are_refused() {
    let place = Place::empty();
    std::fs::create_dir(place.path("empty")).expect("a folder");
    place.write("weights.bin", b"PK\x03\x04");
    place.write("model.safetensors", b"");
    let compile = |source: &str| limbeck(["compile", &place.arg(source), "-o", &place.plan()]);
    compile("empty").fails(&["empty", "config.json"]);
    compile("weights.bin").fails(&["weights.bin", "neither a checkpoint folder"]);
    compile("model.safetensors").fails(&["model.safetensors", "folder"]);
    compile("nowhere").fails(&["nowhere", "No such file"]);
    assert_eq!(place.names(), ["empty", "model.safetensors", "weights.bin"]);
}

#[test]
fn options_that_do_not_exist_are_wrong_usage() {
    let place = Place::checkpoint("llama");
    let (source, plan) = (place.arg("student"), place.plan());
    limbeck(["compile", &source, "-o", &plan, "--quant", "q3"]).usage(&["q3"]);
    limbeck(["compile", &source]).usage(&["--output"]);
    limbeck(["compile", &source, "-o", &plan, "--prefer", "magic"]).usage(&["magic"]);
    limbeck(["transmute"]).usage(&["transmute"]);
    assert_eq!(limbeck([""; 0]).status, Some(2));
    limbeck(["compile", &source, "-o", &plan, "--prefer", "onnx"]).fails(&["KV cache", "natively"]);
    limbeck(["compile", &source, "-o", &plan, "--onnx-for", "*"]).fails(&["KV cache"]);
    limbeck(["compile", &source, "-o", &plan, "--with", "lora"]).fails(&["lora", "No such file"]);
}

#[test]
fn what_this_build_lacks_is_said_in_help_and_refused() {
    let plan = Place::text();
    let path = plan.plan();
    let run = |more: [&str; 2]| limbeck([&["run", &path, "--prompt", "a"][..], &more].concat());
    run(["--image", "x.png"]).fails(&["--image x.png"]);
    let lacking = |command: &str| {
        let help = limbeck([command, "--help"]).ok().replace('\n', " ");
        help.matches("Not available in this build").count()
    };
    for (command, count) in [("run", 1), ("embed", 0), ("tune", 0), ("compile", 0)] {
        assert_eq!(lacking(command), count, "{command}");
    }
}

#[test]
fn a_folder_without_a_tokenizer_compiles_to_a_plan_of_ids() {
    let place = Place::checkpoint("llama");
    place.compile().ok();
    let plan = place.plan();
    limbeck(["run", &plan, "--prompt", "abc"]).fails(&["no tokenizer"]);
    limbeck(["chat", &plan]).fails(&["no chat template"]);
    limbeck(["bench", &plan, "-p", "4", "-n", "2", "-r", "1"]).ok();
}

#[test]
fn a_tokenizer_of_another_student_is_refused() {
    let place = Place::checkpoint("llama");
    place.write("student/tokenizer.json", tokenizer(300).to_string());
    place.compile().fails(&["tokenizer", "300 tokens", "256"]);
}

#[test]
fn nothing_but_a_plan_is_replaced() {
    let place = Place::checkpoint("llama");
    let source = place.arg("student");
    let weights = place.read("student/model.safetensors");
    for output in ["student", "student/model.safetensors", "student/config.json"] {
        let words = [output, "not a plan"];
        limbeck(["compile", &source, "-o", &place.arg(output)]).fails(&words);
    }
    assert_eq!(place.read("student/model.safetensors"), weights);
    let gguf = std::fs::read(golden("gguf/tiny_llama.gguf")).expect("the golden");
    place.write("tiny.gguf", &gguf);
    limbeck(["compile", &place.arg("tiny.gguf"), "-o", &place.arg("tiny.gguf")])
        .fails(&["not a plan"]);
    assert_eq!(place.read("tiny.gguf"), gguf);
}

#[test]
fn folders_that_cannot_be_written_are_named() {
    let place = Place::checkpoint("llama");
    for output in ["nowhere/student.lbk", "student/config.json/student.lbk"] {
        limbeck(["compile", &place.arg("student"), "-o", &place.arg(output)]).fails(&[output]);
    }
    if cfg!(target_os = "linux") {
        limbeck(["compile", &place.arg("student"), "-o", "/proc/student.lbk"])
            .fails(&["/proc/student.lbk"]);
    }
    assert_eq!(place.names(), ["student"]);
}

/// A limit on the size of files stands in for a full disk: writing fails in the same place.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_plan_as_it_was() {
    let place = Place::checkpoint("llama");
    place.compile().ok();
    let before = place.read("student.lbk");
    let mut shell = std::process::Command::new("sh");
    shell.args([
        "-c",
        "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_limbeck"),
    ]);
    shell.args(["compile", &place.arg("student"), "-o", &place.plan(), "--quant", "f32"]);
    run(shell, b"").fails(&["student.lbk", "File too large"]);
    assert_eq!(place.read("student.lbk"), before);
    assert_eq!(place.names(), ["student", "student.lbk"]);
}

#[test]
fn files_that_are_no_plan_are_refused_by_every_command() {
    let place = Place::text();
    let plan = place.read("student.lbk");
    let mut flipped = plan.clone();
    flipped[17 * 1024] ^= 1;
    place.write("flipped.lbk", flipped);
    limbeck(["inspect", &place.arg("flipped.lbk")]).ok();
    limbeck(["inspect", &place.arg("flipped.lbk"), "--verify"]).fails(&[
        "flipped.lbk",
        "weights",
        "damaged",
    ]);
    place.write("cut.lbk", &plan[..plan.len() - 1]);
    place.write("text.lbk", "abc");
    place.write("nothing.lbk", "");
    place.write("in.txt", "abc");
    place.npz::<i64>("in.npz", &[("input_ids", &[1], &[1])]);
    for (file, word) in [
        ("cut.lbk", "should have"),
        ("text.lbk", "not a Limbeck plan"),
        ("nothing.lbk", "not a Limbeck plan"),
        ("nowhere.lbk", "No such file"),
        ("student", "not a file"),
    ] {
        let (path, text) = (place.arg(file), place.arg("in.txt"));
        let (input, output) = (place.arg("in.npz"), place.arg("out.npz"));
        for args in [
            vec!["inspect", &path],
            vec!["run", &path, "--prompt", "a"],
            vec!["chat", &path],
            vec!["embed", &path],
            vec!["perplexity", &path, "--file", &text],
            vec!["forward", &path, "--inputs", &input, "--outputs", &output],
            vec!["bench", &path],
        ] {
            limbeck(args).fails(&[file, word]);
        }
    }
    assert!(!place.path("out.npz").exists());
}

#[test]
fn export_writes_a_dense_student_and_refuses_an_adaptive_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| folder.path().join(name).display().to_string();
    let compile = |source: &str, plan: &str| {
        limbeck(["compile", &golden(source).display().to_string(), "-o", &place(plan)]).ok();
    };
    compile("tiny/bert", "dense.lbk");
    let report = limbeck(["export", &place("dense.lbk"), "-o", &place("out"), "--json"]).json();
    assert_eq!(report["model"], place("out/model.onnx"));
    assert_eq!(report["inputs"], serde_json::json!(["input_ids", "attention_mask"]));
    assert!(report["nodes"].as_u64().is_some_and(|n| n > 10), "{report}");
    limbeck(["compile", &place("out/model.onnx"), "-o", &place("again.lbk")]).ok();
    compile("acm/bert", "adaptive.lbk");
    limbeck(["export", &place("adaptive.lbk"), "-o", &place("none")])
        .fails(&["limbeck:choose@1", "dense student"]);
    limbeck([
        "export",
        &golden("tiny/bert/config.json").display().to_string(),
        "-o",
        &place("none"),
    ])
    .fails(&["not a Limbeck plan"]);
    assert!(!folder.path().join("none").exists());
}

#[test]
fn a_precise_plan_says_so() {
    let place = Place::checkpoint("llama");
    let (source, plan) = (place.arg("student"), place.plan());
    let compile = |more: &[&str]| {
        let args = ["compile", &source, "-o", &plan, "--quant", "q4", "--json"];
        limbeck([&args, more].concat()).json()["precise"].clone()
    };
    assert_eq!(compile(&[]), false);
    assert!(!limbeck(["inspect", &plan]).ok().contains("--precise"));
    assert_eq!(compile(&["--precise"]), true);
    assert!(limbeck(["inspect", &plan]).ok().contains("--quant q4 --precise,"));
}
