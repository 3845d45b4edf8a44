//! Real students on the backend of GPUs against the CPU backend, and what sessions do there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use limbeck::plan::{Activation, Op, Operand, OperandKind};
use limbeck::text::{GenerateOptions, Sampler, SamplerOptions, generate};
use limbeck::{
    BackendKind, Budget, DeviceUse, Encoder, Limits, Model, SessionOptions, Usage, Wanted, Work,
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
    let precise = Compiled::precise(&source, Quant::Q4);
    let on_both = |plan: &Compiled| [BackendKind::Wgpu, BackendKind::Cpu].map(|b| plan.open(b, 0));
    let [gpu, cpu] = on_both(&plan);
    let greedy = gpu.clone();
    let vocab = cpu.manifest().vocab_size;
    // One 8-bit part makes as much of a sum's last bit as of its own steps: instruction sets of the CPU, and the
    // reference, are as far from one another. Two parts leave what the backends compute otherwise.
    let pairs = [(on_both(&precise), 1e-3, 62), ([gpu, cpu.clone()], 6e-2, 57)];
    let used = pairs.map(|([gpu, cpu], bar, least)| {
        let (found, used) = forced(&gpu, prompt, tokens);
        let (expected, none) = forced(&cpu, prompt, tokens);
        assert_eq!(none, None);
        let rows = found.chunks_exact(vocab).zip(expected.chunks_exact(vocab));
        let agree = rows.filter(|(a, b)| argmax(a) == argmax(b)).count();
        let error = relative_error(&found, &expected);
        println!("relative error {error:.2e}, {agree} of 64 agree");
        assert!(error <= bar, "relative error {error:.2e}");
        assert!(agree >= least, "{agree} of 64 agree");
        used.expect("a device")
    });

    // 30 layers, in each of which two norms are prologues; embedding, rows and logits beside them.
    let [_, used] = used;
    println!("a decoded token: {used:?}");
    assert!(used.dispatches <= 30 * 6 + 3, "{} dispatches", used.dispatches);
    assert_eq!((used.submissions, used.bytes_read_back), (1, vocab * 4));
    let mut session = greedy.session(SessionOptions::default()).expect("a session");
    let sequence = session.sequence();
    let work = [Work { sequence, tokens: &prompt[..1], wanted: Wanted::Last }];
    session.step_greedy(&mut Usage::default(), &work, |_, _| {}).expect("a step");
    let peak = session.device_use().expect("a device");
    assert_eq!((peak.submissions, peak.bytes_read_back), (1, 12));
    assert_eq!(peak.dispatches, used.dispatches + 2);
    // Of 128 logits their ids, values and masses before them, with the masses of slices.
    let bytes = 4 * (1 + 3 * 128 + vocab.div_ceil(1024));
    let sampler = SamplerOptions { temperature: 0.3, seed: 3, ..SamplerOptions::default() };
    let options = GenerateOptions { max_tokens: 2, sampler, ..GenerateOptions::default() };
    let go = |_: limbeck::text::Piece<'_>| ControlFlow::Continue(());
    generate(&mut session, sequence, &prompt[1..9], 1, &options, go).expect("a generation");
    let draw = session.device_use().expect("a device");
    assert_eq!((draw.submissions, draw.bytes_read_back), (1, bytes));
    assert_eq!(draw.dispatches, used.dispatches + 3);
    let weights: u64 = cpu.plan().program().weights.iter().map(|w| w.bytes).sum();
    assert!(used.weight_bytes_held as f64 <= 1.02 * weights as f64, "{weights} bytes of weights");
}

