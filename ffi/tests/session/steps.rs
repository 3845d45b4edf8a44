//! Steps on a backend that is chosen, and steps that end early: what is committed, and how it goes on.

use runtime::{BackendKind, EngineOptions, ErrorKind, SessionOptions, Wanted, Work};

use crate::api::{ControlApi, ModelApi, SessionApi};
use crate::{both, fails, logits, open, step, tiny, work};

both!(
    a_backend_that_is_chosen_gives_what_the_cpu_does,
    a_cancelled_step_stops_between_chunks_and_leaves_what_was_committed,
    a_cancelled_batch_tells_how_far_each_sequence_came,
    a_fault_inside_is_an_error_and_all_goes_on,
);

/// A session that computes 8 tokens at a time.
fn small_chunks<M: ModelApi>(model: &M) -> M::Session {
    model.session(&SessionOptions { chunk: 8, ..SessionOptions::default() }).expect("a session")
}

fn a_backend_that_is_chosen_gives_what_the_cpu_does<M: ModelApi>() {
    let (plan, ids) = tiny();
    let run = |backend| {
        let options = EngineOptions { backend, threads: 1, ..EngineOptions::default() };
        let mut session = small_chunks(&M::open(&plan.path(), options));
        let sequence = session.add();
        step(&mut session, sequence, &ids[..20])
    };
    let (found, expected) = (run(BackendKind::Auto), run(BackendKind::Cpu));
    let norm = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>().sqrt();
    let apart: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
    assert!(!found.is_empty() && norm(&apart) <= 0.05 * norm(&expected), "{}", norm(&apart));
}

fn a_cancelled_step_stops_between_chunks_and_leaves_what_was_committed<M: ModelApi>() {
    let (plan, ids) = tiny();
    let mut session = small_chunks(&open::<M>(&plan, 1));
    let sequence = session.add();
    let control = session.control();
    let given = work(sequence, &ids[..40], Wanted::All);
    let mut heard = Vec::new();
    let done = session.step(&given, &mut |row, _| {
        heard.push(row.token);
        if row.token == 11 {
            control.cancel();
        }
    });
    fails(done.result, ErrorKind::Cancelled);
    // The chunk in which it was cancelled is said to its end.
    assert_eq!(heard, (0..16).collect::<Vec<_>>());
    assert_eq!((done.committed, done.usage.tokens), (16, 16));
    assert_eq!(session.position(sequence).expect("a position"), 16);
    // The flag stays until it is taken back.
    let done = session.step(&work(sequence, &ids[16..40], Wanted::Last), &mut |_, _| {});
    fails(done.result, ErrorKind::Cancelled);
    assert_eq!(done.committed, 0);
    control.reset();
    let rest = step(&mut session, sequence, &ids[16..40]);
    let fresh = session.add();
    assert_eq!(step(&mut session, fresh, &ids[..40]), rest);
}

fn a_cancelled_batch_tells_how_far_each_sequence_came<M: ModelApi>() {
    let (plan, ids) = tiny();
    let mut session = small_chunks(&open::<M>(&plan, 2));
    let sequences = [session.add(), session.add(), session.add()];
    let all = |done: [usize; 3]| {
        let each = sequences.into_iter().zip(done);
        let rest =
            |(sequence, done)| Work { sequence, tokens: &ids[done..12], wanted: Wanted::Last };
        each.map(rest).filter(|w| !w.tokens.is_empty()).collect::<Vec<_>>()
    };
    let control = session.control();
    let done = session.step(&all([0; 3]), &mut |_, _| control.cancel());
    fails(done.result, ErrorKind::Cancelled);
    // The logits of the first sequence are in the second chunk.
    assert_eq!(done.committed, 16);
    let came = sequences.map(|s| session.position(s).expect("a position"));
    assert_eq!(came, [12, 4, 0]);
    control.reset();
    let rest = logits(&mut session, &all(came)).expect("the rest");
    let fresh = session.add();
    let alone = step(&mut session, fresh, &ids[..12]);
    assert_eq!(rest, alone.repeat(2));
}

fn a_fault_inside_is_an_error_and_all_goes_on<M: ModelApi>() {
    let (plan, ids) = tiny();
    let model: M = open(&plan, 2);
    let mut session = small_chunks(&model);
    let sequence = session.add();
    let done = session.faulty_step(&work(sequence, &ids[..20], Wanted::All));
    let failure = done.result.expect_err("a fault");
    assert_eq!(failure.kind, None, "{}", failure.message);
    assert!(failure.message.contains("on purpose"), "{}", failure.message);
    // The chunk had committed before its logits were given.
    assert_eq!((done.committed, session.position(sequence).expect("a position")), (8, 8));
    let rest = step(&mut session, sequence, &ids[8..20]);
    let fresh = session.add();
    assert_eq!(step(&mut session, fresh, &ids[..20]), rest);
}
