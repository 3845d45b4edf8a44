//! The programs in C and C++ beside this file, one per concept: compiled by the system's compilers
//! with every warning an error, run plainly, under sanitizers and under valgrind where there are any.

mod common;

use std::path::{Path, PathBuf};

use common::{Build, Program, everywhere};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, golden};
use tempfile::TempDir;

const ALL: [Build; 3] = [Build::Plain, Build::Sanitised, Build::Valgrind];

/// A tiny text student; its tokenizer knows a few letters.
fn text() -> Compiled {
    let source = with_tokenizer(&golden().join("tiny/llama"), &letters(256));
    std::fs::write(source.path().join("tokenizer_config.json"), CHAT).expect("a template");
    Compiled::new(source.path(), Quant::F32, true)
}

/// A tiny adaptive text student.
fn adaptive() -> Compiled {
    Compiled::new(&golden().join("acm/decoder"), Quant::F32, true)
}

/// A copy of a checkpoint with a tokenizer.
fn with_tokenizer(checkpoint: &Path, tokenizer: &str) -> TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(checkpoint).expect("a checkpoint") {
        let path = entry.expect("a file").path();
        let target = copy.path().join(path.file_name().expect("a name"));
        if path.is_dir() {
            std::fs::create_dir(&target).expect("a folder");
            for entry in std::fs::read_dir(&path).expect("a folder") {
                let path = entry.expect("a file").path();
                std::fs::copy(&path, target.join(path.file_name().expect("a name")))
                    .expect("copied");
            }
        } else {
            std::fs::copy(&path, target).expect("copied");
        }
    }
    std::fs::write(copy.path().join("tokenizer.json"), tokenizer).expect("a tokenizer");
    copy
}

const CHAT: &str = r#"{"chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"}"#;