#[test]
fn greedy_tokens_are_chosen_where_the_logits_are() {
    if !adapter() {
        return;
    }
    for student in ["tiny/llama", "acm/decoder", "moe/qwen3_moe"] {
        let plan = Compiled::new(&golden().join(student), Quant::F32, true);
        let model = plan.open(BackendKind::Wgpu, 0);
        let options = GenerateOptions { max_tokens: 12, ignore_eos: true, ..Default::default() };
        let mut session = model.session(SessionOptions::default()).expect("a session");
        let sequence = session.sequence();
        let generation =
            generate(
                &mut session,
                sequence,
                &[3, 1, 4],
                2,
                &options,
                |_| ControlFlow::Continue(()),
            );
        let used = session.device_use().expect("a device");
        // Two sequences with three words each, and the choices at sites.
        let sites = model.plan().program().sites.len();
        assert!(used.bytes_read_back <= 2 * 12 + sites * 64, "{student}: {used:?}");
        assert!(sites > 0 || used.bytes_read_back == 2 * 12, "{student}: {used:?}");

        let mut sampler = Sampler::new(SamplerOptions::default()).expect("a sampler");
        let mut session = model.session(SessionOptions::default()).expect("a session");
        let sequence = session.sequence();
        let (mut next, mut found) = (vec![3, 1, 4], Vec::new());
        while found.len() < 12 {
            let work = [Work { sequence, tokens: &next, wanted: Wanted::Last }];
            let mut logits = Vec::new();
            session.step(&work, |_, row| logits.extend_from_slice(row)).expect("a step");
            let sampled = sampler.sample(&logits, &[]).expect("a token");
            found.push(sampled);
            next = vec![sampled.token];
        }
        for continuation in generation.expect("a generation").continuations {
            let tokens = found.iter().map(|s| s.token).collect::<Vec<_>>();
            assert_eq!(continuation.tokens, tokens, "{student}");
            for (a, b) in continuation.logprobs.iter().zip(&found) {
                assert!((a - b.logprob).abs() < 1e-4, "{student}: {a}, {b:?}");
            }
        }
    }
}

/// A model whose logits are none below 0, so that many are 0.
fn rectified(model: &Model) -> Model {
    let mut program = model.plan().program().clone();
    let entry = &mut program.entries[0];
    let is_logits = |(id, operand): (usize, &Operand)| (operand.name == "logits").then_some(id);
    let logits = entry.operands_of(OperandKind::Output).find_map(is_logits).expect("logits");
    let steps = entry.segments.iter_mut().flat_map(|segment| &mut segment.steps);
    let last = steps.filter(|step| step.outputs.contains(&logits)).last().expect("a step");
    let Op::Linear(linear) = &mut last.op else { panic!("logits of {:?}", last.op) };
    linear.activation = Activation::Relu;
    model.with_program(program).expect("the program")
}

/// What a sampler and its fork choose of the logits of two sequences that are computed together.
fn sampled_by_logits(model: &Model, options: &SamplerOptions, prompt: &[u32]) -> [Vec<u32>; 2] {
    let sampler = Sampler::new(options.clone()).expect("a sampler");
    let mut samplers = [sampler.clone(), sampler.fork(1)];
    let mut session = model.session(SessionOptions::default()).expect("a session");
    let first = session.sequence();
    let mut logits = Vec::new();
    let work = [Work { sequence: first, tokens: prompt, wanted: Wanted::Last }];
    session.step(&work, |_, row| logits.extend_from_slice(row)).expect("a step");
    let sequences = [first, session.fork(first).expect("a fork")];
    let mut rows = [logits.clone(), logits];
    let mut found = [Vec::new(), Vec::new()];
    loop {
        for i in 0..2 {
            let sampled = samplers[i].sample(&rows[i], &[]).expect("a token");
            found[i].push(sampled.token);
        }
        if found[0].len() == 12 {
            return found;
        }
        let tokens =
            [found[0].last().copied(), found[1].last().copied()].map(|t| [t.expect("one")]);
        let work = [0, 1].map(|i| Work {
            sequence: sequences[i],
            tokens: &tokens[i],
            wanted: Wanted::Last,
        });
        session.step(&work, |row, logits| rows[row.work] = logits.to_vec()).expect("a step");
    }
}

