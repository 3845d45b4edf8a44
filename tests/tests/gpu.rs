//! Real students on the backend of GPUs against the CPU backend, and what sessions do there.

use limbeck::{
    BackendKind, Budget, DeviceUse, Encoder, Limits, Model, SessionOptions, Wanted, Work,
};
use limbeck_compiler::Quant;
use limbeck_tests::{
    Compiled, MINILM, Npz, SMOLLM2, adapter, cosine, golden, minilm_acm, relative_error, sentences,
    student,
};

fn argmax(row: &[f32]) -> usize {
    let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    best.expect("a row")
}

/// The logits after each of `tokens`, which are given one at a time after the prompt.
fn forced(model: &Model, prompt: &[u32], tokens: &[u32]) -> (Vec<f32>, Option<DeviceUse>) {
    let mut session = model.session(SessionOptions::default()).expect("a session");
    let sequence = session.sequence();
    let mut logits = Vec::new();
    let mut step = |tokens: &[u32], wanted| {
        let work = [Work { sequence, tokens, wanted }];
        session.step(&work, |_, row| logits.extend_from_slice(row)).expect("a step");
    };
    step(prompt, Wanted::None);
    tokens.iter().for_each(|token| step(&[*token], Wanted::Last));
    (logits, session.device_use())
}

#[test]
fn smollm2_in_4_bits_follows_the_cpu_backend() {
    if !adapter() {
        return;
    }
    let Some(source) = student(SMOLLM2) else { return };
    let plan = Compiled::new(&source, Quant::Q4, true);
    let (_, ids) = Npz::open(&golden().join("smollm2.npz")).ids("input_ids");
    let (prompt, tokens) = ids[..96].split_at(32);
    assert_eq!(tokens.len(), 64);
    let cpu = plan.open(BackendKind::Cpu, 0);
    let (found, used) = forced(&plan.open(BackendKind::Wgpu, 0), prompt, tokens);
    let vocab = cpu.manifest().vocab_size;
    let agree = |expected: &[f32]| {
        let rows = found.chunks_exact(vocab).zip(expected.chunks_exact(vocab));
        rows.filter(|(a, b)| argmax(a) == argmax(b)).count()
    };
    let (expected, none) = forced(&cpu, prompt, tokens);
    let error = relative_error(&found, &expected);
    println!("relative error {error:.2e}, {} of 64 agree", agree(&expected));
    assert!(error <= 1e-2, "relative error {error:.2e}");
    assert!(agree(&expected) >= 62, "{} of 64 agree", agree(&expected));

    // 30 layers; embedding, last norm, rows and logits beside them.
    let used = used.expect("a device");
    println!("a decoded token: {used:?}");
    assert_eq!(none, None);
    assert!(used.dispatches <= 30 * 8 + 4, "{} dispatches", used.dispatches);
    assert_eq!((used.submissions, used.bytes_read_back), (1, vocab * 4));
    let weights: u64 = cpu.plan().program().weights.iter().map(|w| w.bytes).sum();
    assert!(used.weight_bytes_held as f64 <= 1.02 * weights as f64, "{weights} bytes of weights");
}

#[test]
fn minilm_with_a_dial_chooses_and_embeds_as_on_the_cpu() {
    if !adapter() {
        return;
    }
    let Some(minilm) = student(MINILM) else { return };
    let sentences = sentences();
    let texts: Vec<&str> = sentences.iter().take(6).map(String::as_str).collect();
    // Activations in 8 bits move some gates; a text with another choice is further off.
    for (quant, bar) in [(Quant::F32, 0.99999), (Quant::Q8, 0.99)] {
        let plan = Compiled::with(&minilm, &[minilm_acm()], quant, true);
        let run = |backend, price: f64| {
            let mut encoder = Encoder::new(&plan.open(backend, 0)).expect("an encoder");
            encoder.control().set_budget(Budget::Price(price), Limits::default()).expect("a price");
            let (embeddings, usage) = encoder.embed(&texts).expect("embeddings");
            (embeddings, usage, encoder.route().to_vec())
        };
        for price in [0.0, 0.04] {
            let (found, usage, route) = run(BackendKind::Wgpu, price);
            let (expected, wanted, other) = run(BackendKind::Cpu, price);
            let differ = route.iter().zip(&other).filter(|(a, b)| a != b).count();
            let worst = found.iter().zip(&expected).map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
            let case = format!("{quant}, price {price}");
            println!("{case}: cosine {worst:.6}, {differ} of {} choices differ", route.len());
            assert_eq!(route.len(), other.len(), "{case}");
            assert!(differ * 100 <= route.len(), "{case}: {differ} choices differ");
            assert!(worst >= bar, "{case}: cosine {worst}");
            assert!((usage.fraction - wanted.fraction).abs() <= 0.01, "{case}: {usage:?}");
        }
    }
}
