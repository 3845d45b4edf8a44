//! Wide vectors in AVX-512 registers.
//!
//! Each block below is sound for the same reason: [`Sixteen`] holds the token, which exists only
//! where the CPU has AVX-512 F. Pointers are vouched for by the caller.

use super::{Lanes, WIDE};
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
    /// `2^x = 2^(n / 32) 2^r` with `|r| <= 1/64`: the power of a 32nd is picked from a table, `2^r` a
    /// polynomial of degree 2, an interpolation of ours at Chebyshev's points, 6e-8 off before rounding.
    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        // The last bits of a float of this size count 32nds, of which there are fewer than 2^13.
        let counting = self.splat(393_216.0);
        let low = self.splat(-126.0);
        let held = self.max(low, x);
        let counted = self.add(held, counting);
        let r = self.sub(held, self.sub(counted, counting));
        let p = self.fma(r, self.splat(0.240_228_86), self.splat(0.693_157_3));
        let p = self.fma(p, r, self.splat(1.0));
        let root = self.pick(&ROOTS, counted);
        // SAFETY: the token proves AVX-512 F.
        unsafe {
            let whole = _mm512_slli_epi32::<18>(_mm512_castps_si512(counted));
            let power = _mm512_add_epi32(_mm512_castps_si512(root), whole);
            // A NaN lane is not below the lowest.
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, low);
            _mm512_maskz_mul_ps(kept, p, _mm512_castsi512_ps(power))
        }
    }
    /// `max(0, x) - |x| Phi(-|x|)`: the second term is a polynomial for each stretch of a quarter,
    /// whose coefficients one instruction picks from a table. Off by 5e-8 before rounding.
    #[inline(always)]
    fn gelu(self, x: __m512) -> __m512 {
        // The last bits of a float of this size count quarters.
        let quarters = self.splat(2_097_152.0);
        // The second operand is what is kept of two where one is NaN.
        let a = self.min(self.splat(7.75), self.abs(x));
        let counted = self.add(a, quarters);
        let u = self.sub(a, self.sub(counted, quarters));
        let [first, rest @ ..] = &TAIL;
        let mut tail = self.pick(first, counted);
        for coefficients in rest {
            tail = self.fma(tail, u, self.pick(coefficients, counted));
        }
        self.sub(self.max(self.splat(0.0), x), tail)
    }
}

impl Sixteen {
    /// The entries that the last five bits of each lane say.
    #[inline(always)]
    fn pick(self, table: &[f32; 2 * WIDE], lanes: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512 F; the table holds 32 f32.
        unsafe {
            let (low, high) = (self.load(table.as_ptr()), self.load(table.as_ptr().add(WIDE)));
            _mm512_permutex2var_ps(low, _mm512_castps_si512(lanes), high)
        }
    }
}

/// `2^(j / 32)` less what the count of 32nds adds for `j` to its exponent.
const ROOTS: [f32; 2 * WIDE] = {
    let mut roots: [f32; 2 * WIDE] = [
        1.0,
        1.021_897_2,
        1.044_273_7,
        1.067_140_5,
        1.090_507_7,
        1.114_386_8,
        1.138_788_6,
        1.163_724_9,
        1.189_207_1,
        1.215_247_4,
        1.241_857_8,
        1.269_051,
        1.296_839_6,
        1.325_236_7,
        1.354_255_6,
        1.383_91,
        std::f32::consts::SQRT_2,
        1.445_180_8,
        1.476_826_2,
        1.509_164_5,
        1.542_210_8,
        1.575_980_9,
        1.610_490_3,
        1.645_755_5,
        1.681_792_9,
        1.718_619_3,
        1.756_252_2,
        1.794_709_1,
        1.834_008_1,
        1.874_167_7,
        1.915_206_6,
        1.957_144_1,
    ];
    let mut j = 0;
    while j < roots.len() {
        roots[j] = f32::from_bits(roots[j].to_bits() - ((j as u32) << 18));
        j += 1;
    }
    roots
};

