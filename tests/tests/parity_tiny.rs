//! Tiny seeded checkpoints against PyTorch, on every backend, with and without the passes.
//!
//! Expected values: `golden/tiny_text.py` (transformers, eager attention).

use limbeck::{BackendKind, Encoder, EncoderInput, KvFormat, SessionOptions};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, all_logits, golden, relative_error};

const DECODERS: &[&str] = &["llama", "llama_bias", "llama_linear", "llama_yarn", "qwen2", "qwen3"];
const ENCODERS: &[&str] = &["bert", "bert_cls"];
const BACKENDS: &[BackendKind] = &[BackendKind::Fake, BackendKind::Cpu];

fn each_plan(name: &str, check: impl Fn(&str, limbeck::Model)) {
    let source = golden().join("tiny").join(name);
    for passes in [false, true] {
        let plan = Compiled::new(&source, Quant::F32, passes);
        for &backend in BACKENDS {
            check(&format!("{name}, passes {passes}, {backend:?}"), plan.open(backend, 2));
        }
    }
}

#[test]
fn decoders_give_the_logits_of_transformers() {
    for name in DECODERS {
        let mut expected = Npz::open(&golden().join("tiny").join(name).join("expected.npz"));
        let (_, ids) = expected.ids("input_ids");
        let (_, logits) = expected.floats("logits");
        each_plan(name, |case, model| {
            let options = SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() };
            let error = relative_error(&all_logits(&model, &ids, options), &logits);
            assert!(error <= 1e-4, "{case}: relative error {error:.2e}");
        });
    }
}

#[test]
fn encoders_give_the_hidden_states_and_embeddings_of_transformers() {
    for name in ENCODERS {
        let mut expected = Npz::open(&golden().join("tiny").join(name).join("expected.npz"));
        let (shape, ids) = expected.ids("input_ids");
        let (_, mask) = expected.ids("attention_mask");
        let (_, hidden) = expected.floats("last_hidden_state");
        let (_, embedding) = expected.floats("embedding");
        let tokens = shape[1];
        let positions: Vec<u32> = (0..tokens as u32).collect();
        let inputs: Vec<EncoderInput<'_>> = ids
            .chunks(tokens)
            .zip(mask.chunks(tokens))
            .map(|(ids, mask)| EncoderInput {
                ids,
                positions: &positions,
                keys: mask.iter().filter(|m| **m == 1).count(),
            })
            .collect();
        each_plan(name, |case, model| {
            let (mut found_hidden, mut found_embedding) = (Vec::new(), Vec::new());
            let mut encoder = Encoder::new(&model).expect("an encoder");
            let usage = encoder.encode(&inputs, |i, e| {
                // The golden has zeros where the mask has.
                let cols = e.last_hidden_state.len() / tokens;
                let mut rows = e.last_hidden_state.to_vec();
                rows[inputs[i].keys * cols..].fill(0.0);
                found_hidden.extend(rows);
                found_embedding.extend_from_slice(e.embedding);
            });
            usage.unwrap_or_else(|e| panic!("{case}: {e}"));
            for (what, found, expected) in
                [("hidden", &found_hidden, &hidden), ("embedding", &found_embedding, &embedding)]
            {
                let error = relative_error(found, expected);
                assert!(error <= 1e-4, "{case}: {what}: relative error {error:.2e}");
            }
        });
    }
}
