//! Weights, inputs and times.

use limbeck_kernels::{Error, pack_rows};
use limbeck_plan::{PackFormat, Values};
use std::time::Duration;

/// An op with a part of its compute against all of it.
pub struct Case {
    /// What was left out.
    pub what: &'static str,
    /// Of the multiply-adds.
    pub share: f64,
    pub values: Values,
    pub tokens: usize,
    /// Milliseconds with the part, with everything, and of what choosing takes.
    pub part: f64,
    pub full: f64,
    pub overhead: f64,
}

/// Medians in milliseconds.
pub struct Timed {
    pub part: f64,
    pub full: f64,
    pub overhead: f64,
}

/// Alternates passes with a part (`false`) and with everything (`true`). A pass gives its time and
/// that of its choosing.
pub fn time(
    rounds: usize,
    tokens: usize,
    pass: &mut dyn FnMut(bool) -> Result<(Duration, Duration), Error>,
) -> Result<Timed, Error> {
    let (mut part, mut full, mut overhead) = (Vec::new(), Vec::new(), Vec::new());
    let repeat = if tokens == 1 { 5 } else { 1 };
    for _ in 0..rounds * repeat {
        part.push(pass(false)?.0);
        let (everything, choosing) = pass(true)?;
        full.push(everything);
        overhead.push(choosing);
    }
    let [part, full, overhead] = [part, full, overhead].map(|mut times| median(&mut times));
    Ok(Timed { part, full, overhead })
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |t| t.as_secs_f64() * 1e3)
}

/// Within -1..1, by a linear congruential generator.
pub fn numbers(n: usize, seed: usize) -> Vec<f32> {
    let mut state = seed as u64 + 1;
    let number = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(number).collect()
}

pub fn pack(format: PackFormat, cols: usize, rows: usize, seed: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for tile in (0..rows).step_by(16) {
        pack_rows(format, cols, &numbers(16.min(rows - tile) * cols, seed + tile), &mut bytes)?;
    }
    Ok(bytes)
}
