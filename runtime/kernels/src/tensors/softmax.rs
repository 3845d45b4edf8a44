//! Softmax along the last axis.

use super::{TensorArg, TensorOut, check_shape};
use crate::elementwise::SharedRows;
use crate::error::Error;
use crate::pool::Pool;
use crate::simd::{Lanes, Simd, WIDE};
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

/// One row; not empty. Wide vectors of it take turns in sixteen sums.
#[inline(always)]
pub(crate) fn softmax_row<S: Simd>(s: S, x: &[f32], log: bool, out: &mut [f32]) {
    let wide = s.wide();
    let (steps, rest) = x.as_chunks::<WIDE>();
    // What is not there is below all.
    let mut padded = [f32::NEG_INFINITY; WIDE];
    padded[..rest.len()].copy_from_slice(rest);
    let mut most = load(wide, &padded);
    for step in steps {
        most = wide.max(most, load(wide, step));
    }
    let [low, high] = s.halves(most);
    let most = s.max_lane(s.max(low, high));
    let shift = wide.splat(most);
    let mut sums = wide.splat(0.0);
    let (outs, out_rest) = out.as_chunks_mut::<WIDE>();
    for (step, out) in steps.iter().zip(outs) {
        let e = wide.exp(wide.sub(load(wide, step), shift));
        // SAFETY: the array holds a wide vector.
        unsafe { wide.store(out.as_mut_ptr(), e) };
        sums = wide.add(sums, e);
    }
    let e = wide.exp(wide.sub(load(wide, &padded), shift));
    // SAFETY: as above.
    unsafe { wide.store(padded.as_mut_ptr(), e) };
    out_rest.copy_from_slice(&padded[..out_rest.len()]);
    padded[out_rest.len()..].fill(0.0);
    let [low, high] = s.halves(wide.add(sums, load(wide, &padded)));
    let sum = s.sum(s.add(low, high));
    if log {
        let shift = most + sum.ln();
        out.iter_mut().zip(x).for_each(|(out, x)| *out = x - shift);
    } else {
        let scale = 1.0 / sum;
        out.iter_mut().for_each(|v| *v *= scale);
    }
}

#[inline(always)]
fn load<L: Lanes>(wide: L, part: &[f32; WIDE]) -> L::V {
    // SAFETY: the array holds as many values as the widest vector has lanes.
    unsafe { wide.load(part.as_ptr()) }
}
