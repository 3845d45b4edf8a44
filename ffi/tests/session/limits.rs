//! Limits: of the context, the cache and memory. What is beyond them is an error, and the session
//! goes on.

use limbeck_tests::Compiled;
use runtime::{BackendKind, EngineOptions, ErrorKind, SessionOptions, Wanted};

use crate::api::{ModelApi, Result, SessionApi};
use crate::{both, fails, logits, open, session, step, tiny, work};

both!(
    work_that_does_not_fit_changes_nothing,
    a_full_cache_is_an_error_and_the_session_goes_on,
    work_that_is_refused_keeps_no_part_of_the_cache,
    options_out_of_range_are_refused,
    every_limit_below_what_a_call_takes_is_an_error_and_changes_nothing,
    sessions_share_the_limit_of_their_engine_and_give_back_what_they_held,
    a_snapshot_that_does_not_fit_is_refused,
);

fn work_that_does_not_fit_changes_nothing<M: ModelApi>() {
    let (plan, ids) = tiny();
    let vocab = plan.open(BackendKind::Cpu, 1).manifest().vocab_size as u32;
    let options = SessionOptions { context: 20, ..SessionOptions::default() };
    let mut session = open::<M>(&plan, 1).session(&options).expect("a session");
    let sequence = session.add();
    step(&mut session, sequence, &ids[..18]);
    let mut refuse = |tokens: &[u32], kind| {
        let done = session.step(&work(sequence, tokens, Wanted::None), &mut |_, _| {});
        fails(done.result, kind);
        assert_eq!((done.committed, done.usage.tokens, done.usage.macs), (0, 0, 0));
        assert_eq!(session.position(sequence).expect("a position"), 18);
    };
    refuse(&ids[..3], ErrorKind::Capacity);
    refuse(&[], ErrorKind::InvalidInput);
    refuse(&[vocab], ErrorKind::InvalidInput);
    refuse(&[u32::MAX], ErrorKind::InvalidInput);
    let twice = [work(sequence, &ids[..1], Wanted::None)[0]; 2];
    fails(logits(&mut session, &twice), ErrorKind::InvalidInput);
    step(&mut session, sequence, &ids[18..20]);
}

fn a_full_cache_is_an_error_and_the_session_goes_on<M: ModelApi>() {
    let (plan, ids) = tiny();
    let options = SessionOptions { cache_tokens: 64, ..SessionOptions::default() };
    let mut session = open::<M>(&plan, 1).session(&options).expect("a session");
    let (a, b) = (session.add(), session.add());
    step(&mut session, a, &ids[..33]);
    let given = work(b, &ids[..2], Wanted::Last);
    fails(logits(&mut session, &given), ErrorKind::Capacity);
    session.end(a).expect("ended");
    logits(&mut session, &given).expect("room again");
}

fn work_that_is_refused_keeps_no_part_of_the_cache<M: ModelApi>() {
    let (plan, ids) = tiny();
    let options = SessionOptions { cache_tokens: 64, ..SessionOptions::default() };
    let mut session = open::<M>(&plan, 1).session(&options).expect("a session");
    let (a, b, c) = (session.add(), session.add(), session.add());
    let both = [work(a, &ids[..20], Wanted::Last)[0], work(b, &ids[..40], Wanted::Last)[0]];
    fails(logits(&mut session, &both), ErrorKind::Capacity);
    logits(&mut session, &work(c, &ids[..40], Wanted::Last)).expect("all of the cache");
}

fn options_out_of_range_are_refused<M: ModelApi>() {
    let (plan, _) = tiny();
    let model = open::<M>(&plan, 1);
    let good = SessionOptions::default();
    for bad in [
        SessionOptions { chunk: 0, ..good },
        SessionOptions { chunk: usize::MAX, ..good },
        SessionOptions { context: usize::MAX, ..good },
    ] {
        fails(model.session(&bad), ErrorKind::InvalidInput);
    }
}

/// The logits of all tokens, as a sequence that is ended after the step.
fn once<S: SessionApi>(session: &mut S, tokens: &[u32]) -> Result<Vec<f32>> {
    let sequence = session.add();
    let result = logits(session, &work(sequence, tokens, Wanted::All));
    session.end(sequence)?;
    result
}

fn limited<M: ModelApi>(model: &M, memory_limit: usize) -> M::Session {
    let options = SessionOptions { memory_limit, ..SessionOptions::default() };
    model.session(&options).expect("a session")
}

fn every_limit_below_what_a_call_takes_is_an_error_and_changes_nothing<M: ModelApi>() {
    let (plan, ids) = tiny();
    for backend in [BackendKind::Cpu, BackendKind::Fake] {
        let options = EngineOptions { backend, threads: 1, ..EngineOptions::default() };
        let model = M::open(&plan.path(), options);
        let mut free = session(&model);
        let expected = once(&mut free, &ids).expect("no limit");
        let needed = free.memory();
        assert!(needed > expected.len() * 4, "logits alone take more than {needed}");
        for share in 1..16 {
            let mut limited = limited(&model, needed * share / 16);
            fails(once(&mut limited, &ids), ErrorKind::Memory);
            assert!(limited.memory() <= needed * share / 16);
            // What fits still runs, to the bit.
            if let Ok(logits) = once(&mut limited, &ids[..2]) {
                assert_eq!(logits, expected[..logits.len()], "{share} of 16");
            }
        }
        assert_eq!(once(&mut limited(&model, needed), &ids).expect("it fits"), expected);
    }
}

/// A model of an engine with a limit.
fn within<M: ModelApi>(plan: &Compiled, memory_limit: usize) -> M {
    M::open(&plan.path(), EngineOptions { threads: 1, memory_limit, ..EngineOptions::default() })
}

fn sessions_share_the_limit_of_their_engine_and_give_back_what_they_held<M: ModelApi>() {
    let (plan, ids) = tiny();
    let model: M = within(&plan, 0);
    let mut first = session(&model);
    once(&mut first, &ids).expect("no limit");
    let one = model.engine_memory();
    assert_eq!(one, first.memory());
    let model: M = within(&plan, one * 3 / 2);
    let mut first = session(&model);
    once(&mut first, &ids).expect("room for one");
    let mut second = session(&model);
    let message = fails(once(&mut second, &ids), ErrorKind::Memory);
    assert!(message.contains("engine"), "{message}");
    assert!(model.engine_memory() <= one * 3 / 2);
    drop(first);
    once(&mut second, &ids).expect("room again");
    drop(second);
    assert_eq!(model.engine_memory(), 0);
}

fn a_snapshot_that_does_not_fit_is_refused<M: ModelApi>() {
    let (plan, ids) = tiny();
    let model: M = open(&plan, 1);
    let mut free = session(&model);
    let sequence = free.add();
    step(&mut free, sequence, &ids);
    let snapshot = free.snapshot(sequence).expect("a snapshot");
    let mut small = limited(&model, snapshot.len() / 2);
    fails(small.restore(&snapshot), ErrorKind::Memory);
    assert_eq!(small.memory(), 0);
    limited(&model, snapshot.len()).restore(&snapshot).expect("it fits");
}
