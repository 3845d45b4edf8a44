//! The vector trait in plain Rust.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::in_two::wide_in_two;
use super::{LANES, Lanes, Simd, Work};
use crate::isa::Portable;
use crate::math;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Adding and subtracting this rounds an f32 below 2^22 to an integer, which then stands in the
/// low bits of the sum.
const ROUND: f32 = 12_582_912.0;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

/// f16 to f32. A function of its own, since it looks for what the CPU has for this.
#[inline(never)]
pub(crate) fn widen_f16(bits: [u16; LANES]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    bits.map(f16::from_bits).convert_to_f32_slice(&mut out);
    out
}

/// f32 to the nearest f16.
#[inline(never)]
fn narrow_f16(v: [f32; LANES]) -> [u16; LANES] {
    let mut out = [f16::ZERO; LANES];
    out.convert_from_f32_slice(&v);
    out.map(f16::to_bits)
}

impl Lanes for Portable {
    type V = [f32; LANES];

    // Long functions are there once: they are to be small.
    #[inline(never)]
    fn exp(self, x: Self::V) -> Self::V {
        math::exp(self, x)
    }
    #[inline(never)]
    fn exp2(self, x: Self::V) -> Self::V {
        math::exp2(self, x)
    }
    #[inline(never)]
    fn gelu(self, x: Self::V) -> Self::V {
        math::gelu(self, x)
    }

    #[inline(always)]
    fn splat(self, v: f32) -> Self::V {
        [v; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let mut out = c;
        for i in 0..LANES {
            out[i] += a[i] * b[i];
        }
        out
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn with_sign(self, magnitude: Self::V, sign: Self::V) -> Self::V {
        zip(magnitude, sign, f32::copysign)
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        let mut out = no;
        for i in 0..LANES {
            out[i] = if a[i] < b[i] { yes[i] } else { no[i] };
        }
        out
    }
    #[inline(always)]
    fn round_exp2(self, a: Self::V) -> (Self::V, Self::V) {
        let shifted = a.map(|v| v + ROUND);
        let rounded = shifted.map(|v| v - ROUND);
        let power = shifted.map(|v| f32::from_bits(v.to_bits().wrapping_add(127) << 23));
        (rounded, power)
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for 8 readable f32; the read allows any alignment.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for 8 writable f32; the write allows any alignment.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: the caller vouches for 8 readable u16.
        widen_f16(unsafe { p.cast::<[u16; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::V {
        // SAFETY: the caller vouches for 8 readable i8.
        unsafe { p.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
}

impl Simd for Portable {
    wide_in_two!();
    const REGISTERS: usize = 16;
    const FALLBACK: bool = true;

    #[inline(never)]
    unsafe fn apart<W: Work<Self>>(self, work: W) {
        // SAFETY: the caller's contract.
        unsafe { work.run(self) }
    }

    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    fn max_lane(self, a: Self::V) -> f32 {
        a.iter().fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m })
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::V) {
        // SAFETY: the caller vouches for 8 writable u16.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(narrow_f16(v)) }
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: Self::V) {
        let bytes = v.map(|v| (v + ROUND).to_bits() as i8);
        // SAFETY: the caller vouches for 8 writable i8.
        unsafe { p.cast::<[i8; LANES]>().write_unaligned(bytes) }
    }
    #[inline(always)]
    fn max_abs_bits<const N: usize>(self, a: &[[[Self::V; 2]; 2]; N]) -> u32 {
        let lanes = a.iter().flatten().flatten().flatten();
        lanes.fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff))
    }
}