/// `a Phi(-a)` for `a` around 0, 1/4, 1/2, ... 7 3/4: coefficients of the fourth, third, ... power of
/// the distance from there. Interpolations of ours at Chebyshev's points; zeros for those around 6 1/4
/// and beyond, where less than 3e-9 is left.
#[rustfmt::skip]
const TAIL: [[f32; 2 * WIDE]; 5] = [
    [0.066_257_134, 0.057_272_132, 0.033_851_58, 0.004_810_93, -0.020_022_826, -0.034_060_087, -0.035_975_236, -0.028_922_372, -0.018_007_385, -0.007_723_098, -5.477_384_5e-4, 0.003_093_409_8, 0.004_044_330_7, 0.003_513_752_7, 0.002_485_190_3, 0.001_521_486_1, 8.287_586_4e-4, 4.076_919e-4, 1.827_936_8e-4, 7.515_581e-5, 2.845_788_7e-5, 9.955_345e-6, 3.225_312_6e-6, 9.695_507e-7, 2.708_384_8e-7, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [-4.019_436_6e-14, 0.063_165_985, 0.109_582_73, 0.128_950_03, 0.120_670_7, 0.092_630_43, 0.056_716_83, 0.023_745_961, 1.753_950_5e-4, -0.012_506_233_5, -0.016_349_377, -0.014_815_416, -0.011_079_504, -0.007_226_915_6, -0.004_216_312_4, -0.002_230_632_1, -0.001_079_186_7, -4.801_359_3e-4, -1.972_122_3e-4, -7.499_876e-5, -2.646_502_4e-5, -8.680_144e-6, -2.649_761e-6, -7.536_849_6e-7, -1.999_267_7e-7, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [-0.398_940_92, -0.374_583_63, -0.308_056_74, -0.216_442_87, -0.120_986_19, -0.039_955_407, 0.016_189_03, 0.045_834_55, 0.053_991_027, 0.048_601_583, 0.037_247_907, 0.025_291_67, 0.015_511_576, 0.008_686_895_5, 0.004_472_492, 0.002_126_571_5, 9.367_912_4e-4, 3.832_259_4e-4, 1.458_432_2e-4, 5.170_532e-5, 1.709_531_5e-5, 5.275_896_5e-6, 1.520_927_4e-6, 4.098_043_6e-7, 1.032_575_6e-7, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.5, 0.304_627_72, 0.132_506_58, 7.760_153e-4, -0.083_314_24, -0.122_661_11, -0.127_469_4, -0.110_926_755, -0.085_232_49, -0.059_190_292, -0.037_611_41, -0.022_027_662, -0.011_945_648, -0.006_017_325_4, -0.002_821_695_8, -0.001_233_765_3, -5.036_163e-4, -1.920_968_6e-4, -6.851_974e-5, -2.286_881_9e-5, -7.145_195_5e-6, -2.090_738_5e-6, -5.731_19e-7, -1.472_214e-7, -3.544_716_5e-8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.0, 0.100_323_42, 0.154_268_77, 0.169_970_51, 0.158_655_26, 0.132_062_21, 0.100_210_8, 0.070_103_526, 0.045_500_264, 0.027_505_063, 0.015_524_163, 0.008_194_349, 0.004_049_694, 0.001_875_331_4, 8.142_018e-4, 3.315_648_4e-4, 1.266_849_9e-4, 4.542_624_8e-5, 1.528_953_7e-5, 4.831_149e-6, 1.433_259_5e-6, 3.992_611_3e-7, 1.044_428_54e-7, 2.565_758_1e-8, 5.919_554e-9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
];

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

/// What the token's `impl Lanes` does in wide registers, as eight lanes must have the same bits.
macro_rules! lanes_of_wide {
    () => {
        #[inline(always)]
        fn gelu(self, x: __m256) -> __m256 {
            // SAFETY: the token proves AVX-512 F; lanes that are not set are not used.
            unsafe { _mm512_castps512_ps256(self.wide().gelu(_mm512_castps256_ps512(x))) }
        }
        #[inline(always)]
        fn exp2(self, x: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm512_castps512_ps256(self.wide().exp2(_mm512_castps256_ps512(x))) }
        }
    };
}
pub(super) use lanes_of_wide;

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
