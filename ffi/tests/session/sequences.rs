//! Sequences: prefill and decode, forks, rewinding, sessions side by side.

use limbeck_tests::{Npz, golden, relative_error};
use runtime::{ErrorKind, KvFormat, Sequence, SessionOptions, Wanted, Work};

use crate::api::{ModelApi, SessionApi};
use crate::{both, fails, logits, open, session, step, tiny, work};

both!(
    logits_are_those_of_pytorch_in_one_step_and_token_by_token,
    forks_share_their_prefix_and_then_go_their_own_ways,
    forks_hold_what_they_share_once,
    rewinding_forgets_exactly_the_tokens_after_it,
    an_ended_sequence_is_gone,
    sessions_of_a_model_work_at_once_from_several_threads,
);

fn logits_are_those_of_pytorch_in_one_step_and_token_by_token<M: ModelApi>() {
    let (plan, ids) = tiny();
    let expected = Npz::open(&golden().join("tiny/llama/expected.npz")).floats("logits").1;
    let options = SessionOptions { kv: KvFormat::F32, chunk: 16, ..SessionOptions::default() };
    let mut session = open::<M>(&plan, 2).session(&options).expect("a session");
    let sequence = session.add();
    let whole = logits(&mut session, &work(sequence, &ids, Wanted::All)).expect("a step");
    let error = relative_error(&whole, &expected);
    assert!(error < 1e-4, "relative error {error:.2e}");
    let sequence = session.add();
    let each = ids.iter().flat_map(|id| step(&mut session, sequence, &[*id]));
    assert_eq!(each.collect::<Vec<f32>>(), whole);
}

fn forks_share_their_prefix_and_then_go_their_own_ways<M: ModelApi>() {
    let (plan, ids) = tiny();
    let mut session = session(&open::<M>(&plan, 2));
    let first = session.add();
    step(&mut session, first, &ids[..40]);
    let second = session.fork(first).expect("a fork");
    assert_ne!(first, second);
    assert_eq!(session.position(second).expect("a position"), 40);
    let a = step(&mut session, first, &ids[40..44]);
    let b = step(&mut session, second, &ids[44..47]);
    let mut alone = |tokens: &[u32]| {
        let sequence = session.add();
        step(&mut session, sequence, tokens)
    };
    assert_eq!(a, alone(&ids[..44]));
    assert_eq!(b, alone(&[&ids[..40], &ids[44..47]].concat()));
}

fn forks_hold_what_they_share_once<M: ModelApi>() {
    let (plan, ids) = tiny();
    let model = open::<M>(&plan, 1);
    // Two sequences of 41 tokens, forked after `shared` of them.
    let held = |shared: usize| {
        let mut session = session(&model);
        let first = session.add();
        ids[..shared].iter().for_each(|id| drop(step(&mut session, first, &[*id])));
        let before = session.memory();
        let second = session.fork(first).expect("a fork");
        assert_eq!(session.memory(), before, "a fork alone takes nothing");
        for sequence in [first, second] {
            ids[shared..41].iter().for_each(|id| drop(step(&mut session, sequence, &[*id])));
        }
        session.memory()
    };
    // Of two blocks one is shared, the tail is not.
    let (apart, together) = (held(0), held(40));
    assert!(together < apart, "{together} bytes, {apart} of sequences apart");
}

fn rewinding_forgets_exactly_the_tokens_after_it<M: ModelApi>() {
    let (plan, ids) = tiny();
    let mut session = session(&open::<M>(&plan, 2));
    let sequence = session.add();
    let expected = step(&mut session, sequence, &ids[..33]);
    step(&mut session, sequence, &ids[33..45]);
    session.rewind(sequence, 32).expect("rewound");
    assert_eq!(session.position(sequence).expect("a position"), 32);
    assert_eq!(step(&mut session, sequence, &ids[32..33]), expected);
    for beyond in [34, usize::MAX] {
        fails(session.rewind(sequence, beyond), ErrorKind::InvalidInput);
    }
    assert_eq!(session.position(sequence).expect("a position"), 33);
}

fn an_ended_sequence_is_gone<M: ModelApi>() {
    let (plan, ids) = tiny();
    let mut session = session(&open::<M>(&plan, 1));
    let sequence = session.add();
    step(&mut session, sequence, &ids[..9]);
    session.end(sequence).expect("ended");
    let strangers = [sequence, Sequence::from_bits(0), Sequence::from_bits(u64::MAX)];
    for gone in strangers {
        let given = work(gone, &ids[..1], Wanted::None);
        fails(session.step(&given, &mut |_, _| {}).result, ErrorKind::InvalidInput);
        fails(session.fork(gone), ErrorKind::InvalidInput);
        fails(session.end(gone), ErrorKind::InvalidInput);
        fails(session.position(gone), ErrorKind::InvalidInput);
        fails(session.rewind(gone, 0), ErrorKind::InvalidInput);
        fails(session.snapshot(gone), ErrorKind::InvalidInput);
    }
    let other = session.add();
    assert_ne!(other, sequence);
    let both =
        [sequence, other].map(|s| Work { sequence: s, ..work(s, &ids[..1], Wanted::All)[0] });
    fails(logits(&mut session, &both), ErrorKind::InvalidInput);
    assert_eq!(session.position(other).expect("a position"), 0);
}

fn sessions_of_a_model_work_at_once_from_several_threads<M: ModelApi>() {
    let (plan, ids) = tiny();
    let model = open::<M>(&plan, 2);
    let mut first = session(&model);
    let sequence = first.add();
    let expected = step(&mut first, sequence, &ids);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut session = session(&model);
                    let sequence = session.add();
                    assert_eq!(step(&mut session, sequence, &ids), expected);
                }
            });
        }
    });
}
