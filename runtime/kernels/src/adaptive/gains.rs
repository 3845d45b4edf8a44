//! What a gate makes of each row: few outputs of many inputs. A weight in f32 rows is read once and
//! without the padding that panels of 16 outputs have.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use crate::elementwise::SharedRows;
use crate::pool::{Pool, SERIAL_MACS};
use crate::simd::{LANES, Lanes, Simd, WIDE};
use crate::table::Kernels;

/// Outputs that share the loads of `x`.
const SHARE: usize = 4;

/// `gate [C, K]` as little-endian f32 and `bias [C]`.
#[derive(Clone, Copy)]
pub(crate) struct Gate<'a> {
    weight: &'a [u8],
    bias: &'a [f32],
    cols: usize,
}

impl<'a> Gate<'a> {
    /// Nothing when the weight is not of `bias.len()` rows of `cols` f32.
    pub fn new(weight: &'a [u8], bias: &'a [f32], cols: usize) -> Option<Gate<'a>> {
        let bytes = bias.len().checked_mul(cols)?.checked_mul(size_of::<f32>())?;
        (weight.len() == bytes).then_some(Gate { weight, bias, cols })
    }

    /// # Panics
    /// When a row or its gains are not as long as the gate asks for.
    pub fn check(&self, x: &[f32], gains: &[f32]) {
        assert!(x.len() == self.cols && gains.len() == self.bias.len());
    }
}

/// `gains [T, C]` of `x [T, K]`.
pub(super) fn gains(kernels: &Kernels, pool: &Pool, x: &[f32], gate: Gate<'_>, out: &mut [f32]) {
    let (count, cols) = (gate.bias.len(), gate.cols);
    let rows = out.len() / count;
    let threads = if rows * count * cols < SERIAL_MACS { 1 } else { pool.threads() };
    let chunk = rows.div_ceil(threads).max(1);
    let out = SharedRows::new(out);
    pool.run(rows.div_ceil(chunk), &|task| {
        for row in task * chunk..rows.min((task + 1) * chunk) {
            // SAFETY: each row is one task's alone.
            let out = unsafe { out.part(row * count, count) };
            kernels.gains(&x[row * cols..][..cols], gate, out);
        }
    });
}

/// The gains `[C]` of one row `[K]`. Lane `i` of 16 sums the columns `i`, `i + 16`, ...; the upper
/// lanes are then added to the lower ones, and those as [`Simd::sum`] does.
///
/// # Safety
/// `x` has the gate's columns, `out` its rows.
#[inline(always)]
pub(crate) unsafe fn gains_row<S: Simd>(s: S, x: &[f32], gate: Gate<'_>, out: &mut [f32]) {
    let count = out.len();
    let mut at = 0;
    // SAFETY: the caller's contract, and what `Gate::new` checked.
    unsafe {
        while at < count {
            let w = gate.weight.as_ptr().cast::<f32>().wrapping_add(at * x.len());
            let dots = match count - at {
                1 => dots::<S, 1>(s, x, w),
                2 => dots::<S, 2>(s, x, w),
                3 => dots::<S, 3>(s, x, w),
                _ => dots::<S, SHARE>(s, x, w),
            };
            for (i, dot) in dots.into_iter().enumerate().take(count - at) {
                out[at + i] = dot + gate.bias[at + i];
            }
            at += SHARE;
        }
    }
}

/// The dot products of `x` with the `N` rows from `w` on.
///
/// # Safety
/// There are `N` rows of as many f32 as `x` has, in any alignment.
#[inline(always)]
unsafe fn dots<S: Simd, const N: usize>(s: S, x: &[f32], w: *const f32) -> [f32; SHARE] {
    let (cols, whole) = (x.len(), x.len() / WIDE * WIDE);
    let mut sums = [s.wide().splat(0.0); N];
    let mut padded = [[0.0; WIDE]; N];
    let mut rest = [0.0; WIDE];
    rest[..cols - whole].copy_from_slice(&x[whole..]);
    let mut dots = [0.0; SHARE];
    // SAFETY: the caller's contract; the parts after `whole` are copied to where 16 f32 fit.
    unsafe {
        for at in (0..whole).step_by(WIDE) {
            let x = s.wide().load(x.as_ptr().add(at));
            for n in 0..N {
                sums[n] = s.wide().fma(s.wide().load(w.add(n * cols + at)), x, sums[n]);
            }
        }
        let x = s.wide().load(rest.as_ptr());
        for n in 0..N {
            let (from, to) = (w.add(n * cols + whole), padded[n].as_mut_ptr());
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast(), (cols - whole) * 4);
            sums[n] = s.wide().fma(s.wide().load(padded[n].as_ptr()), x, sums[n]);
            s.wide().store(padded[n].as_mut_ptr(), sums[n]);
            dots[n] = s.sum(s.add(s.load_some(&padded[n], 0), s.load_some(&padded[n], LANES)));
        }
    }
    dots
}
