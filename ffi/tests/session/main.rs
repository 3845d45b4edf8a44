//! Sessions: one body of tests, run over the two ways to them, that of Rust and that of C.
//!
//! A test is a function of the way; [`both!`] runs it over each.

mod api;
mod budgets;
mod c;
mod generations;
mod limits;
mod rust;
mod sequences;
mod snapshots;
mod steps;

use api::{ModelApi, Result, SessionApi};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, golden};
use runtime::{EngineOptions, ErrorKind, Sequence, SessionOptions, Wanted, Work};

/// Runs tests over both ways.
macro_rules! both {
    ($($test:ident),* $(,)?) => {
        mod rust {
            $(#[test] fn $test() { super::$test::<crate::rust::Model>(); })*
        }
        mod c {
            $(#[test] fn $test() { super::$test::<crate::c::Model>(); })*
        }
    };
}
pub(crate) use both;

/// A tiny text student, and tokens for it.
fn tiny() -> (Compiled, Vec<u32>) {
    let folder = golden().join("tiny/llama");
    let ids = Npz::open(&folder.join("expected.npz")).ids("input_ids").1;
    (Compiled::new(&folder, Quant::F32, true), ids)
}

/// A model on so many threads.
fn open<M: ModelApi>(plan: &Compiled, threads: usize) -> M {
    M::open(&plan.path(), EngineOptions { threads, ..EngineOptions::default() })
}

/// A session with the defaults.
fn session<M: ModelApi>(model: &M) -> M::Session {
    model.session(&SessionOptions::default()).expect("a session")
}

/// Work that wants these logits of one sequence.
fn work(sequence: Sequence, tokens: &[u32], wanted: Wanted) -> [Work<'_>; 1] {
    [Work { sequence, tokens, wanted }]
}

/// Appends tokens and gives the logits after the last.
fn step<S: SessionApi>(session: &mut S, sequence: Sequence, tokens: &[u32]) -> Vec<f32> {
    logits(session, &work(sequence, tokens, Wanted::Last)).expect("a step")
}

/// The logits of a step, one after the other. What it says to have committed is what it counts.
fn logits<S: SessionApi>(session: &mut S, work: &[Work<'_>]) -> Result<Vec<f32>> {
    let mut logits = Vec::new();
    let done = session.step(work, &mut |_, row| logits.extend_from_slice(row));
    assert_eq!(done.committed as u64, done.usage.tokens);
    done.result.map(|()| logits)
}

/// Demands that a call failed so; gives its message.
fn fails<T>(result: Result<T>, kind: ErrorKind) -> String {
    let Err(failure) = result else { panic!("it should fail with {kind:?}") };
    assert_eq!(failure.kind, Some(kind), "{}", failure.message);
    assert!(!failure.message.is_empty());
    failure.message
}