#[test]
fn tokens_are_sampled_from_a_shortlist_as_from_all_logits() {
    if !adapter() {
        return;
    }
    let sampled = |temperature, top_k, top_p, min_p| {
        let seed = 11;
        SamplerOptions { temperature, top_k, top_p, min_p, seed, ..SamplerOptions::default() }
    };
    let filtered = |top_k| sampled(0.8, top_k, 0.9, 0.0);
    let check = |case: &str, model: &Model, sampler: SamplerOptions, words: usize, times: usize| {
        let prompt = [3, 1, 4];
        let tokens = sampled_by_logits(model, &sampler, &prompt);
        let options = GenerateOptions {
            max_tokens: 12,
            ignore_eos: true,
            sampler: sampler.clone(),
            ..Default::default()
        };
        let mut session = model.session(SessionOptions::default()).expect("a session");
        let sequence = session.sequence();
        let go = |_: limbeck::text::Piece<'_>| ControlFlow::Continue(());
        let generation = generate(&mut session, sequence, &prompt, 2, &options, go);
        let found = generation.expect("a generation").continuations;
        assert_eq!([&found[0].tokens, &found[1].tokens], [&tokens[0], &tokens[1]], "{case}");
        assert!(sampler.temperature < 0.1 || tokens[0] != tokens[1], "{case}: {tokens:?}");
        let used = session.device_use().expect("a device");
        // Choices at sites beside them.
        let sites = model.plan().program().sites.len();
        let bytes = 2 * words * 4;
        assert!(used.bytes_read_back <= bytes + sites * 64, "{case}: {used:?}");
        assert!(used.bytes_read_back >= bytes, "{case}: {used:?}");
        assert_eq!(used.submissions, times, "{case}");
    };
    for student in ["tiny/llama", "acm/decoder", "moe/qwen3_moe"] {
        let plan = Compiled::new(&golden().join(student), Quant::F32, true);
        let model = plan.open(BackendKind::Wgpu, 0);
        let vocab = model.manifest().vocab_size;
        check(student, &model, filtered(40), 2 * 41 + 1, 1);
        check(student, &model, filtered(vocab + 1), vocab, 1);
        // Of a quarter of the logits, with masses: those of the largest come nearly to all where it is cold, and are
        // too few where it is hot.
        let words = 1 + 3 * (vocab / 4) + 1;
        for (top_p, min_p) in [(1.0, 0.0), (0.9, 0.0), (1.0, 0.1), (0.9, 0.1)] {
            check(student, &model, sampled(0.02, 0, top_p, min_p), words, 1);
        }
        for (top_p, min_p) in [(1.0, 0.0), (0.9, 0.0), (1.0, 0.01)] {
            check(student, &model, sampled(50.0, 0, top_p, min_p), words + vocab, 2);
        }
    }
    // As many are as large as the last: the list does not tell them all.
    let plan = Compiled::new(&golden().join("acm/decoder"), Quant::F32, true);
    let model = rectified(&plan.open(BackendKind::Wgpu, 0));
    let vocab = model.manifest().vocab_size;
    check("rectified", &model, filtered(vocab - 6), 2 * (vocab - 5) + 1 + vocab, 2);
}

/// Bytes that a route reads of the weights of ops that follow choices, and the bytes that they have; one token.
fn bytes_of_route(model: &Model, route: &[i32]) -> (f64, f64) {
    let program = model.plan().program();
    let entry = &program.entries[0];
    let bytes = |id: usize| match entry.operands[id].kind {
        OperandKind::Weight(weight) => program.weights[weight].bytes as f64,
        _ => 0.0,
    };
    let mut sites = BTreeMap::new();
    let (mut read, mut all) = (0.0, 0.0);
    for step in entry.steps() {
        let (share, weights) = match &step.op {
            Op::Choose(p) => {
                sites.insert(step.outputs[0], p.site);
                continue;
            }
            Op::AdaptiveMlp(p) => {
                let chosen = f64::from(route[sites[&step.inputs[1]]]);
                let second = 3 + usize::from(p.bias);
                (chosen / p.learners as f64, [step.inputs[2], step.inputs[second]])
            }
            Op::MoeMlp(p) => {
                let chosen = f64::from(route[p.site]);
                (chosen / p.experts as f64, [step.inputs[2], step.inputs[3]])
            }
            _ => continue,
        };
        let whole: f64 = weights.into_iter().map(bytes).sum();
        read += share * whole;
        all += whole;
    }
    (read, all)
}

