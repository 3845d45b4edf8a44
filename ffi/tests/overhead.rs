//! What a decode step through C takes beside the same step in Rust.
//!
//! The quickest of many steps of a tiny student, where the step itself is short, shows what the way
//! through C costs; it is compared with the step of a real student.

mod common;

use std::path::Path;
use std::time::Instant;

use common::{Build, Program};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::{Compiled, SMOLLM2, golden, student};
use runtime::{BackendKind, SessionOptions, Usage, Wanted, Work};

/// Nanoseconds of the quickest step in Rust, as `overhead.c` does it.
fn in_rust(plan: &Path, steps: usize) -> f64 {
    let options = runtime::EngineOptions { threads: 1, ..Default::default() };
    assert_eq!(options.backend, BackendKind::Cpu);
    let model = runtime::Engine::new(options).and_then(|e| e.open(plan)).expect("a plan");
    let mut session = model.session(SessionOptions::default()).expect("a session");
    let sequence = session.sequence();
    let (mut usage, mut sum, mut quickest) = (Usage::default(), 0.0, f64::INFINITY);
    let tokens = [5, 9, 2, 33, 17, 8, 41, 3];
    for i in 0..steps {
        session.rewind(sequence, if i > 0 { 8 } else { 0 }).expect("rewound");
        let tokens = if i > 0 { &tokens[..1] } else { &tokens[..] };
        let work = [Work { sequence, tokens, wanted: Wanted::Last }];
        let start = Instant::now();
        session.step_onto(&mut usage, &work, |_, row| sum += row[row.len() - 1]).expect("a step");
        let took = start.elapsed().as_nanos() as f64;
        if i > 0 {
            quickest = took.min(quickest);
        }
    }
    assert!(sum.is_finite());
    quickest
}

#[test]
fn the_way_through_c_is_less_than_a_hundredth_of_a_real_step() {
    let program = Program::new("tests/c/overhead.c", Build::Plain);
    let in_c = |plan: &Path, steps: &str| -> f64 {
        let out = program.run(&[plan, Path::new(steps)], "");
        out.trim().parse().expect("nanoseconds")
    };
    let tiny = Compiled::new(&golden().join("tiny/llama"), Quant::F32, true);
    let best = |measure: &dyn Fn() -> f64| (0..5).map(|_| measure()).fold(f64::INFINITY, f64::min);
    let c = best(&|| in_c(&tiny.path(), "2000"));
    let rust = best(&|| in_rust(&tiny.path(), 2000));
    println!("a tiny step: {c} ns through C, {rust} ns in Rust");
    let Some(source) = student(SMOLLM2) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let plan = folder.path().join("student.lbk");
    compile(&Options::new(&source, &plan, Quant::Keep), &mut |_, _, _| {}).expect("a plan");
    let (real, real_rust) = (in_c(&plan, "30"), in_rust(&plan, 30));
    println!("a step of SmolLM2: {real} ns through C, {real_rust} ns in Rust");
    assert!(c - rust < 0.01 * real, "{c} ns through C, {rust} in Rust, a real step {real}");
}
