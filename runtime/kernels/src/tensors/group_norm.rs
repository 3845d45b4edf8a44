//! Group norm over images whose channels lie side by side. Sums go over a channel's positions in blocks
//! of a fixed size and over blocks and the channels of a group in their order.

use super::{Operands, TensorOut, check_shape};
use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::math;
use crate::pool::Pool;
use crate::simd::{LANES, Simd};
use crate::table::Kernels;
use limbeck_plan::{Activation, GroupNorm};

/// Positions that one partial sum has.
const BLOCK: usize = 128;

/// Work on rows of channels.
pub(crate) enum ChannelRowsTask<'a> {
    /// Adds up each channel of `x [rows, C]`.
    Sum { x: &'a [f32], out: &'a mut [f32] },
    /// Adds up each channel's squared distance from its mean.
    Squares { x: &'a [f32], mean: &'a [f32], out: &'a mut [f32] },
    /// `act(x scale + shift)` of each channel.
    Affine {
        x: &'a [f32],
        scale: &'a [f32],
        shift: &'a [f32],
        activation: Activation,
        out: &'a mut [f32],
    },
}

pub(super) fn run(
    kernels: &Kernels,
    pool: &Pool,
    p: &GroupNorm,
    operands: &Operands<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    let x = operands.get(0)?;
    check_shape("the group norm", out.shape, x.shape)?;
    let (Some(images), Some(channels)) = (x.shape.first(), x.shape.get(1..).and_then(<[_]>::last))
    else {
        return Err(Error::shape(format!("{:?} is not images", x.shape)));
    };
    let (images, channels) = (*images, *channels);
    let weight = operands.get(1)?.floats()?;
    check_len("the group norm's weight", weight.len(), channels)?;
    let bias = operands.floats_if(p.bias, 2)?;
    bias.map_or(Ok(()), |b| check_len("the group norm's bias", b.len(), channels))?;
    if p.groups == 0 || !channels.is_multiple_of(p.groups) {
        return Err(Error::shape(format!("{} groups of {channels} channels", p.groups)));
    }
    let (x, out) = (x.floats()?, out.floats()?);
    if out.is_empty() {
        return Ok(());
    }
    let image = x.len() / images;
    for (x, out) in x.chunks_exact(image).zip(out.chunks_exact_mut(image)) {
        let sums = |mean: Option<&[f32]>| partial_sums(kernels, pool, x, channels, mean);
        let values = (image / p.groups) as f64;
        let means = per_group(p.groups, &sums(None), channels, |sum| sum / values);
        let roots = per_group(p.groups, &sums(Some(&means)), channels, |sum| {
            1.0 / (sum / values + f64::from(p.eps)).sqrt()
        });
        let scale: Vec<f32> = roots.iter().zip(weight).map(|(root, w)| root * w).collect();
        let shift = |c: usize| bias.map_or(0.0, |b| b[c]) - means[c] * scale[c];
        let shift: Vec<f32> = (0..channels).map(shift).collect();
        SharedRows::new(out).for_each_chunk(pool, channels, |first, out| {
            kernels.channel_rows(&mut ChannelRowsTask::Affine {
                x: &x[first..first + out.len()],
                scale: &scale,
                shift: &shift,
                activation: p.activation,
                out,
            });
        });
    }
    Ok(())
}

/// `[blocks, channels]`.
fn partial_sums(
    kernels: &Kernels,
    pool: &Pool,
    x: &[f32],
    channels: usize,
    mean: Option<&[f32]>,
) -> Vec<f32> {
    let block = BLOCK * channels;
    let mut sums = vec![0.0; x.len().div_ceil(block) * channels];
    SharedRows::new(&mut sums).for_each_part(pool, channels, |first, sums| {
        for (i, out) in sums.chunks_exact_mut(channels).enumerate() {
            let start = (first / channels + i) * block;
            let x = &x[start..x.len().min(start + block)];
            kernels.channel_rows(&mut match mean {
                None => ChannelRowsTask::Sum { x, out },
                Some(mean) => ChannelRowsTask::Squares { x, mean, out },
            });
        }
    });
    sums
}

/// A number for each channel from the sums of its group.
fn per_group(groups: usize, sums: &[f32], channels: usize, of: impl Fn(f64) -> f64) -> Vec<f32> {
    let each = channels / groups;
    let mut totals = vec![0.0f64; channels];
    for block in sums.chunks_exact(channels) {
        totals.iter_mut().zip(block).for_each(|(total, v)| *total += f64::from(*v));
    }
    let group = |totals: &[f64]| of(totals.iter().sum()) as f32;
    let found = totals.chunks_exact(each).map(group);
    found.flat_map(|v| std::iter::repeat_n(v, each)).collect()
}

#[inline(always)]
pub(crate) fn channel_rows_task<S: Simd>(s: S, task: &mut ChannelRowsTask<'_>) {
    match task {
        ChannelRowsTask::Sum { x, out } => {
            let channels = out.len();
            for at in (0..channels).step_by(LANES) {
                let mut sum = s.splat(0.0);
                for row in x.chunks_exact(channels) {
                    sum = s.add(sum, s.load_some(row, at));
                }
                s.store_some(out, at, sum);
            }
        }
        ChannelRowsTask::Squares { x, mean, out } => {
            let channels = out.len();
            for at in (0..channels).step_by(LANES) {
                let (mut sum, mean) = (s.splat(0.0), s.load_some(mean, at));
                for row in x.chunks_exact(channels) {
                    let v = s.sub(s.load_some(row, at), mean);
                    sum = s.fma(v, v, sum);
                }
                s.store_some(out, at, sum);
            }
        }
        ChannelRowsTask::Affine { x, scale, shift, activation, out } => {
            let channels = scale.len();
            let rows = x.chunks_exact(channels).zip(out.chunks_exact_mut(channels));
            for (x, out) in rows {
                for at in (0..channels).step_by(LANES) {
                    let (scale, shift) = (s.load_some(scale, at), s.load_some(shift, at));
                    let y = s.fma(s.load_some(x, at), scale, shift);
                    s.store_some(out, at, math::apply(s, *activation, y));
                }
            }
        }
    }
}
