//! Softmax along the last axis.

use super::{TensorArg, TensorOut, check_shape};
use crate::elementwise::SharedRows;
use crate::error::Error;
use crate::math;
use crate::pool::Pool;
use crate::simd::{LANES, Simd};
use crate::table::Kernels;
use limbeck_plan::Softmax;

pub(super) fn run(
    kernels: &Kernels,
    pool: &Pool,
    p: &Softmax,
    x: TensorArg<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    check_shape("the softmax", out.shape, x.shape)?;
    let cols = out.shape.last().copied().unwrap_or(0);
    let (x, out) = (x.floats()?, out.floats()?);
    if out.is_empty() {
        return Ok(());
    }
    SharedRows::new(out).for_each_chunk(pool, cols, |first, out| {
        for (x, out) in x[first..].chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
            kernels.softmax(x, p.log, out);
        }
    });
    Ok(())
}

/// One row; not empty.
#[inline(always)]
pub(crate) fn softmax_row<S: Simd>(s: S, x: &[f32], log: bool, out: &mut [f32]) {
    let mut most = f32::NEG_INFINITY;
    x.iter().for_each(|v| most = if *v > most || v.is_nan() { *v } else { most });
    let shift = s.splat(most);
    let mut sums = s.splat(0.0);
    for at in (0..x.len()).step_by(LANES) {
        let e = math::exp(s, s.sub(s.load_some(x, at), shift));
        s.store_some(out, at, e);
        // What is not there adds nothing.
        sums = s.add(sums, s.load_some(&out[at..x.len().min(at + LANES)], 0));
    }
    let sum = s.sum(sums);
    if log {
        let shift = most + sum.ln();
        out.iter_mut().zip(x).for_each(|(out, x)| *out = x - shift);
    } else {
        let scale = 1.0 / sum;
        out.iter_mut().for_each(|v| *v *= scale);
    }
}
