//! The vector trait in AVX2, FMA and F16C instructions, for each token that proves them. Compiled
//! with AVX-512 the same code has twice the registers.
//!
//! Each block below is sound for the same reason: the token exists only where the CPU has the
//! three features (see `new` and `assume` of the tokens). Pointers are vouched for by the caller.

use super::avx512::{blocks_in_one, lanes_of_wide, wide_in_one};
use super::in_two::wide_in_two;
use super::{Lanes, Simd, WIDE, Work, add_multiples};
use crate::isa::{Avx2, Avx512};
use limbeck_plan::QUANT_BLOCK;
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows as columns: pairs, fours and halves change places.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
unsafe fn transposed([a, b, c, d, e, f, g, h]: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller's contract.
    unsafe {
        let first = fours([a, b, c, d]);
        let last = fours([e, f, g, h]);
        [
            _mm256_permute2f128_ps::<0x20>(first[0], last[0]),
            _mm256_permute2f128_ps::<0x20>(first[1], last[1]),
            _mm256_permute2f128_ps::<0x20>(first[2], last[2]),
            _mm256_permute2f128_ps::<0x20>(first[3], last[3]),
            _mm256_permute2f128_ps::<0x31>(first[0], last[0]),
            _mm256_permute2f128_ps::<0x31>(first[1], last[1]),
            _mm256_permute2f128_ps::<0x31>(first[2], last[2]),
            _mm256_permute2f128_ps::<0x31>(first[3], last[3]),
        ]
    }
}

