//! Limits on memory: what is beyond them is an error of its own kind, and the session goes on.

use limbeck::{
    BackendKind, Engine, EngineOptions, ErrorKind, Model, Session, SessionOptions, Wanted, Work,
};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, golden};

fn tiny() -> (Compiled, Vec<u32>) {
    let folder = golden().join("tiny/llama");
    let ids = Npz::open(&folder.join("expected.npz")).ids("input_ids").1;
    (Compiled::new(&folder, Quant::F32, true), ids)
}

fn step(session: &mut Session, tokens: &[u32]) -> limbeck::Result<Vec<f32>> {
    let sequence = session.sequence();
    let mut logits = Vec::new();
    let work = [Work { sequence, tokens, wanted: Wanted::All }];
    let result = session.step(&work, |_, row| logits.extend_from_slice(row));
    session.free(sequence)?;
    result.map(|_| logits)
}

fn session(model: &Model, memory_limit: usize) -> Session {
    model.session(SessionOptions { memory_limit, ..SessionOptions::default() }).expect("a session")
}

#[test]
fn every_limit_below_what_a_call_takes_is_an_error_and_changes_nothing() {
    let (plan, ids) = tiny();
    for backend in [BackendKind::Cpu, BackendKind::Fake] {
        let model = plan.open(backend, 1);
        let mut free = session(&model, 0);
        let expected = step(&mut free, &ids).expect("no limit");
        let needed = free.memory_bytes();
        assert!(needed > expected.len() * 4, "logits alone take more than {needed}");
        let mut refused = 0;
        for share in 1..16 {
            let mut limited = session(&model, needed * share / 16);
            let e = step(&mut limited, &ids).expect_err("too little");
            assert_eq!(e.kind(), ErrorKind::Memory, "{e}");
            assert!(limited.memory_bytes() <= needed * share / 16);
            refused += 1;
            // What fits still runs, to the bit.
            if let Ok(logits) = step(&mut limited, &ids[..2]) {
                assert_eq!(logits, expected[..logits.len()], "{share} of 16");
            }
        }
        assert_eq!(refused, 15);
        assert_eq!(step(&mut session(&model, needed), &ids).expect("it fits"), expected);
    }
}

#[test]
fn sessions_share_the_limit_of_their_engine_and_give_back_what_they_held() {
    let (plan, ids) = tiny();
    let open = |memory_limit| {
        let options = EngineOptions { threads: 1, memory_limit, ..EngineOptions::default() };
        let engine = Engine::new(options).expect("an engine");
        let model = engine.open(plan.path()).expect("a plan");
        (engine, model)
    };
    let (engine, model) = open(0);
    let mut first = session(&model, 0);
    step(&mut first, &ids).expect("no limit");
    let one = engine.memory_bytes();
    assert_eq!(one, first.memory_bytes());
    let (engine, model) = open(one * 3 / 2);
    let mut first = session(&model, 0);
    step(&mut first, &ids).expect("room for one");
    let mut second = session(&model, 0);
    let e = step(&mut second, &ids).expect_err("no room for two");
    assert_eq!(e.kind(), ErrorKind::Memory, "{e}");
    assert!(e.to_string().contains("engine"), "{e}");
    assert!(engine.memory_bytes() <= one * 3 / 2);
    drop(first);
    step(&mut second, &ids).expect("room again");
    drop(second);
    assert_eq!(engine.memory_bytes(), 0);
}

#[test]
fn a_snapshot_that_does_not_fit_is_refused() {
    let (plan, ids) = tiny();
    let model = plan.open(BackendKind::Cpu, 1);
    let mut free = session(&model, 0);
    let sequence = free.sequence();
    let work = [Work { sequence, tokens: &ids, wanted: Wanted::None }];
    free.step(&work, |_, _| {}).expect("a step");
    let snapshot = free.snapshot(sequence).expect("a snapshot");
    let mut limited = session(&model, snapshot.len() / 2);
    assert_eq!(limited.restore(&snapshot).unwrap_err().kind(), ErrorKind::Memory);
    assert_eq!(limited.memory_bytes(), 0);
    session(&model, snapshot.len()).restore(&snapshot).expect("it fits");
}
