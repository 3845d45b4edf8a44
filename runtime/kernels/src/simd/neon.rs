//! The vector trait in NEON instructions, for each token that proves them: eight lanes are two
//! registers.
//!
//! Each block below is sound for the same reason: the token exists only where the CPU has NEON
//! (see `new` and `assume` of the tokens). Pointers are vouched for by the caller.

use super::in_two::wide_in_two;
use super::{Lanes, Simd, Work};
use crate::isa::{Neon, NeonDotprod, NeonI8mm};
use std::arch::aarch64::*;
use std::arch::asm;

/// Eight f32.
type V = [float32x4_t; 2];

/// Asks for the cache line at `p`, which may be anywhere.
#[inline(always)]
pub(super) fn prefetch(p: *const u8) {
    // SAFETY: a prefetch of any address is allowed and changes nothing that the program sees.
    unsafe {
        asm!("prfm pldl1keep, [{}]", in(reg) p.addr(), options(nomem, nostack, preserves_flags))
    };
}

/// Four f16 as f32. (The intrinsics for f16 are younger than the compilers that we build with.)
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
pub(crate) unsafe fn widen_halves(halves: uint16x4_t) -> float32x4_t {
    let out: float32x4_t;
    // SAFETY: the instruction is a part of NEON and touches its registers alone.
    unsafe {
        asm!("fcvtl {:v}.4s, {:v}.4h", lateout(vreg) out, in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// Rounds four f32 to nearest even f16.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn narrow(values: float32x4_t) -> uint16x4_t {
    let out: uint16x4_t;
    // SAFETY: the instruction is a part of NEON and touches its registers alone.
    unsafe {
        asm!("fcvtn {:v}.4h, {:v}.4s", lateout(vreg) out, in(vreg) values,
            options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// An instruction on each half of its arguments.
macro_rules! halves {
    ($instruction:ident($($arg:ident),*)) => {
        // SAFETY: the token proves NEON.
        unsafe { [$instruction($($arg[0]),*), $instruction($($arg[1]),*)] }
    };
}

macro_rules! eight_lanes {
    ($token:ty) => {
        impl Lanes for $token {
            type V = V;

            #[inline(always)]
            fn splat(self, v: f32) -> V {
                // SAFETY: the token proves NEON.
                unsafe { [vdupq_n_f32(v); 2] }
            }
            #[inline(always)]
            fn add(self, a: V, b: V) -> V {
                halves!(vaddq_f32(a, b))
            }
            #[inline(always)]
            fn sub(self, a: V, b: V) -> V {
                halves!(vsubq_f32(a, b))
            }
            #[inline(always)]
            fn mul(self, a: V, b: V) -> V {
                halves!(vmulq_f32(a, b))
            }
            #[inline(always)]
            fn div(self, a: V, b: V) -> V {
                halves!(vdivq_f32(a, b))
            }
            #[inline(always)]
            fn fma(self, a: V, b: V, c: V) -> V {
                halves!(vfmaq_f32(c, a, b))
            }
            #[inline(always)]
            fn max(self, a: V, b: V) -> V {
                let greater = halves!(vcgtq_f32(a, b));
                halves!(vbslq_f32(greater, a, b))
            }
            #[inline(always)]
            fn min(self, a: V, b: V) -> V {
                self.select_lt(a, b, a, b)
            }
            #[inline(always)]
            fn abs(self, a: V) -> V {
                halves!(vabsq_f32(a))
            }
            #[inline(always)]
            fn with_sign(self, magnitude: V, sign: V) -> V {
                // SAFETY: the token proves NEON.
                let mask = unsafe { [vdupq_n_u32(1 << 31); 2] };
                halves!(vbslq_f32(mask, sign, magnitude))
            }
            #[inline(always)]
            fn select_lt(self, a: V, b: V, yes: V, no: V) -> V {
                let less = halves!(vcltq_f32(a, b));
                halves!(vbslq_f32(less, yes, no))
            }
            #[inline(always)]
            fn round_exp2(self, a: V) -> (V, V) {
                let n = halves!(vcvtnq_s32_f32(a));
                // SAFETY: the token proves NEON.
                let power = unsafe {
                    let biased = n.map(|n| vaddq_s32(n, vdupq_n_s32(127)));
                    biased.map(|n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(n)))
                };
                (halves!(vcvtq_f32_s32(n)), power)
            }
            #[inline(always)]
            unsafe fn load(self, p: *const f32) -> V {
                // SAFETY: the token proves NEON; the caller vouches for `p`.
                unsafe { [vld1q_f32(p), vld1q_f32(p.add(4))] }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32, v: V) {
                // SAFETY: the token proves NEON; the caller vouches for `p`.
                unsafe {
                    vst1q_f32(p, v[0]);
                    vst1q_f32(p.add(4), v[1]);
                }
            }
            #[inline(always)]
            unsafe fn load_f16(self, p: *const u16) -> V {
                // SAFETY: the token proves NEON; the caller vouches for `p`.
                unsafe { [widen_halves(vld1_u16(p)), widen_halves(vld1_u16(p.add(4)))] }
            }
            #[inline(always)]
            unsafe fn load_i8(self, p: *const i8) -> V {
                // SAFETY: the token proves NEON; the caller vouches for 8 bytes at `p`.
                unsafe {
                    let wide = vmovl_s8(vld1_s8(p));
                    let low = vmovl_s16(vget_low_s16(wide));
                    [vcvtq_f32_s32(low), vcvtq_f32_s32(vmovl_high_s16(wide))]
                }
            }
        }

        impl Simd for $token {
            wide_in_two!();
            const REGISTERS: usize = 16;

            #[inline(always)]
            unsafe fn apart<W: Work<Self>>(self, work: W) {
                #[inline(never)]
                #[target_feature(enable = "neon")]
                unsafe fn alone<W: Work<$token>>(token: $token, work: W) {
                    // SAFETY: the caller's contract.
                    unsafe { work.run(token) }
                }
                // SAFETY: the token proves the features; the rest is the caller's contract.
                unsafe { alone(self, work) }
            }

            #[inline(always)]
            fn sum(self, a: V) -> f32 {
                // SAFETY: the token proves NEON.
                unsafe {
                    let four = vaddq_f32(a[0], a[1]);
                    let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
                    vget_lane_f32::<0>(vpadd_f32(two, two))
                }
            }
            #[inline(always)]
            fn max_lane(self, a: V) -> f32 {
                // SAFETY: the token proves NEON.
                unsafe { vmaxnmvq_f32(vmaxnmq_f32(a[0], a[1])) }
            }
            #[inline(always)]
            unsafe fn store_f16(self, p: *mut u16, v: V) {
                // SAFETY: the token proves NEON; the caller vouches for `p`.
                unsafe { vst1q_u16(p, vcombine_u16(narrow(v[0]), narrow(v[1]))) }
            }
            #[inline(always)]
            unsafe fn store_i8(self, p: *mut i8, v: V) {
                let n = halves!(vcvtnq_s32_f32(v));
                // SAFETY: the token proves NEON; the caller vouches for 8 bytes at `p`.
                unsafe {
                    let wide = vcombine_s16(vqmovn_s32(n[0]), vqmovn_s32(n[1]));
                    vst1_s8(p, vqmovn_s16(wide));
                }
            }
            #[inline(always)]
            fn max_abs_bits<const N: usize>(self, a: &[[[V; 2]; 2]; N]) -> u32 {
                // SAFETY: the token proves NEON.
                unsafe {
                    let mut largest = vdupq_n_u32(0);
                    for v in a.as_flattened().as_flattened() {
                        for half in v {
                            let bits = vreinterpretq_u32_f32(vabsq_f32(*half));
                            largest = vmaxq_u32(largest, bits);
                        }
                    }
                    vmaxvq_u32(largest)
                }
            }
        }
    };
}

eight_lanes!(Neon);
eight_lanes!(NeonDotprod);
eight_lanes!(NeonI8mm);
