//! Wide vectors as two of eight lanes, for tokens that have no wider registers.

use super::{LANES, Lanes, Simd};

/// The wide lanes of such a token.
#[derive(Clone, Copy)]
pub(crate) struct InTwo<S>(pub S);

impl<S: Simd> Lanes for InTwo<S> {
    type V = [S::V; 2];

    #[inline(always)]
    fn splat(self, v: f32) -> Self::V {
        [self.0.splat(v); 2]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        [self.0.add(a[0], b[0]), self.0.add(a[1], b[1])]
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        [self.0.sub(a[0], b[0]), self.0.sub(a[1], b[1])]
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        [self.0.mul(a[0], b[0]), self.0.mul(a[1], b[1])]
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        [self.0.div(a[0], b[0]), self.0.div(a[1], b[1])]
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        [self.0.fma(a[0], b[0], c[0]), self.0.fma(a[1], b[1], c[1])]
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        [self.0.max(a[0], b[0]), self.0.max(a[1], b[1])]
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        [self.0.min(a[0], b[0]), self.0.min(a[1], b[1])]
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        [self.0.abs(a[0]), self.0.abs(a[1])]
    }
    #[inline(always)]
    fn with_sign(self, magnitude: Self::V, sign: Self::V) -> Self::V {
        [self.0.with_sign(magnitude[0], sign[0]), self.0.with_sign(magnitude[1], sign[1])]
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        [self.0.select_lt(a[0], b[0], yes[0], no[0]), self.0.select_lt(a[1], b[1], yes[1], no[1])]
    }
    #[inline(always)]
    fn round_exp2(self, a: Self::V) -> (Self::V, Self::V) {
        let (low, high) = (self.0.round_exp2(a[0]), self.0.round_exp2(a[1]));
        ([low.0, high.0], [low.1, high.1])
    }
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        [self.0.exp(x[0]), self.0.exp(x[1])]
    }
    #[inline(always)]
    fn exp2(self, x: Self::V) -> Self::V {
        [self.0.exp2(x[0]), self.0.exp2(x[1])]
    }
    #[inline(always)]
    fn gelu(self, x: Self::V) -> Self::V {
        [self.0.gelu(x[0]), self.0.gelu(x[1])]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for 16 f32.
        unsafe { [self.0.load(p), self.0.load(p.add(LANES))] }
    }
    #[inline(always)]
    unsafe fn add_multiples<const N: usize>(
        self,
        p: *const f32,
        x: [Self::V; N],
        sums: &mut [Self::V; N],
    ) {
        for half in 0..2 {
            let mut of_half = sums.map(|sum| sum[half]);
            // SAFETY: the caller vouches for 16 f32.
            unsafe {
                let p = p.add(half * LANES);
                self.0.add_multiples(p, x.map(|x| x[half]), &mut of_half);
            }
            for (sum, new) in sums.iter_mut().zip(of_half) {
                sum[half] = new;
            }
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for 16 f32.
        unsafe {
            self.0.store(p, v[0]);
            self.0.store(p.add(LANES), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: the caller vouches for 16 u16.
        unsafe { [self.0.load_f16(p), self.0.load_f16(p.add(LANES))] }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::V {
        // SAFETY: the caller vouches for 16 i8.
        unsafe { [self.0.load_i8(p), self.0.load_i8(p.add(LANES))] }
    }
}

/// The wide side of a token's `impl Simd` that keeps wide vectors in two.
macro_rules! wide_in_two {
    () => {
        type Wide = $crate::simd::InTwo<Self>;

        #[inline(always)]
        fn wide(self) -> Self::Wide {
            $crate::simd::InTwo(self)
        }
        #[inline(always)]
        fn halves(self, a: [Self::V; 2]) -> [Self::V; 2] {
            a
        }
        #[inline(always)]
        fn join(self, halves: [Self::V; 2]) -> [Self::V; 2] {
            halves
        }
    };
}
pub(super) use wide_in_two;
