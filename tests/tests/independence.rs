//! A token's results depend on that token and its context alone: bit-identical logits whatever the
//! chunking, the batch and the number of threads, in every number format.

use limbeck::{
    BackendKind, Budget, KvFormat, Limits, Model, Session, SessionOptions, Wanted, Work,
};
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
/// With adaptive modules or mixtures, run at this price.
const ADAPTIVE: &[&str] =
    &["acm/decoder", "acm/decoder_affine", "moe/mixtral", "moe/qwen2_moe", "moe/llava_f"];
const PRICE: f64 = 0.8;
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

/// So many rows that they run in bands, on each thread its own.
#[test]
fn bands_of_rows_change_no_bit() {
    each(|case, plan, ids| {
        let long: Vec<u32> = ids.iter().copied().cycle().take(117).collect();
        let few = all_logits(&plan.open(BackendKind::Cpu, 1), &long, options(16));
        for threads in [1, 2, 3] {
            let found = all_logits(&plan.open(BackendKind::Cpu, threads), &long, options(256));
            assert!(same_bits(&found, &few), "{case}: {threads} threads");
        }
    });
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

/// What a token gave: the bits of its logits and its choice at each site.
type Token = (Vec<u32>, Vec<i32>);

fn adaptive(name: &str, quant: Quant) -> (Compiled, Vec<u32>) {
    let folder = golden().join(name);
    let (_, ids) = Npz::open(&folder.join("expected.npz")).ids("input_ids");
    (Compiled::new(&folder, quant, true), ids)
}

fn priced(model: &Model, chunk: usize) -> Session {
    let session = model.session(options(chunk)).expect("a session");
    session.control().set_budget(Budget::Price(PRICE), Limits::default()).expect("a price");
    session
}

/// Runs a step and gives the tokens of each of its sequences.
fn step(session: &mut Session, work: &[Work<'_>]) -> Vec<Vec<Token>> {
    let mut found = vec![Vec::new(); work.len()];
    let taken = session.step(work, |row, logits| {
        found[row.work].push((logits.iter().map(|v| v.to_bits()).collect(), Vec::new()));
    });
    taken.expect("a step");
    let rows = work.iter().map(|w| w.tokens.len()).sum();
    for (at, (_, choices)) in found.iter_mut().flatten().enumerate() {
        *choices = session.route().chunks_exact(rows).map(|site| site[at]).collect();
    }
    found
}

/// One sequence, so many tokens a step.
fn alone(model: &Model, ids: &[u32], chunk: usize, tokens: usize) -> Vec<Token> {
    let mut session = priced(model, chunk);
    let sequence = session.sequence();
    let mut found = Vec::new();
    for tokens in ids.chunks(tokens) {
        let work = [Work { sequence, tokens, wanted: Wanted::All }];
        found.extend(step(&mut session, &work).into_iter().flatten());
    }
    found
}

#[test]
fn an_adaptive_token_chooses_and_computes_alike_wherever_it_stands() {
    for name in ADAPTIVE {
        for &quant in QUANTS {
            let (plan, ids) = adaptive(name, quant);
            let model = plan.open(BackendKind::Cpu, 2);
            let case = format!("{name} {quant}");
            let whole = alone(&model, &ids, 256, ids.len());
            let sites = model.plan().program().sites.len();
            let differ = |site: usize| whole.iter().any(|t| t.1[site] != whole[0].1[site]);
            assert!((0..sites).filter(|s| differ(*s)).count() * 2 > sites, "{case}");
            for threads in [1, 3, 5] {
                let model = plan.open(BackendKind::Cpu, threads);
                assert!(alone(&model, &ids, 256, ids.len()) == whole, "{case}, {threads} threads");
            }
            for (chunk, tokens) in [(5, ids.len()), (256, 7), (256, 1)] {
                let found = alone(&model, &ids, chunk, tokens);
                assert!(found == whole, "{case}: chunks of {chunk}, {tokens} tokens a step");
            }
            let reversed: Vec<u32> = ids.iter().rev().copied().collect();
            let sequences = [&ids[..], &reversed[..17], &ids[3..40], &reversed];
            let mut session = priced(&model, 11);
            let handles = sequences.map(|_| session.sequence());
            let mut found = sequences.map(|_| Vec::new());
            for round in 0..ids.len() {
                // Sequence i advances by i + 1 tokens at a time.
                let part = |i: usize| {
                    let (len, step) = (sequences[i].len(), i + 1);
                    &sequences[i][len.min(round * step)..len.min((round + 1) * step)]
                };
                let active: Vec<usize> = (0..4).filter(|i| !part(*i).is_empty()).collect();
                let work = active.iter().map(|&i| Work {
                    sequence: handles[i],
                    tokens: part(i),
                    wanted: Wanted::All,
                });
                let work: Vec<Work<'_>> = work.collect();
                for (i, tokens) in active.iter().zip(step(&mut session, &work)) {
                    found[*i].extend(tokens);
                }
            }
            for (i, found) in found.iter().enumerate() {
                let alone = alone(&model, sequences[i], 256, sequences[i].len());
                assert!(*found == alone, "{case}: sequence {i} of a batch");
            }
        }
    }
}
