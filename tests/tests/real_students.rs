//! Real students against PyTorch and their own unquantised plans.
//!
//! Expected values: `golden/smollm2.py` and `golden/minilm.py` (transformers on the same weights).

use std::ops::ControlFlow;

use limbeck::text::{GenerateOptions, generate, log_probabilities};
use limbeck::{BackendKind, Encoder, EncoderInput, KvFormat, Model, SessionOptions, Wanted, Work};
use limbeck_compiler::Quant;
use limbeck_tests::{
    Compiled, MINILM, Npz, SMOLLM2, all_logits, cosine, golden, relative_error, student,
};

/// Threads to compute with; results do not depend on it.
const THREADS: usize = 0;

fn exact() -> SessionOptions {
    SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() }
}

#[test]
fn smollm2_in_f32_gives_the_logits_and_greedy_tokens_of_transformers() {
    let Some(source) = student(SMOLLM2) else { return };
    let model = Compiled::new(&source, Quant::F32, true).open(BackendKind::Cpu, THREADS);
    let mut expected = Npz::open(&golden().join("smollm2.npz"));
    let (_, ids) = expected.ids("input_ids");
    let (_, columns) = expected.ids("columns");
    let (_, sampled) = expected.floats("logits");
    let (_, norms) = expected.floats("norms");
    assert_eq!(ids.len(), 256);
    let vocab = model.manifest().vocab_size;
    let logits = all_logits(&model, &ids, exact());
    let rows = || logits.chunks_exact(vocab);
    let found: Vec<f32> = rows().flat_map(|row| columns.iter().map(|c| row[*c as usize])).collect();
    let error = relative_error(&found, &sampled);
    println!("relative error {error:.2e} over {} columns", columns.len());
    assert!(error <= 1e-4, "relative error {error:.2e}");
    let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
    let error = relative_error(&rows().map(norm).collect::<Vec<_>>(), &norms);
    assert!(error <= 1e-4, "relative error of the norms {error:.2e}");

    let options =
        GenerateOptions { max_tokens: 64, ignore_eos: true, ..GenerateOptions::default() };
    for prompt in 0..5 {
        let (_, ids) = expected.ids(&format!("prompt_{prompt}"));
        let (_, greedy) = expected.ids(&format!("greedy_{prompt}"));
        let mut session = model.session(exact()).expect("a session");
        let sequence = session.sequence();
        let go_on = |_: limbeck::text::Piece<'_>| ControlFlow::Continue(());
        let found = generate(&mut session, sequence, &ids, 1, &options, go_on);
        let found = found.expect("a generation").continuations.remove(0).tokens;
        assert_eq!(found, greedy, "prompt {prompt}");
    }
}

/// Perplexity of the fixed text in windows of 512, the second half of each scored.
fn perplexity(model: &Model) -> f64 {
    const WINDOW: usize = 512;
    let text = std::fs::read_to_string(golden().join("text.txt")).expect("the text");
    let ids = model.tokenizer().expect("a tokenizer").encode(&text, false).expect("ids");
    let mut session = model.session(SessionOptions::default()).expect("a session");
    let (mut sum, mut count) = (0.0, 0);
    for window in ids.chunks_exact(WINDOW) {
        let sequence = session.sequence();
        let work = [Work { sequence, tokens: &window[..WINDOW - 1], wanted: Wanted::All }];
        let mut logprobs = vec![0.0; model.manifest().vocab_size];
        let step = session.step(&work, |row, logits| {
            if row.token + 1 > WINDOW / 2 {
                log_probabilities(logits, &mut logprobs).expect("finite logits");
                sum -= f64::from(logprobs[window[row.token + 1] as usize]);
                count += 1;
            }
        });
        step.expect("a step");
        session.free(sequence).expect("free");
    }
    assert!(count > 500, "the text is too short");
    (sum / f64::from(count)).exp()
}

#[test]
fn smollm2_keeps_its_perplexity_when_packed() {
    let Some(source) = student(SMOLLM2) else { return };
    let of =
        |quant| perplexity(&Compiled::new(&source, quant, true).open(BackendKind::Cpu, THREADS));
    let full = of(Quant::F32);
    for (quant, bound) in [(Quant::F16, 0.001), (Quant::Q8, 0.005), (Quant::Q4, 0.015)] {
        let ratio = of(quant) / full;
        println!("{quant}: perplexity {:.4}, {ratio:.5} of f32", ratio * full);
        assert!((ratio - 1.0).abs() <= bound, "{quant}: {ratio:.5} of the f32 plan's {full:.3}");
    }
}

#[test]
fn minilm_gives_the_embeddings_of_transformers() {
    let Some(source) = student(MINILM) else { return };
    let mut expected = Npz::open(&golden().join("minilm.npz"));
    let (shape, ids) = expected.ids("input_ids");
    let (_, mask) = expected.ids("attention_mask");
    let (_, embeddings) = expected.floats("embedding");
    let (count, tokens) = (shape[0], shape[1]);
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let inputs: Vec<EncoderInput<'_>> = (ids.chunks(tokens).zip(mask.chunks(tokens)))
        .map(|(ids, mask)| EncoderInput {
            ids,
            positions: &positions,
            keys: mask.iter().filter(|m| **m == 1).count(),
        })
        .collect();
    for (quant, bar) in [(Quant::F32, 0.99999), (Quant::Q8, 0.999), (Quant::Q4, 0.98)] {
        let model = Compiled::new(&source, quant, true).open(BackendKind::Cpu, THREADS);
        let mut encoder = Encoder::new(&model).expect("an encoder");
        let size = model.manifest().embedding_size;
        let mut worst = 1.0f64;
        let usage = encoder.encode(&inputs, |i, e| {
            worst = worst.min(cosine(e.embedding, &embeddings[i * size..][..size]));
        });
        usage.expect("an encoding");
        println!("{quant}: smallest cosine of {count} sentences {worst:.6}");
        assert!(worst >= bar, "{quant}: cosine {worst:.6} is below {bar}");
    }
}

#[test]
fn minilm_gives_the_same_bits_alone_and_in_a_batch() {
    let Some(source) = student(MINILM) else { return };
    let file = std::fs::File::open(golden().join("minilm.json")).expect("the sentences");
    let golden: serde_json::Value = serde_json::from_reader(file).expect("JSON");
    let sentences = golden.as_array().or_else(|| golden["sentences"].as_array());
    let texts: Vec<&str> =
        sentences.expect("sentences").iter().filter_map(|s| s.as_str()).collect();
    let model = Compiled::new(&source, Quant::Q8, true).open(BackendKind::Cpu, THREADS);
    let mut encoder = Encoder::new(&model).expect("an encoder");
    let (all, _) = encoder.embed(&texts).expect("embeddings");
    assert_eq!(all.len(), 32);
    for (text, expected) in texts.iter().zip(&all) {
        let (alone, _) = encoder.embed(&[text]).expect("an embedding");
        assert_eq!(&alone[0], expected, "{text:?}");
    }
}
