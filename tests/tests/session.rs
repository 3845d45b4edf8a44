//! Sessions: forks, rewinding, snapshots, cancellation, limits.

use std::ops::ControlFlow;
use std::time::Duration;

use limbeck::text::{Finish, GenerateOptions, Generator, Piece, SamplerOptions, generate};
use limbeck::{
    BackendKind, Budget, ErrorKind, KvFormat, Limits, Model, Sequence, Session, SessionOptions,
    Unmet, Wanted, Work,
};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, golden};

fn tiny() -> (Compiled, Vec<u32>) {
    let folder = golden().join("tiny/llama");
    let ids = Npz::open(&folder.join("expected.npz")).ids("input_ids").1;
    (Compiled::new(&folder, Quant::F32, true), ids)
}

fn step(session: &mut Session, sequence: Sequence, tokens: &[u32]) -> Vec<f32> {
    let mut logits = Vec::new();
    let work = [Work { sequence, tokens, wanted: Wanted::Last }];
    session.step(&work, |_, row| logits.extend_from_slice(row)).expect("a step");
    logits
}

fn open(plan: &Compiled) -> (Model, Session) {
    let model = plan.open(BackendKind::Cpu, 2);
    let session = model.session(SessionOptions::default()).expect("a session");
    (model, session)
}

#[test]
fn forks_share_their_prefix_and_then_go_their_own_ways() {
    let (plan, ids) = tiny();
    let (_model, mut session) = open(&plan);
    let first = session.sequence();
    step(&mut session, first, &ids[..40]);
    let before = session.cache_bytes();
    let second = session.fork(first).expect("a fork");
    assert_eq!(session.cache_bytes(), before, "a fork alone takes no cache");
    let a = step(&mut session, first, &ids[40..44]);
    let b = step(&mut session, second, &ids[44..47]);
    // One block of the two is shared, the tail is not.
    assert!(session.cache_bytes() > before && session.cache_bytes() < 2 * before);
    let mut alone = |tokens: Vec<u32>| {
        let sequence = session.sequence();
        step(&mut session, sequence, &tokens)
    };
    assert_eq!(a, alone(ids[..44].to_vec()));
    assert_eq!(b, alone([&ids[..40], &ids[44..47]].concat()));
}

#[test]
fn rewinding_forgets_exactly_the_tokens_after_it() {
    let (plan, ids) = tiny();
    let (_model, mut session) = open(&plan);
    let sequence = session.sequence();
    let expected = step(&mut session, sequence, &ids[..33]);
    step(&mut session, sequence, &ids[33..45]);
    session.rewind(sequence, 32).expect("rewind");
    assert_eq!(session.position(sequence).expect("position"), 32);
    assert_eq!(step(&mut session, sequence, &ids[32..33]), expected);
    let e = session.rewind(sequence, 34).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}

#[test]
fn snapshots_restore_in_another_session_and_nowhere_else() {
    let (plan, ids) = tiny();
    let (model, mut session) = open(&plan);
    let sequence = session.sequence();
    step(&mut session, sequence, &ids[..37]);
    let snapshot = session.snapshot(sequence).expect("a snapshot");
    let expected = step(&mut session, sequence, &ids[37..38]);
    let mut other = model.session(SessionOptions::default()).expect("a session");
    let restored = other.restore(&snapshot).expect("restore");
    assert_eq!(step(&mut other, restored, &ids[37..38]), expected);

    let refused = |session: &mut Session, bytes: &[u8]| {
        let e = session.restore(bytes).expect_err("a bad snapshot");
        assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
    };
    for cut in [0, 7, 8, 15, 16, 20, snapshot.len() - 1] {
        refused(&mut other, &snapshot[..cut]);
    }
    let options = SessionOptions { kv: KvFormat::Q8, ..SessionOptions::default() };
    refused(&mut model.session(options).expect("a session"), &snapshot);
    let options = SessionOptions { context: 36, ..SessionOptions::default() };
    refused(&mut model.session(options).expect("a session"), &snapshot);
    let qwen = Compiled::new(&golden().join("tiny/qwen2"), Quant::F32, true);
    refused(&mut open(&qwen).1, &snapshot);
}