/// Letters, one merge, two special tokens, and a text for each other id.
fn letters(tokens: usize) -> String {
    let others: String = (7..tokens).map(|i| format!(r#", "t{i}": {i}"#)).collect();
    let special = |id: usize, text: &str| {
        format!(
            r#"{{"id": {id}, "content": "{text}", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}}"#
        )
    };
    let bytes = r#"{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true}"#;
    format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{}, {}], "normalizer": null, "pre_tokenizer": {bytes},
        "post_processor": null, "decoder": {bytes},
        "model": {{"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "merges": ["a b"],
            "vocab": {{"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "Ġ": 5, "ab": 6{others}}}}}}}"#,
        special(0, "<s>"),
        special(1, "</s>")
    )
}

const WORDS: &str = r###"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null, "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "##b": 6}}}"###;

/// Floats as a program reads them from a file.
fn floats(folder: &TempDir, name: &str, values: impl IntoIterator<Item = f32>) -> PathBuf {
    let path = folder.path().join(name);
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    std::fs::write(&path, bytes).expect("a file");
    path
}

#[test]
fn engines_check_versions_and_options_and_log() {
    everywhere("tests/c/engine.c", &ALL, &[&text().path()], "");
}

#[test]
fn models_come_from_paths_parts_of_files_and_bytes_in_place() {
    let (text, adaptive) = (text(), adaptive());
    let folder = tempfile::tempdir().expect("a folder");
    let within = folder.path().join("asset");
    let mut bytes = vec![0xa5; 4160];
    bytes.extend(std::fs::read(text.path()).expect("the plan"));
    std::fs::write(&within, bytes).expect("a file");
    let args = [&*text.path(), &within, &adaptive.path()];
    everywhere("tests/c/model.c", &ALL, &args, "");
}

#[test]
fn null_is_an_error_everywhere() {
    everywhere("tests/c/null.c", &ALL, &[&text().path()], "");
}

#[test]
fn sessions_fork_rewind_restore_and_stay_within_their_limits() {
    let builds = [Build::Plain, Build::Static, Build::Sanitised, Build::Valgrind];
    everywhere("tests/c/session.c", &builds, &[&text().path()], "");
}

#[test]
fn controls_reach_a_running_call_from_threads_and_signal_handlers() {
    everywhere("tests/c/control.c", &ALL, &[&adaptive().path()], "");
}

#[test]
fn generations_stream_and_go_on_where_they_were_cancelled() {
    everywhere("tests/c/generate.c", &ALL, &[&text().path()], "");
}

#[test]
fn sessions_of_a_model_work_side_by_side_while_others_turn_and_cancel() {
    everywhere("tests/c/stress.c", &ALL, &[&text().path()], "");
}

#[test]
fn nothing_races_and_a_race_would_be_found() {
    if !Build::Helgrind.is_there() {
        return;
    }
    let (plan, program) = (text(), Program::new("tests/c/stress.c", Build::Helgrind));
    program.run(&[&plan.path()], "");
    let raced = program.output(&[&plan.path(), Path::new("race")], "");
    assert_eq!(raced.status.code(), Some(9));
    let told = String::from_utf8_lossy(&raced.stderr);
    assert!(told.contains("Possible data race") && told.contains("lbk_test_race"), "{told}");
}

#[test]
fn texts_become_tokens_and_tokens_texts() {
    everywhere("tests/c/text.c", &ALL, &[&text().path()], "");
}

#[test]
fn embeddings_and_named_tensors_have_the_values_of_pytorch() {
    let source = with_tokenizer(&golden().join("tiny/bert"), WORDS);
    let encoder = Compiled::new(source.path(), Quant::F32, true);
    let classifier = Compiled::new(&golden().join("acm/vit"), Quant::F32, true);
    let decoder = Compiled::new(&golden().join("tiny/llama"), Quant::F32, true);
    let folder = tempfile::tempdir().expect("a folder");
    let mut images = Npz::open(&golden().join("acm/vit/expected.npz"));
    let pixels = floats(&folder, "pixels", images.floats("pixel_values").1);
    let classes = floats(&folder, "classes", images.floats("outputs_0").1);
    let mut texts = Npz::open(&golden().join("tiny/llama/expected.npz"));
    let ids = floats(&folder, "ids", texts.ids("input_ids").1.into_iter().map(|id| id as f32));
    let logits = floats(&folder, "logits", texts.floats("logits").1);
    let (encoder, classifier, decoder) = (encoder.path(), classifier.path(), decoder.path());
    let args = [&*encoder, &classifier, &pixels, &classes, &decoder, &ids, &logits];
    everywhere("tests/c/tasks.c", &ALL, &args, "");
}

#[test]
fn samples_are_made_of_noise_within_budgets() {
    let denoiser = Compiled::new(&golden().join("diffusion/denoiser.onnx"), Quant::F32, true);
    let folder = tempfile::tempdir().expect("a folder");
    let mut golden = Npz::open(&golden().join("diffusion/denoiser.npz"));
    let samples = floats(&folder, "samples", golden.floats("2").1);
    let text = text();
    let args = [&*denoiser.path(), &text.path(), &samples];
    everywhere("tests/c/diffuse.c", &ALL, &args, "");
}

#[test]
fn the_layer_of_cpp_frees_throws_and_carries_exceptions_through() {
    everywhere("tests/c/wrapper.cpp", &ALL, &[&text().path()], "");
}

#[test]
fn the_layer_of_cpp_does_without_exceptions() {
    everywhere("tests/c/expected.cpp", &ALL, &[&text().path()], "");
}

#[test]
fn a_text_streams_while_its_budget_is_turned() {
    let plan = text();
    for out in
        everywhere("examples/stream.cpp", &ALL, &[&plan.path(), Path::new("ab a")], "0.5\nfull\n")
    {
        assert!(out.contains("ab") || out.contains("t1"), "{out}");
        assert!(out.contains("tokens, fraction"), "{out}");
    }
}

#[test]
fn sentences_are_found_by_their_embeddings() {
    let source = with_tokenizer(&golden().join("tiny/bert"), WORDS);
    let plan = Compiled::new(source.path(), Quant::F32, true);
    for out in
        everywhere("examples/search.c", &ALL, &[&plan.path(), Path::new("a b")], "b\na b\nab a\n")
    {
        assert!(out.starts_with("1.000  a b\n"), "{out}");
        assert_eq!(out.lines().count(), 3, "{out}");
    }
}

#[test]
fn answers_keep_their_deadline() {
    let plan = adaptive();
    for out in everywhere("examples/deadline.c", &ALL, &[&plan.path()], "") {
        assert_eq!(out.lines().count(), 5, "{out}");
        assert!(out.contains("fraction"), "{out}");
    }
}
