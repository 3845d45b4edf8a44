//! A token's results depend on that token and its context alone: bit-identical logits whatever the
//! chunking, the batch and the number of threads, in every number format.

use limbeck::{BackendKind, KvFormat, Model, SessionOptions, Wanted, Work};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, all_logits, golden};

const STUDENTS: &[&str] = &[
    "tiny/llama",
    "tiny/qwen2",
    "tiny/qwen3",
    // Mixtures: alone, with a shared expert, with a residual MLP.
    "moe/mixtral",
    "moe/qwen2_moe",
    "moe/llava_f",
];
const QUANTS: &[Quant] = &[Quant::F32, Quant::F16, Quant::Q8, Quant::Q4];

fn ids(name: &str) -> Vec<u32> {
    Npz::open(&golden().join(name).join("expected.npz")).ids("input_ids").1
}

fn each(check: impl Fn(&str, &Compiled, &[u32])) {
    for name in STUDENTS {
        let ids = ids(name);
        for &quant in QUANTS {
            let plan = Compiled::new(&golden().join(name), quant, true);
            check(&format!("{name} {quant}"), &plan, &ids);
        }
    }
}

fn options(chunk: usize) -> SessionOptions {
    SessionOptions { chunk, ..SessionOptions::default() }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn chunks_and_threads_change_no_bit() {
    each(|case, plan, ids| {
        let whole = all_logits(&plan.open(BackendKind::Cpu, 1), ids, options(256));
        for threads in [1, 2, 3] {
            let model = plan.open(BackendKind::Cpu, threads);
            for chunk in [1, 2, 3, 5, 7, 8, 13, 16, 31, 64] {
                let found = all_logits(&model, ids, options(chunk));
                assert!(same_bits(&found, &whole), "{case}: threads {threads}, chunk {chunk}");
            }
        }
    });
}

#[test]
fn decoding_token_by_token_gives_the_bits_of_prefill() {
    for kv in [KvFormat::F32, KvFormat::F16, KvFormat::Q8] {
        each(|case, plan, ids| {
            let model = plan.open(BackendKind::Cpu, 2);
            let options = SessionOptions { kv, ..SessionOptions::default() };
            let whole = all_logits(&model, ids, options);
            let mut session = model.session(options).expect("a session");
            let sequence = session.sequence();
            let mut found = Vec::new();
            for id in ids {
                let work = [Work { sequence, tokens: &[*id], wanted: Wanted::Last }];
                session.step(&work, |_, row| found.extend_from_slice(row)).expect("a step");
            }
            assert!(same_bits(&found, &whole), "{case}, kv {kv:?}");
        });
    }
}

/// Decodes several sequences as one batch, each at its own position.
fn batched(model: &Model, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
    let mut session = model.session(options(7)).expect("a session");
    let handles: Vec<_> = sequences.iter().map(|_| session.sequence()).collect();
    let mut found = vec![Vec::new(); sequences.len()];
    // Uneven steps: sequence i advances by i + 1 tokens at a time.
    let mut done = vec![0; sequences.len()];
    while done.iter().zip(sequences).any(|(d, s)| *d < s.len()) {
        let mut indices = Vec::new();
        let mut work = Vec::new();
        for (i, tokens) in sequences.iter().enumerate() {
            let end = tokens.len().min(done[i] + i + 1);
            if done[i] < end {
                let tokens = &tokens[done[i]..end];
                work.push(Work { sequence: handles[i], tokens, wanted: Wanted::All });
                indices.push(i);
                done[i] = end;
            }
        }
        let step = session.step(&work, |row, logits| {
            found[indices[row.work]].extend_from_slice(logits);
        });
        step.expect("a step");
    }
    found
}

#[test]
fn neighbours_in_a_batch_change_no_bit() {
    each(|case, plan, ids| {
        let model = plan.open(BackendKind::Cpu, 2);
        let reversed: Vec<u32> = ids.iter().rev().copied().collect();
        let sequences: [&[u32]; 4] = [ids, &reversed[..17], &ids[3..40], &reversed];
        for (i, found) in batched(&model, &sequences).iter().enumerate() {
            let alone = all_logits(&model, sequences[i], options(256));
            assert!(same_bits(found, &alone), "{case}: sequence {i}");
        }
    });
}