#[test]
fn work_that_does_not_fit_changes_nothing() {
    let (plan, ids) = tiny();
    let model = plan.open(BackendKind::Cpu, 1);
    let options = SessionOptions { context: 20, ..SessionOptions::default() };
    let mut session = model.session(options).expect("a session");
    let sequence = session.sequence();
    step(&mut session, sequence, &ids[..18]);
    let vocab = model.manifest().vocab_size as u32;
    let mut refuse = |tokens: &[u32], kind| {
        let work = [Work { sequence, tokens, wanted: Wanted::None }];
        let e = session.step(&work, |_, _| {}).expect_err("work that does not fit");
        assert_eq!(e.kind(), kind, "{e}");
        assert_eq!(session.position(sequence).expect("position"), 18);
    };
    refuse(&ids[..3], ErrorKind::Capacity);
    refuse(&[], ErrorKind::InvalidInput);
    refuse(&[vocab], ErrorKind::InvalidInput);
    refuse(&[u32::MAX], ErrorKind::InvalidInput);
    let twice = [Work { sequence, tokens: &ids[..1], wanted: Wanted::None }; 2];
    assert!(session.step(&twice, |_, _| {}).is_err());
    session.free(sequence).expect("free");
    let work = [Work { sequence, tokens: &ids[..1], wanted: Wanted::None }];
    assert!(session.step(&work, |_, _| {}).is_err(), "a freed sequence is gone");
}

#[test]
fn a_full_cache_is_an_error_and_the_session_goes_on() {
    let (plan, ids) = tiny();
    let model = plan.open(BackendKind::Cpu, 1);
    let options = SessionOptions { cache_tokens: 64, ..SessionOptions::default() };
    let mut session = model.session(options).expect("a session");
    let (a, b) = (session.sequence(), session.sequence());
    step(&mut session, a, &ids[..33]);
    let work = [Work { sequence: b, tokens: &ids[..2], wanted: Wanted::None }];
    let e = session.step(&work, |_, _| {}).expect_err("no block is left");
    assert_eq!(e.kind(), ErrorKind::Capacity, "{e}");
    session.free(a).expect("free");
    session.step(&work, |_, _| {}).expect("room again");
}

#[test]
fn a_cancelled_step_stops_between_chunks_and_leaves_what_was_committed() {
    let (plan, ids) = tiny();
    let model = plan.open(BackendKind::Cpu, 1);
    let options = SessionOptions { chunk: 8, ..SessionOptions::default() };
    let mut session = model.session(options).expect("a session");
    let sequence = session.sequence();
    let control = session.control();
    let work = [Work { sequence, tokens: &ids[..40], wanted: Wanted::All }];
    let result = session.step(&work, |row, _| {
        if row.token == 15 {
            control.cancel();
        }
    });
    assert_eq!(result.expect_err("cancelled").kind(), ErrorKind::Cancelled);
    assert_eq!(session.position(sequence).expect("position"), 16);
    control.reset();
    let rest = step(&mut session, sequence, &ids[16..40]);
    let fresh = session.sequence();
    assert_eq!(step(&mut session, fresh, &ids[..40]), rest);
}

#[test]
fn a_dense_student_reports_budgets_that_it_cannot_keep() {
    let (plan, ids) = tiny();
    let (_model, mut session) = open(&plan);
    let control = session.control();
    let options = GenerateOptions { max_tokens: 3, ignore_eos: true, ..GenerateOptions::default() };
    let mut run = |prompt: &[u32]| {
        let sequence = session.sequence();
        let go_on = |_: limbeck::text::Piece<'_>| ControlFlow::Continue(());
        generate(&mut session, sequence, prompt, 1, &options, go_on).expect("text")
    };
    let full = run(&ids[..8]);
    assert_eq!((full.prefill.unmet, full.decode.unmet), (None, None));
    let latency = Budget::Latency(Duration::from_secs(1));
    for budget in [Budget::Fraction(0.5), latency] {
        control.set_budget(budget, Limits::default()).expect("a budget");
        let held = run(&ids[..8]);
        assert_eq!(held.prefill.unmet, Some(Unmet::Dense), "{budget}");
        assert_eq!(held.decode.unmet, Some(Unmet::Dense), "{budget}");
        // Nothing else changes.
        assert_eq!(held.continuations[0].tokens, full.continuations[0].tokens);
        assert_eq!(held.decode.macs, full.decode.macs);
    }
    control.set_budget(Budget::Full, Limits::default()).expect("a budget");
    assert_eq!(run(&ids[..8]).decode.unmet, None);
}

#[test]
fn samples_are_reproducible_and_differ_from_one_another() {
    let (plan, ids) = tiny();
    let (_model, mut session) = open(&plan);
    let options = GenerateOptions {
        max_tokens: 12,
        sampler: SamplerOptions { temperature: 1.0, seed: 7, ..SamplerOptions::default() },
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let mut run = |samples| {
        let sequence = session.sequence();
        let prompt = &ids[..20];
        let generation = generate(&mut session, sequence, prompt, samples, &options, |_| {
            ControlFlow::Continue(())
        });
        let continuations = generation.expect("a generation").continuations;
        continuations.into_iter().map(|c| (c.tokens, c.finish)).collect::<Vec<_>>()
    };
    let four = run(4);
    assert_eq!(four, run(4));
    assert_eq!(four[0], run(1)[0], "siblings do not change a sample");
    assert!(four.iter().all(|(tokens, finish)| tokens.len() == 12 && *finish == Finish::MaxTokens));
    assert!(four[1..].iter().all(|s| s != &four[0]));
}

#[test]
fn two_sessions_of_a_model_work_at_once_from_two_threads() {
    let (plan, ids) = tiny();
    let (model, mut session) = open(&plan);
    let sequence = session.sequence();
    let expected = step(&mut session, sequence, &ids);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut session = model.session(SessionOptions::default()).expect("a session");
                    let sequence = session.sequence();
                    assert_eq!(step(&mut session, sequence, &ids), expected);
                }
            });
        }
    });
}

