//! Small vector traits: the operations that the generic kernels are written in, eight or sixteen f32
//! lanes wide. Each instruction set's token implements them, and having the token proves that the
//! instructions exist.
//!
//! Every method acts on each lane alone, except the two reductions, whose order is fixed.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod in_two;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

pub(crate) use in_two::InTwo;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::widen_halves;
pub(crate) use portable::widen_f16;

use crate::math;
use limbeck_plan::QUANT_BLOCK;

/// Lanes of a vector.
pub(crate) const LANES: usize = 8;
/// Lanes of a wide vector.
pub(crate) const WIDE: usize = 2 * LANES;

/// Lanes of f32 side by side.
///
/// Pointer arguments need no alignment. `max` and `min` give their second argument when either
/// is NaN.
pub(crate) trait Lanes: Copy {
    /// The lanes.
    type V: Copy;

    fn splat(self, v: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the instruction set has it, else twice.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;
    /// `magnitude` (not negative) with the sign of `sign`.
    fn with_sign(self, magnitude: Self::V, sign: Self::V) -> Self::V;
    /// Lanes of `yes` where `a < b`, else of `no`.
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The nearest integer `n` (ties to even) and `2^n`, for `|a| < 1000`; `2^n` is right for
    /// `n` in -126..=127.
    fn round_exp2(self, a: Self::V) -> (Self::V, Self::V);
    /// `e^x`: see [`math::exp`].
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        math::exp(self, x)
    }
    /// `2^x`: see [`math::exp2`].
    #[inline(always)]
    fn exp2(self, x: Self::V) -> Self::V {
        math::exp2(self, x)
    }
    /// `x Phi(x)`: see [`math::gelu`]. Of -infinity it is 0 or NaN.
    #[inline(always)]
    fn gelu(self, x: Self::V) -> Self::V {
        math::gelu(self, x)
    }

    /// # Safety
    /// `p` is valid for reading an f32 for each lane.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Adds the product of what is at `p` with each `x` to its sum.
    ///
    /// # Safety
    /// `p` is valid for reading an f32 for each lane.
    #[inline(always)]
    unsafe fn add_multiples<const N: usize>(
        self,
        p: *const f32,
        x: [Self::V; N],
        sums: &mut [Self::V; N],
    ) {
        // SAFETY: the caller's contract.
        add_multiples(self, unsafe { self.load(p) }, x, sums);
    }
    /// # Safety
    /// `p` is valid for writing an f32 for each lane.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// f16, as f32.
    ///
    /// # Safety
    /// `p` is valid for reading a u16 for each lane.
    unsafe fn load_f16(self, p: *const u16) -> Self::V;
    /// i8, as f32.
    ///
    /// # Safety
    /// `p` is valid for reading an i8 for each lane.
    unsafe fn load_i8(self, p: *const i8) -> Self::V;
}