#[test]
fn bytes_that_adaptive_ops_read_follow_the_fraction() {
    if !adapter() {
        return;
    }
    for (student, quant) in [
        ("acm/decoder", Quant::F32),
        ("acm/decoder", Quant::Q8),
        ("acm/decoder_affine", Quant::Q4),
        ("moe/qwen3_moe", Quant::F32),
        ("moe/mixtral", Quant::Q4),
    ] {
        let plan = Compiled::new(&golden().join(student), quant, true);
        let model = plan.open(BackendKind::Wgpu, 0);
        let mut shares = Vec::new();
        for fraction in [1.0, 0.5] {
            let mut session = model.session(SessionOptions::default()).expect("a session");
            let budget = Budget::Fraction(fraction);
            session.control().set_budget(budget, Limits::default()).expect("a budget");
            let sequence = session.sequence();
            let (mut counted, mut chosen, mut all) = (0.0, 0.0, 0.0);
            let mut usage = Usage::default();
            for token in 0..48 {
                let tokens = [token * 7 % 60];
                let work = [Work { sequence, tokens: &tokens, wanted: Wanted::Last }];
                session.step_onto(&mut usage, &work, |_, _| {}).expect("a step");
                let used = session.device_use().expect("a device");
                let (read, whole) = bytes_of_route(&model, session.route());
                counted += used.adaptive_bytes_read as f64;
                (chosen, all) = (chosen + read, all + whole);
            }
            let (found, wanted) = (counted / all, chosen / all);
            let case = format!("{student} in {quant}, fraction {fraction}");
            println!("{case}: {found:.3} of the bytes, chosen {wanted:.3}, {:?}", usage.fraction);
            assert!((found - wanted).abs() <= 0.05 * wanted, "{case}: {found} of {wanted}");
            shares.push(found);
        }
        assert!(shares[1] < 0.95 * shares[0], "{student}: {shares:?}");
    }
}

#[test]
fn minilm_with_a_dial_chooses_and_embeds_as_on_the_cpu() {
    if !adapter() {
        return;
    }
    let Some(minilm) = student(MINILM) else { return };
    let sentences = sentences();
    let all: Vec<&str> = sentences.iter().take(100).map(String::as_str).collect();
    // Activations in 8 bits move some gates, .8 % of them in 200 texts, as between instruction sets of CPUs; a text with
    // another choice is further off.
    for (quant, bar, texts) in [(Quant::F32, 0.99999, &all[..20]), (Quant::Q8, 0.99, &all[..])] {
        let plan = Compiled::with(&minilm, &[minilm_acm()], quant, true);
        let run = |backend, price: f64| {
            let mut encoder = Encoder::new(&plan.open(backend, 0)).expect("an encoder");
            encoder.control().set_budget(Budget::Price(price), Limits::default()).expect("a price");
            let (mut embeddings, mut route, mut fractions) = (Vec::new(), Vec::new(), 0.0);
            // A software adapter on a busy machine takes minutes for all at once, and a step has two.
            for texts in texts.chunks(20) {
                let (some, usage) = encoder.embed(texts).expect("embeddings");
                embeddings.extend(some);
                route.extend_from_slice(encoder.route());
                fractions += usage.fraction * texts.len() as f64;
            }
            (embeddings, fractions / texts.len() as f64, route)
        };
        for price in [0.0, 0.04] {
            let (found, fraction, route) = run(BackendKind::Wgpu, price);
            let (expected, wanted, other) = run(BackendKind::Cpu, price);
            let differ = route.iter().zip(&other).filter(|(a, b)| a != b).count();
            let worst = found.iter().zip(&expected).map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
            let case = format!("{quant}, price {price}");
            println!("{case}: cosine {worst:.6}, {differ} of {} choices differ", route.len());
            assert_eq!(route.len(), other.len(), "{case}");
            assert!(differ * 100 <= route.len(), "{case}: {differ} choices differ");
            assert!(worst >= bar, "{case}: cosine {worst}");
            assert!((fraction - wanted).abs() <= 0.01, "{case}: {fraction}, {wanted}");
        }
    }
}