/// Three sampled continuations of 16 tokens.
fn sampled() -> GenerateOptions {
    GenerateOptions {
        max_tokens: 16,
        sampler: SamplerOptions {
            temperature: 1.0,
            seed: 11,
            repetition_penalty: 1.3,
            ..SamplerOptions::default()
        },
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

#[test]
fn a_cancelled_generation_goes_on_as_if_it_had_not_been() {
    let (plan, ids) = tiny();
    let model = plan.open(BackendKind::Cpu, 1);
    let prompt = &ids[..20];
    let options = SessionOptions { chunk: 8, ..SessionOptions::default() };
    let mut session = model.session(options).expect("a session");
    let sequence = session.sequence();
    let go_on = |_: Piece<'_>| ControlFlow::Continue(());
    let whole = generate(&mut session, sequence, prompt, 3, &sampled(), go_on).expect("text");
    let expected: Vec<_> = whole.continuations.iter().map(|c| c.tokens.clone()).collect();

    let mut session = model.session(options).expect("a session");
    let control = session.control();
    let sequence = session.sequence();
    let mut generator =
        Generator::new(&session, sequence, prompt, 3, &sampled()).expect("a generation");
    // Before anything is computed.
    control.cancel();
    let e = generator.run(&mut session, go_on).expect_err("cancelled");
    assert_eq!((e.kind(), generator.committed()), (ErrorKind::Cancelled, 0));
    assert_eq!(session.position(sequence).expect("position"), 0);
    let mut heard: Vec<Vec<u32>> = vec![Vec::new(); 3];
    loop {
        control.reset();
        // After every fourth token: in the midst of a batch too, which ends first.
        let mut count = 0;
        let result = generator.run(&mut session, |piece| {
            heard[piece.sample].extend(piece.token);
            count += 1;
            if count == 4 {
                control.cancel();
            }
            ControlFlow::Continue(())
        });
        assert_eq!(generator.committed(), heard.iter().map(Vec::len).sum::<usize>());
        for (sample, heard) in heard.iter().enumerate() {
            let progress = generator.progress(sample).expect("a continuation");
            assert_eq!(progress.tokens, heard);
            let position = session.position(progress.sequence).expect("position");
            assert_eq!(position, prompt.len() + heard.len() - 1);
        }
        match result {
            Ok(()) => break,
            Err(e) => assert_eq!(e.kind(), ErrorKind::Cancelled),
        }
        assert!(count <= 6, "{count} tokens after the flag was set at 4");
    }
    assert_eq!(heard, expected);
    assert_eq!(generator.prefill_usage().tokens, 20);
    assert_eq!(generator.decode_usage().tokens, whole.decode.tokens);
    // All have ended: nothing more is said.
    generator.run(&mut session, |_| panic!("it has ended")).expect("nothing to do");
}

#[test]
fn a_generation_is_not_run_elsewhere_or_over_changed_sequences() {
    let (plan, ids) = tiny();
    let (model, mut session) = open(&plan);
    let sequence = session.sequence();
    let go_on = |_: Piece<'_>| ControlFlow::Continue(());
    let new = |session: &Session, sequence| {
        Generator::new(session, sequence, &ids[..8], 1, &sampled()).expect("a generation")
    };
    let mut generator = new(&session, sequence);
    let mut other = model.session(SessionOptions::default()).expect("a session");
    assert!(generator.run(&mut other, go_on).is_err(), "another session");
    step(&mut session, sequence, &ids[..12]);
    let e = generator.run(&mut session, go_on).expect_err("a changed sequence");
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    // A callback that panics ends the generation, and nothing else.
    let sequence = session.sequence();
    let mut generator = new(&session, sequence);
    let run = |generator: &mut Generator, session: &mut Session| {
        let stop = |_: Piece<'_>| -> ControlFlow<()> { panic!("on purpose") };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| generator.run(session, stop)))
    };
    assert!(run(&mut generator, &mut session).is_err());
    assert_eq!(generator.committed(), 0);
    assert!(generator.run(&mut session, go_on).is_err(), "it did not return");
    let fresh = session.sequence();
    assert_eq!(step(&mut session, sequence, &ids[8..9]), { step(&mut session, fresh, &ids[..9]) });
}