/// Each half of four rows as columns of four.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
unsafe fn fours([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: the caller's contract.
    unsafe {
        let (low, next_low) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (high, next_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0b0100_0100>(low, next_low),
            _mm256_shuffle_ps::<0b1110_1110>(low, next_low),
            _mm256_shuffle_ps::<0b0100_0100>(high, next_high),
            _mm256_shuffle_ps::<0b1110_1110>(high, next_high),
        ]
    }
}

/// Blocks of values in vectors of eight lanes.
macro_rules! blocks_in_two {
    () => {
        #[inline(always)]
        fn max_abs_bits<const N: usize>(self, a: &[[[__m256; 2]; 2]; N]) -> u32 {
            // SAFETY: the token proves AVX2.
            unsafe {
                let mut eight = _mm256_setzero_si256();
                for [[a, b], [c, d]] in a {
                    let bits = [
                        _mm256_castps_si256(self.abs(*a)),
                        _mm256_castps_si256(self.abs(*b)),
                        _mm256_castps_si256(self.abs(*c)),
                        _mm256_castps_si256(self.abs(*d)),
                    ];
                    let block = _mm256_max_epi32(
                        _mm256_max_epi32(bits[0], bits[1]),
                        _mm256_max_epi32(bits[2], bits[3]),
                    );
                    eight = _mm256_max_epi32(eight, block);
                }
                let (low, high) =
                    (_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
                let four = _mm_max_epi32(low, high);
                let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
                let one = _mm_max_epi32(two, _mm_shuffle_epi32::<1>(two));
                _mm_cvtsi128_si32(one) as u32
            }
        }
        #[inline(always)]
        fn store_blocks<const N: usize>(
            self,
            q: &mut [[i8; QUANT_BLOCK]; N],
            v: &[[[__m256; 2]; 2]; N],
        ) -> i32 {
            // SAFETY: the token proves AVX2; the arrays hold 32 bytes.
            unsafe {
                // Each half of a register is packed alone: fours of bytes come back in order.
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                let mut eight = _mm256_setzero_si256();
                for (q, [[a, b], [c, d]]) in q.iter_mut().zip(v) {
                    let n = [
                        _mm256_cvtps_epi32(*a),
                        _mm256_cvtps_epi32(*b),
                        _mm256_cvtps_epi32(*c),
                        _mm256_cvtps_epi32(*d),
                    ];
                    let pairs = [_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3])];
                    let bytes = _mm256_packs_epi16(pairs[0], pairs[1]);
                    let bytes = _mm256_permutevar8x32_epi32(bytes, order);
                    _mm256_storeu_si256(q.as_mut_ptr().cast(), bytes);
                    let block = _mm256_add_epi32(
                        _mm256_add_epi32(n[0], n[1]),
                        _mm256_add_epi32(n[2], n[3]),
                    );
                    eight = _mm256_add_epi32(eight, block);
                }
                let (low, high) =
                    (_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
                let four = _mm_add_epi32(low, high);
                let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
                _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
            }
        }
    };
}

/// `sums + x * p` in an order that sixteen registers suffice for, of which twelve hold sums: left to
/// itself the compiler loads two vectors before it adds the first one's products, and keeps a sum or two
/// in memory.
///
/// # Safety
/// `p` is valid for reading eight f32.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_three(p: *const f32, x: [__m256; 3], sums: [__m256; 3]) -> [__m256; 3] {
    let [mut first, mut second, mut third] = sums;
    // SAFETY: instructions of AVX2 and FMA on registers and the caller's eight values.
    unsafe {
        asm!(
            "vmovups {w}, [{p}]",
            "vfmadd231ps {first}, {w}, {a}",
            "vfmadd231ps {second}, {w}, {b}",
            "vfmadd231ps {third}, {w}, {c}",
            p = in(reg) p,
            a = in(ymm_reg) x[0],
            b = in(ymm_reg) x[1],
            c = in(ymm_reg) x[2],
            first = inout(ymm_reg) first,
            second = inout(ymm_reg) second,
            third = inout(ymm_reg) third,
            w = out(ymm_reg) _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    [first, second, third]
}

/// What the token's `impl Lanes` does for want of registers.
macro_rules! lanes_of_few {
    () => {
        #[inline(always)]
        unsafe fn add_multiples<const N: usize>(
            self,
            p: *const f32,
            x: [__m256; N],
            sums: &mut [__m256; N],
        ) {
            // SAFETY: the token proves AVX2 and FMA; the caller vouches for `p`.
            unsafe {
                if N == 3 {
                    let new = add_three(p, [x[0], x[1], x[2]], [sums[0], sums[1], sums[2]]);
                    sums.copy_from_slice(&new);
                    return;
                }
                add_multiples(self, self.load(p), x, sums);
            }
        }
    };
}

macro_rules! eight_lanes {
    ($token:ty, $features:literal, $registers:expr, $lanes:ident, $wide:ident, $blocks:ident) => {
        impl Lanes for $token {
            type V = __m256;
            $lanes!();

            #[inline(always)]
            fn splat(self, v: f32) -> __m256 {
                // SAFETY: the token proves AVX.
                unsafe { _mm256_set1_ps(v) }
            }
            #[inline(always)]
            fn add(self, a: __m256, b: __m256) -> __m256 {
                // SAFETY: the token proves AVX.
                unsafe { _mm256_add_ps(a, b) }
            }
            #[inline(always)]
            fn sub(self, a: __m256, b: __m256) -> __m256 {
                // SAFETY: the token proves AVX.
                unsafe { _mm256_sub_ps(a, b) }
            }
            #[inline(always)]
            fn mul(self, a: __m256, b: __m256) -> __m256 {
                // SAFETY: the token proves AVX.
                unsafe { _mm256_mul_ps(a, b) }
            }
            #[inline(always)]
            fn div(self, a: __m256, b: __m256) -> __m256 {
                // SAFETY: the token proves AVX.
                unsafe { _mm256_div_ps(a, b) }
            }
            #[inline(always)]
            fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
                // SAFETY: the token proves FMA.
                unsafe { _mm256_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            fn max(self, a: __m256, b: __m256) -> __m256 {
                // SAFETY: the token proves AVX.
                unsafe { _mm256_max_ps(a, b) }
            }
            #[inline(always)]
            fn min(self, a: __m256, b: __m256) -> __m256 {
                // SAFETY: the token proves AVX.
                unsafe { _mm256_min_ps(a, b) }
            }
            #[inline(always)]
            fn abs(self, a: __m256) -> __m256 {
                // SAFETY: the token proves AVX.
                unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
            }
            #[inline(always)]
            fn with_sign(self, magnitude: __m256, sign: __m256) -> __m256 {
                // SAFETY: the token proves AVX.
                unsafe { _mm256_or_ps(magnitude, _mm256_and_ps(_mm256_set1_ps(-0.0), sign)) }
            }
            #[inline(always)]
            fn select_lt(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
                // SAFETY: the token proves AVX.
                unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
            }
            #[inline(always)]
            fn round_exp2(self, a: __m256) -> (__m256, __m256) {
                // SAFETY: the token proves AVX2.
                unsafe {
                    let n = _mm256_cvtps_epi32(a);
                    let power =
                        _mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)));
                    (_mm256_cvtepi32_ps(n), _mm256_castsi256_ps(power))
                }
            }
            #[inline(always)]
            unsafe fn load(self, p: *const f32) -> __m256 {
                // SAFETY: the token proves AVX; the caller vouches for `p`.
                unsafe { _mm256_loadu_ps(p) }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32, v: __m256) {
                // SAFETY: the token proves AVX; the caller vouches for `p`.
                unsafe { _mm256_storeu_ps(p, v) }
            }
            #[inline(always)]
            unsafe fn load_f16(self, p: *const u16) -> __m256 {
                // SAFETY: the token proves F16C; the caller vouches for `p`.
                unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
            }
            #[inline(always)]
            unsafe fn load_i8(self, p: *const i8) -> __m256 {
                // SAFETY: the token proves AVX2; the caller vouches for 8 bytes at `p`.
                unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
            }
        }

        impl Simd for $token {
            $wide!();
            $blocks!();
            const REGISTERS: usize = $registers;

            #[inline(always)]
            unsafe fn apart<W: Work<Self>>(self, work: W) {
                #[inline(never)]
                #[target_feature(enable = $features)]
                unsafe fn alone<W: Work<$token>>(token: $token, work: W) {
                    // SAFETY: the caller's contract.
                    unsafe { work.run(token) }
                }
                // SAFETY: the token proves the features; the rest is the caller's contract.
                unsafe { alone(self, work) }
            }

            #[inline(always)]
            fn sum(self, a: __m256) -> f32 {
                // SAFETY: the token proves AVX.
                unsafe {
                    let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
                }
            }
            #[inline(always)]
            fn max_lane(self, a: __m256) -> f32 {
                // SAFETY: the token proves AVX.
                unsafe {
                    let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                    _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
                }
            }
            #[inline(always)]
            unsafe fn store_f16(self, p: *mut u16, v: __m256) {
                // SAFETY: the token proves F16C; the caller vouches for `p`.
                unsafe {
                    _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
                }
            }
            #[inline(always)]
            unsafe fn store_i8(self, p: *mut i8, v: __m256) {
                // SAFETY: the token proves AVX2; the caller vouches for 8 bytes at `p`.
                unsafe {
                    let n = _mm256_cvtps_epi32(v);
                    let four = _mm_packs_epi32(
                        _mm256_castsi256_si128(n),
                        _mm256_extracti128_si256::<1>(n),
                    );
                    _mm_storel_epi64(p.cast(), _mm_packs_epi16(four, four));
                }
            }
            #[inline(always)]
            fn transpose(self, rows: [__m256; 8]) -> [__m256; 8] {
                // SAFETY: the token proves AVX.
                unsafe { transposed(rows) }
            }
        }
    };
}

eight_lanes!(Avx2, "avx2,fma,f16c", 16, lanes_of_few, wide_in_two, blocks_in_two);
eight_lanes!(
    Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni",
    32,
    lanes_of_wide,
    wide_in_one,
    blocks_in_one
);
