//! The norm op: each row scaled by its own statistics.

use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::pool::Pool;
use crate::simd::{LANES, Simd};
use crate::table::Kernels;
use limbeck_plan::NormKind;

/// A norm's formula and parameters.
#[derive(Clone, Copy, Debug)]
pub struct NormArgs<'a> {
    /// Formula.
    pub kind: NormKind,
    /// `[H]`.
    pub weight: &'a [f32],
    /// `[H]`.
    pub bias: Option<&'a [f32]>,
    /// Added under the root.
    pub eps: f32,
}

impl NormArgs<'_> {
    pub(crate) fn check(&self, cols: usize) -> Result<(), Error> {
        check_len("the norm's weight", self.weight.len(), cols)?;
        self.bias.map_or(Ok(()), |b| check_len("the norm's bias", b.len(), cols))
    }
}

/// Normalises each row: `x [T, H] -> out [T, H]`, `H` being the weight's length.
///
/// # Errors
/// `Shape` when the slices do not fit each other.
pub fn norm(
    kernels: &Kernels,
    pool: &Pool,
    x: &[f32],
    args: &NormArgs<'_>,
    out: &mut [f32],
) -> Result<(), Error> {
    let cols = args.weight.len();
    args.check(cols)?;
    if cols == 0 || !x.len().is_multiple_of(cols) {
        return Err(Error::shape(format!("{} values are not rows of {cols}", x.len())));
    }
    check_len("the norm's result", out.len(), x.len())?;
    let shared = SharedRows::new(out);
    shared.for_each_chunk(pool, cols, |first, out| {
        for (x, out) in x[first..].chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
            kernels.norm_row(args, x, out);
        }
    });
    Ok(())
}

/// One row. Sums run in 8 lanes over the columns in order.
#[inline(always)]
pub(crate) fn norm_row<S: Simd>(s: S, args: &NormArgs<'_>, x: &[f32], out: &mut [f32]) {
    let count = x.len() as f32;
    let (mean, scale) = match args.kind {
        NormKind::Rms => {
            let mut squares = s.splat(0.0);
            for at in (0..x.len()).step_by(LANES) {
                let v = s.load_some(x, at);
                squares = s.fma(v, v, squares);
            }
            (0.0, 1.0 / (s.sum(squares) / count + args.eps).sqrt())
        }
        NormKind::Layer => {
            let mut total = s.splat(0.0);
            for at in (0..x.len()).step_by(LANES) {
                total = s.add(total, s.load_some(x, at));
            }
            let mean = s.sum(total) / count;
            let mut squares = s.splat(0.0);
            let whole = x.len() / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                let v = s.sub(s.load_some(x, at), s.splat(mean));
                squares = s.fma(v, v, squares);
            }
            let mut rest = [0.0; LANES];
            for (r, x) in rest.iter_mut().zip(&x[whole..]) {
                *r = x - mean;
            }
            let v = s.load_some(&rest, 0);
            squares = s.fma(v, v, squares);
            (mean, 1.0 / (s.sum(squares) / count + args.eps).sqrt())
        }
    };
    let (mean, scale) = (s.splat(mean), s.splat(scale));
    for at in (0..x.len()).step_by(LANES) {
        let v = s.mul(s.sub(s.load_some(x, at), mean), scale);
        let w = s.load_some(args.weight, at);
        let y = match args.bias {
            Some(bias) => s.fma(v, w, s.load_some(bias, at)),
            None => s.mul(v, w),
        };
        s.store_some(out, at, y);
    }
}
