//! What a decode step through C takes beside the same step in Rust.
//!
//! The quickest of many steps of a tiny student, where the step itself is short, shows what the way
//! through C costs; it is compared with the step of a real student. `cargo xtask bench --abi` compares
//! real steps themselves, which takes a quiet machine.

#[path = "../benches/overhead/steps.rs"]
mod steps;

use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, SMOLLM2, golden, student};
use steps::Steps;

/// The quickest step in Rust, and the quickest through C.
fn quickest(steps: &Steps) -> [f64; 2] {
    [&steps.rust, &steps.c].map(|all| all.iter().copied().fold(f64::INFINITY, f64::min))
}

#[test]
fn the_way_through_c_is_less_than_a_hundredth_of_a_real_step() {
    let tiny = Compiled::new(&golden().join("tiny/llama"), Quant::F32, true);
    let [rust, c] = quickest(&Steps::take(&tiny.path(), 1, 10_000));
    println!("a tiny step: {c} ns through C, {rust} ns in Rust");
    let Some(source) = student(SMOLLM2) else { return };
    let real = Compiled::new(&source, Quant::Keep, true);
    let steps = Steps::take(&real.path(), 1, 20);
    let [real, _] = quickest(&steps);
    let [_, _, ratio] = steps.medians();
    println!("a step of SmolLM2: {real} ns in Rust, {ratio:.4} of it through C");
    assert!(c - rust < 0.01 * real, "{c} ns through C, {rust} in Rust, a real step {real}");
}
