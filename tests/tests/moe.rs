//! Mixtures of experts against PyTorch, on every backend, with and without the passes.
//!
//! Expected values: `golden/tiny_moe.py`.

use limbeck::{BackendKind, KvFormat, Model, SessionOptions};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::{Npz, all_logits, golden, relative_error};

const STUDENTS: &[&str] = &[
    "mixtral",
    "mixtral_stacked",
    "qwen2_moe",
    "qwen3_moe",
    "gguf_mixtral/model.gguf",
    "gguf_qwen2moe/model.gguf",
    "gguf_qwen3moe/model.gguf",
    "llava_a",
    "llava_b",
    "llava_c",
    "llava_d",
    "llava_e",
    "llava_f",
    "llava_g",
    "llava_h",
    "llava_i",
];

fn options() -> SessionOptions {
    SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() }
}

fn expected(student: &str, key: &str) -> (Vec<u32>, Vec<f32>) {
    let folder = student.split('/').next().unwrap_or_default();
    let mut npz = Npz::open(&golden().join("moe").join(folder).join("expected.npz"));
    (npz.ids("input_ids").1, npz.floats(key).1)
}

fn each_plan(student: &str, moe_capacity: bool, check: impl Fn(&str, Model)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for passes in [false, true] {
        let (source, plan) =
            (golden().join("moe").join(student), folder.path().join("student.lbk"));
        let options =
            Options { passes, moe_capacity, ..Options::new(source, plan.clone(), Quant::F32) };
        compile(&options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{student}: {e}"));
        for backend in [BackendKind::Fake, BackendKind::Cpu] {
            let options = limbeck::EngineOptions { backend, threads: 2 };
            let engine = limbeck::Engine::new(options).expect("an engine");
            let model = engine.open(&plan).unwrap_or_else(|e| panic!("{student}: {e}"));
            check(&format!("{student}, passes {passes}, {backend:?}"), model);
        }
    }
}

#[test]
fn mixtures_give_the_logits_of_pytorch() {
    for student in STUDENTS {
        let (ids, logits) = expected(student, "logits");
        each_plan(student, false, |case, model| {
            let error = relative_error(&all_logits(&model, &ids, options()), &logits);
            assert!(error <= 1e-4, "{case}: relative error {error:.2e}");
        });
    }
}

#[test]
fn a_capacity_drops_what_deepspeed_drops() {
    for student in ["llava_d", "llava_e"] {
        let (ids, free) = expected(student, "logits");
        let (_, limited) = expected(student, "logits_capacity");
        assert!(relative_error(&free, &limited) > 1e-2);
        each_plan(student, true, |case, model| {
            let error = relative_error(&all_logits(&model, &ids, options()), &limited);
            assert!(error <= 1e-4, "{case}: relative error {error:.2e}");
        });
    }
}
