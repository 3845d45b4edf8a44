//! A small vector trait: the operations that the generic kernels are written in, eight f32 lanes
//! wide. Each instruction set's token implements it, and having the token proves that the
//! instructions exist.
//!
//! Every method acts on each lane alone, except the two reductions, whose order is fixed.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{prefetch, widen_halves};

/// Lanes of a vector.
pub(crate) const LANES: usize = 8;
/// Lanes of a wide vector.
pub(crate) const WIDE: usize = 2 * LANES;

/// The wide vectors of a token that has no wider registers, inside its `impl Simd`.
macro_rules! wide_in_two {
    () => {
        type W = [Self::V; 2];

        #[inline(always)]
        fn splat_wide(self, v: f32) -> Self::W {
            [self.splat(v); 2]
        }
        #[inline(always)]
        fn mul_wide(self, a: Self::W, b: Self::W) -> Self::W {
            [self.mul(a[0], b[0]), self.mul(a[1], b[1])]
        }
        #[inline(always)]
        fn fma_wide(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W {
            [self.fma(a[0], b[0], c[0]), self.fma(a[1], b[1], c[1])]
        }
        #[inline(always)]
        unsafe fn load_wide(self, p: *const f32) -> Self::W {
            // SAFETY: the caller vouches for 16 f32.
            unsafe { [self.load(p), self.load(p.add(LANES))] }
        }
        #[inline(always)]
        unsafe fn store_wide(self, p: *mut f32, v: Self::W) {
            // SAFETY: the caller vouches for 16 f32.
            unsafe {
                self.store(p, v[0]);
                self.store(p.add(LANES), v[1]);
            }
        }
        #[inline(always)]
        unsafe fn load_wide_f16(self, p: *const u16) -> Self::W {
            // SAFETY: the caller vouches for 16 u16.
            unsafe { [self.load_f16(p), self.load_f16(p.add(LANES))] }
        }
        #[inline(always)]
        unsafe fn load_wide_i8(self, p: *const i8) -> Self::W {
            // SAFETY: the caller vouches for 16 i8.
            unsafe { [self.load_i8(p), self.load_i8(p.add(LANES))] }
        }
    };
}
pub(crate) use wide_in_two;

/// Eight lanes of f32.
///
/// Pointer arguments need no alignment. `max` and `min` give their second argument when either
/// is NaN.
pub(crate) trait Simd: Copy {
    /// Eight f32.
    type V: Copy;
    /// Sixteen f32, for the loops where most time is spent. Each lane has the bits that it would
    /// have in a `V`.
    type W: Copy;
    /// How many `V` the registers hold.
    const REGISTERS: usize;

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
    /// `((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7))`.
    fn sum(self, a: Self::V) -> f32;
    /// The largest lane; NaN lanes may be ignored.
    fn max_lane(self, a: Self::V) -> f32;

    /// Asks for a cache line, at any address.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}

    /// [`Simd::splat`] in all lanes of a wide vector.
    fn splat_wide(self, v: f32) -> Self::W;
    /// [`Simd::mul`] of wide vectors.
    fn mul_wide(self, a: Self::W, b: Self::W) -> Self::W;
    /// [`Simd::fma`] of wide vectors.
    fn fma_wide(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W;
    /// # Safety
    /// `p` is valid for reading 16 f32.
    unsafe fn load_wide(self, p: *const f32) -> Self::W;
    /// # Safety
    /// `p` is valid for writing 16 f32.
    unsafe fn store_wide(self, p: *mut f32, v: Self::W);
    /// # Safety
    /// `p` is valid for reading 16 u16.
    unsafe fn load_wide_f16(self, p: *const u16) -> Self::W;
    /// # Safety
    /// `p` is valid for reading 16 i8.
    unsafe fn load_wide_i8(self, p: *const i8) -> Self::W;

    /// # Safety
    /// `p` is valid for reading 8 f32.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p` is valid for writing 8 f32.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Eight f16, as f32.
    ///
    /// # Safety
    /// `p` is valid for reading 8 u16.
    unsafe fn load_f16(self, p: *const u16) -> Self::V;
    /// Rounds to nearest even f16.
    ///
    /// # Safety
    /// `p` is valid for writing 8 u16.
    unsafe fn store_f16(self, p: *mut u16, v: Self::V);
    /// Eight i8, as f32.
    ///
    /// # Safety
    /// `p` is valid for reading 8 i8.
    unsafe fn load_i8(self, p: *const i8) -> Self::V;
    /// Rounds to the nearest integer (ties to even); lanes lie within -127..=127.
    ///
    /// # Safety
    /// `p` is valid for writing 8 i8.
    unsafe fn store_i8(self, p: *mut i8, v: Self::V);
    /// The largest of `|a|` as bits, NaN counting as larger than infinity.
    fn max_abs_bits(self, a: [Self::V; 4]) -> u32;

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
