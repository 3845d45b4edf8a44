//! Wide vectors in AVX-512 registers.
//!
//! Each block below is sound for the same reason: [`Sixteen`] holds the token, which exists only
//! where the CPU has AVX-512 F. Pointers are vouched for by the caller.

use super::Lanes;
use crate::isa::Avx512;
use std::arch::x86_64::*;

/// The wide lanes of [`Avx512`].
#[derive(Clone, Copy)]
pub(crate) struct Sixteen(pub Avx512);

/// All bits but the sign.
const MAGNITUDE: i32 = 0x7fff_ffff;

impl Lanes for Sixteen {
    type V = __m512;

    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe {
            let bits = _mm512_castps_si512(a);
            _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(MAGNITUDE)))
        }
    }
    #[inline(always)]
    fn with_sign(self, magnitude: __m512, sign: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe {
            let sign = _mm512_castps_si512(sign);
            let sign = _mm512_andnot_si512(_mm512_set1_epi32(MAGNITUDE), sign);
            _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(magnitude), sign))
        }
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes) }
    }
    #[inline(always)]
    fn round_exp2(self, a: __m512) -> (__m512, __m512) {
        // SAFETY: the token proves AVX-512 F.
        unsafe {
            let n = _mm512_cvtps_epi32(a);
            let power = _mm512_slli_epi32::<23>(_mm512_add_epi32(n, _mm512_set1_epi32(127)));
            (_mm512_cvtepi32_ps(n), _mm512_castsi512_ps(power))
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the token proves AVX-512 F; the caller vouches for `p`.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the token proves AVX-512 F; the caller vouches for `p`.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m512 {
        // SAFETY: the token proves AVX-512 F; the caller vouches for `p`.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m512 {
        // SAFETY: the token proves AVX-512 F; the caller vouches for 16 bytes at `p`.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
}

/// The wide side of the token's `impl Simd`.
macro_rules! wide_in_one {
    () => {
        type Wide = $crate::simd::avx512::Sixteen;

        #[inline(always)]
        fn wide(self) -> Self::Wide {
            $crate::simd::avx512::Sixteen(self)
        }
        #[inline(always)]
        fn halves(self, a: __m512) -> [__m256; 2] {
            // SAFETY: the token proves AVX-512 F.
            unsafe {
                let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a));
                [_mm512_castps512_ps256(a), _mm256_castpd_ps(high)]
            }
        }
        #[inline(always)]
        fn join(self, [low, high]: [__m256; 2]) -> __m512 {
            // SAFETY: the token proves AVX-512 F.
            unsafe {
                let low = _mm512_castps_pd(_mm512_castps256_ps512(low));
                _mm512_castpd_ps(_mm512_insertf64x4::<1>(low, _mm256_castps_pd(high)))
            }
        }
    };
}
pub(super) use wide_in_one;

/// Blocks of values in the token's wide vectors.
macro_rules! blocks_in_one {
    () => {
        #[inline(always)]
        fn max_abs_bits<const N: usize>(self, a: &[[__m512; 2]; N]) -> u32 {
            // SAFETY: the token proves AVX-512 F.
            unsafe {
                let mut largest = _mm512_setzero_si512();
                for [a, b] in a {
                    let a = _mm512_castps_si512(self.wide().abs(*a));
                    let b = _mm512_castps_si512(self.wide().abs(*b));
                    largest = _mm512_max_epi32(largest, _mm512_max_epi32(a, b));
                }
                _mm512_reduce_max_epi32(largest) as u32
            }
        }
        #[inline(always)]
        fn store_blocks<const N: usize>(
            self,
            q: &mut [[i8; QUANT_BLOCK]; N],
            v: &[[__m512; 2]; N],
        ) -> i32 {
            // SAFETY: the token proves AVX-512 F; the arrays hold 32 bytes.
            unsafe {
                let mut sum = _mm512_setzero_si512();
                for (q, [a, b]) in q.iter_mut().zip(v) {
                    let n = [_mm512_cvtps_epi32(*a), _mm512_cvtps_epi32(*b)];
                    let q: *mut i8 = q.as_mut_ptr();
                    _mm_storeu_si128(q.cast(), _mm512_cvtsepi32_epi8(n[0]));
                    _mm_storeu_si128(q.add(WIDE).cast(), _mm512_cvtsepi32_epi8(n[1]));
                    sum = _mm512_add_epi32(sum, _mm512_add_epi32(n[0], n[1]));
                }
                _mm512_reduce_add_epi32(sum)
            }
        }
    };
}
pub(super) use blocks_in_one;
