//! What the tests of this crate share: seeded numbers, the instruction sets of this machine,
//! comparison.
#![allow(dead_code, reason = "each test file uses a part of it")]

use limbeck_kernels::{Isa, Kernels};

/// A seeded sequence of numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// Within -1..1.
    pub fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Kernels of each instruction set that this machine can run. Those that `LIMBECK_EXPECT_ISAS` names,
/// between commas, must be among them.
pub fn all_kernels() -> Vec<Kernels> {
    let expected = std::env::var("LIMBECK_EXPECT_ISAS").unwrap_or_default();
    for name in expected.split(',').filter(|name| !name.is_empty()) {
        Kernels::with_isa(name).unwrap();
    }
    let available = Isa::ALL.iter().filter(|isa| isa.available());
    available.map(|isa| Kernels::with_isa(isa.name()).unwrap()).collect()
}

/// Whether to run the case with this number: all of them, or where `LIMBECK_EVERY` is set, for slow
/// machines, one of that many.
pub fn sampled(case: u64) -> bool {
    let every = std::env::var("LIMBECK_EVERY").map_or(1, |every| every.parse().unwrap());
    case.is_multiple_of(every)
}

/// A result to be overwritten.
pub fn poison(n: usize) -> Vec<f32> {
    vec![f32::NAN; n]
}

/// The largest difference, relative to the largest magnitude of `want`.
pub fn relative_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-30f32, |m, v| m.max(v.abs()));
    let mut worst = 0.0f32;
    for (g, w) in got.iter().zip(want) {
        assert!(g.is_finite(), "{g} where {w} was expected");
        worst = worst.max((g - w).abs() / scale);
    }
    worst
}

#[track_caller]
pub fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &dyn std::fmt::Display) {
    let error = relative_error(got, want);
    assert!(error <= tolerance, "{what}: relative error {error}");
}

#[track_caller]
pub fn assert_same_bits(got: &[f32], want: &[f32], what: &dyn std::fmt::Display) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert_eq!(g.to_bits(), w.to_bits(), "{what}: element {i} is {g}, expected {w}");
    }
}
