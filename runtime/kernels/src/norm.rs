//! The norm op: each row scaled by its own statistics.

use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::pool::Pool;
use crate::simd::{LANES, Lanes, Simd, WIDE};
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

/// One row.
#[inline(always)]
pub(crate) fn norm_row<S: Simd>(s: S, args: &NormArgs<'_>, x: &[f32], out: &mut [f32]) {
    let count = x.len() as f32;
    let mean = match args.kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => sum(s, x) / count,
    };
    let scale = 1.0 / (squares(s, x, mean) / count + args.eps).sqrt();
    let wide = s.wide();
    let (wide_mean, wide_scale) = (wide.splat(mean), wide.splat(scale));
    let whole = x.len() / WIDE * WIDE;
    assert!(args.weight.len() == x.len() && out.len() == x.len());
    assert!(args.bias.is_none_or(|bias| bias.len() == x.len()));
    for at in (0..whole).step_by(WIDE) {
        // SAFETY: all of them have 16 values from `at` on.
        unsafe {
            let v = wide.sub(wide.load(x.as_ptr().add(at)), wide_mean);
            let (v, w) = (wide.mul(v, wide_scale), wide.load(args.weight.as_ptr().add(at)));
            let y = match args.bias {
                Some(bias) => wide.fma(v, w, wide.load(bias.as_ptr().add(at))),
                None => wide.mul(v, w),
            };
            wide.store(out.as_mut_ptr().add(at), y);
        }
    }
    let (mean, scale) = (s.splat(mean), s.splat(scale));
    for at in (whole..x.len()).step_by(LANES) {
        let v = s.mul(s.sub(s.load_some(x, at), mean), scale);
        let w = s.load_some(args.weight, at);
        let y = match args.bias {
            Some(bias) => s.fma(v, w, s.load_some(bias, at)),
            None => s.mul(v, w),
        };
        s.store_some(out, at, y);
    }
}

/// Columns that sums go through at a time, in two wide vectors; of what is left over, each vector of
/// eight lanes goes to the first half of the first.
const STEP: usize = 2 * WIDE;

/// The sum of a row.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sums = [s.wide().splat(0.0); 2];
    let (steps, rest) = x.as_chunks::<STEP>();
    for step in steps {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a step holds two wide vectors.
            *sum = s.wide().add(*sum, unsafe { s.wide().load(step.as_ptr().add(i * WIDE)) });
        }
    }
    let [mut low, high] = s.halves(s.wide().add(sums[0], sums[1]));
    for at in (0..rest.len()).step_by(LANES) {
        low = s.add(low, s.load_some(rest, at));
    }
    s.sum(s.add(low, high))
}

/// The sum of a row's squared distances from `mean`.
#[inline(always)]
fn squares<S: Simd>(s: S, x: &[f32], mean: f32) -> f32 {
    let wide_mean = s.wide().splat(mean);
    let mut sums = [s.wide().splat(0.0); 2];
    let (steps, rest) = x.as_chunks::<STEP>();
    for step in steps {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a step holds two wide vectors.
            let v = unsafe { s.wide().load(step.as_ptr().add(i * WIDE)) };
            let v = s.wide().sub(v, wide_mean);
            *sum = s.wide().fma(v, v, *sum);
        }
    }
    let [mut low, high] = s.halves(s.wide().add(sums[0], sums[1]));
    for x in rest.chunks(LANES) {
        // What is not there is at the mean.
        let mut padded = [mean; LANES];
        padded[..x.len()].copy_from_slice(x);
        let v = s.sub(s.load_some(&padded, 0), s.splat(mean));
        low = s.fma(v, v, low);
    }
    s.sum(s.add(low, high))
}