/// Adds the product of `loaded` with each `x` to its sum.
#[inline(always)]
pub(crate) fn add_multiples<L: Lanes, const N: usize>(
    lanes: L,
    loaded: L::V,
    x: [L::V; N],
    sums: &mut [L::V; N],
) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = lanes.fma(loaded, x, *sum);
    }
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Asks for the cache line at `at`, which may be anywhere.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch may point anywhere, and every x86-64 CPU has SSE.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    neon::prefetch(at);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// The same, to the second cache: for what is used later than the first one keeps it.
#[inline(always)]
pub(crate) fn prefetch_far(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch may point anywhere, and every x86-64 CPU has SSE.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Work that is compiled once for an instruction set, not into each kernel that has it to do.
pub(crate) trait Work<S> {
    /// Does it.
    ///
    /// # Safety
    /// The work's own contract.
    unsafe fn run(self, s: S);
}

/// A token's wide vector.
pub(crate) type WideV<S> = <<S as Simd>::Wide as Lanes>::V;

/// An instruction set: vectors of eight lanes, and wide ones of sixteen.
pub(crate) trait Simd: Lanes {
    /// Sixteen lanes, for the loops where most time is spent. Each lane has the bits that it would
    /// have among eight.
    type Wide: Lanes;
    /// How many `V` the registers hold.
    const REGISTERS: usize;
    /// Whether this is the fallback, in plain Rust: it need not be the fastest, and is to be small.
    const FALLBACK: bool = false;

    /// Does work in a function of its own. A call of it costs some ten cycles: enough must be done there.
    ///
    /// # Safety
    /// The work's own contract.
    unsafe fn apart<W: Work<Self>>(self, work: W);

    /// The operations on wide vectors.
    fn wide(self) -> Self::Wide;
    /// The first and the last eight lanes of a wide vector.
    fn halves(self, a: WideV<Self>) -> [Self::V; 2];
    /// The wide vector with these halves.
    fn join(self, halves: [Self::V; 2]) -> WideV<Self>;

    /// `((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7))`.
    fn sum(self, a: Self::V) -> f32;
    /// The largest lane; NaN lanes may be ignored.
    fn max_lane(self, a: Self::V) -> f32;

    /// Rounds to nearest even f16.
    ///
    /// # Safety
    /// `p` is valid for writing 8 u16.
    unsafe fn store_f16(self, p: *mut u16, v: Self::V);
    /// Rounds to the nearest integer (ties to even); lanes lie within -127..=127.
    ///
    /// # Safety
    /// `p` is valid for writing 8 i8.
    unsafe fn store_i8(self, p: *mut i8, v: Self::V);
    /// Rows of eight lanes as columns.
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut from = [[0.0f32; LANES]; LANES];
        for (from, row) in from.iter_mut().zip(rows) {
            // SAFETY: the array holds 8 f32.
            unsafe { self.store(from.as_mut_ptr(), row) };
        }
        let mut columns = rows;
        for (i, column) in columns.iter_mut().enumerate() {
            let [a, b, c, d, e, f, g, h] = from;
            let lanes = [a[i], b[i], c[i], d[i], e[i], f[i], g[i], h[i]];
            // SAFETY: as above.
            *column = unsafe { self.load(lanes.as_ptr()) };
        }
        columns
    }

    /// The largest of `|a|` as bits, NaN counting as larger than infinity.
    fn max_abs_bits<const N: usize>(self, a: &[[WideV<Self>; 2]; N]) -> u32;
    /// Blocks of values, each rounded to the nearest integer (ties to even), which lies within
    /// -127..=127; gives their sum.
    #[inline(always)]
    fn store_blocks<const N: usize>(
        self,
        q: &mut [[i8; QUANT_BLOCK]; N],
        v: &[[WideV<Self>; 2]; N],
    ) -> i32 {
        let q = q.as_flattened_mut();
        for (q, v) in q.chunks_exact_mut(WIDE).zip(v.as_flattened()) {
            for (q, v) in q.chunks_exact_mut(LANES).zip(self.halves(*v)) {
                // SAFETY: there are 8 bytes for 8 lanes.
                unsafe { self.store_i8(q.as_mut_ptr(), v) };
            }
        }
        q.iter().map(|q| i32::from(*q)).sum()
    }

    /// The first `n <= 8` elements of `x` from `at`, zeros after.
    #[inline(always)]
    fn load_some(self, x: &[f32], at: usize) -> Self::V {
        match x.get(at..at + LANES) {
            // SAFETY: the slice holds 8 f32.
            Some(full) => unsafe { self.load(full.as_ptr()) },
            None => {
                let mut padded = [0.0; LANES];
                let rest = x.get(at..).unwrap_or(&[]);
                padded[..rest.len()].copy_from_slice(rest);
                // SAFETY: the array holds 8 f32.
                unsafe { self.load(padded.as_ptr()) }
            }
        }
    }

    /// Writes the lanes of `v` that fall within `out` from `at`.
    #[inline(always)]
    fn store_some(self, out: &mut [f32], at: usize, v: Self::V) {
        match out.get_mut(at..at + LANES) {
            // SAFETY: the slice holds 8 f32.
            Some(full) => unsafe { self.store(full.as_mut_ptr(), v) },
            None => {
                let mut padded = [0.0; LANES];
                // SAFETY: the array holds 8 f32.
                unsafe { self.store(padded.as_mut_ptr(), v) };
                if let Some(rest) = out.get_mut(at..) {
                    let n = rest.len();
                    rest.copy_from_slice(&padded[..n]);
                }
            }
        }
    }
}
