//! The products with f16 values: each output is the sum of two chains of `acc = fma(w, x, acc)`, over the channels of
//! either half in order. So two threads each read whole channels: a channel of few cache lines that is left out saves
//! nothing, as the core asks for what follows a stream's end.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over vectors of fixed number read best by index"
)]

use super::{Active, ChannelTask, LINE, prefetch};
use crate::channels::ChannelTile;
use crate::elementwise::SharedRows;
use crate::linear::epilogue::finish_apart;
use crate::linear::task::{Acc, LinearTask, MAX_TILE, UNIT};
use crate::simd::{Lanes, Simd};
use limbeck_plan::PackFormat;
use std::ops::Range;

/// Values of a wide vector.
const WIDE: usize = 16;
/// Bytes of a value; those of two wide vectors are a line.
const SIZE: usize = 2;
/// Channels between the one that is computed and the one that is asked for.
const AHEAD: usize = 8;
/// Rows of a tile up to which all its channels are read faster as one stream than side by side.
const STREAM_ROWS: usize = 1024;

/// The sums of some rows over half of the channels, for some of the weight's rows.
pub(crate) struct HalfTask<'a> {
    /// Of the input's rows.
    pub active: Active<'a>,
    pub w: &'a [u8],
    pub format: PackFormat,
    pub k: usize,
    pub n: usize,
    /// Rows of the input.
    pub rows: usize,
    /// Which half.
    pub half: usize,
    /// Rows of the weight, whole runs.
    pub outputs: Range<usize>,
    /// `[halves, rows, n]`, with `n` in whole runs; of this task the half's for the outputs.
    pub sums: &'a SharedRows<'a>,
}

/// What becomes of the sums of both halves.
pub(crate) struct EndsTask<'a> {
    /// Its rows and units; there is no product.
    pub linear: LinearTask<'a>,
    /// `[halves, rows, stride]`: what they are for the linear's units from [`LinearTask::first_unit`] on.
    pub sums: &'a [f32],
    pub stride: usize,
}

/// Runs a task with a weight in f16.
///
/// # Safety
/// Of a half: `active` belongs to an input of these rows, the outputs lie within the weight, the lengths of all fit,
/// and no other thread touches the task's sums. Of ends: as for [`run`](crate::linear::task::run).
#[inline(always)]
pub(crate) unsafe fn run_floats<S: Simd>(s: S, task: &ChannelTask<'_>) {
    // SAFETY: the caller's contract.
    unsafe {
        match task {
            ChannelTask::Blocks(_) => debug_assert!(false, "of blocks"),
            ChannelTask::Half(task) => run_half(s, task),
            ChannelTask::Ends(task) => run_ends(s, task),
        }
    }
}

/// # Safety
/// As for [`run_floats`].
#[inline(always)]
unsafe fn run_half<S: Simd>(s: S, task: &HalfTask<'_>) {
    let most = task.format.tile_rows(task.n);
    let stride = task.sums.len() / (2 * task.rows);
    for index in task.outputs.start / most..task.outputs.end.div_ceil(most) {
        let tile = ChannelTile::of(task.format, task.n, task.k, index);
        let (start, end) = (tile.first_row, tile.first_row + tile.width);
        let range = task.outputs.start.max(start)..task.outputs.end.min(end);
        let data = task.w.as_ptr().wrapping_add(tile.offset + (range.start - start) * SIZE);
        for row in 0..task.rows {
            let (at, x, all) = task.active.floats(row, tile.is_last(task.n), task.half);
            let first = (task.half * task.rows + row) * stride + range.start;
            // SAFETY: the caller's contract: each channel of the list has values for these outputs, whose sums are
            // this task's alone.
            unsafe {
                let sums = task.sums.part(first, range.len());
                sums.fill(0.0);
                let stream = all && range.len() == tile.width && tile.width <= STREAM_ROWS;
                // The fallback is to be small.
                let done = if S::FALLBACK {
                    0
                } else if stream {
                    add_each::<S, 4, true>(s, data, at, x, 0, sums)
                } else {
                    add_each::<S, 8, false>(s, data, at, x, 0, sums)
                };
                add_each::<S, 1, false>(s, data, at, x, done, sums);
            }
        }
    }
}

/// Adds the products of a row's channels from the `done`-th on, `N` at a time; gives how many are done then.
///
/// # Safety
/// `at[i]` bytes after `data` there are a channel's values for the sums, a multiple of 32 of them; the token's features
/// are there.
#[inline(always)]
unsafe fn add_each<S: Simd, const N: usize, const STREAM: bool>(
    s: S,
    data: *const u8,
    at: &[u32],
    x: &[f32],
    mut done: usize,
    sums: &mut [f32],
) -> usize {
    while done + N <= at.len() {
        let (mut channels, mut ahead) = ([(0, 0.0); N], [0; N]);
        for e in 0..N {
            channels[e] = (at[done + e], x[done + e]);
            ahead[e] = at[(done + AHEAD + e).min(at.len() - 1)];
        }
        // SAFETY: the caller's contract.
        unsafe { add::<S, N, STREAM>(s, data, channels, ahead, sums) };
        done += N;
    }
    done
}

/// Adds the products of `N` channels, one after another, and asks for others: line by line of each where they are a
/// `STREAM`, as the core sees that and reads on by itself. Past a channel that is followed by one left out it would
/// read for nothing, so there the lines of several channels alternate.
///
/// # Safety
/// As for [`add_each`].
#[inline(always)]
unsafe fn add<S: Simd, const N: usize, const STREAM: bool>(
    s: S,
    data: *const u8,
    channels: [(u32, f32); N],
    ahead: [u32; N],
    sums: &mut [f32],
) {
    let x = channels.map(|(_, x)| s.wide().splat(x));
    let from = channels.map(|(at, _)| data.wrapping_add(at as usize).cast::<u16>());
    let ahead = ahead.map(|at| data.wrapping_add(at as usize));
    let lines = sums.len() / (2 * WIDE);
    let (mut channel, mut line) = (0, 0);
    for (l, sums) in sums.chunks_exact_mut(2 * WIDE).enumerate() {
        for e in 0..N {
            (channel, line) = match STREAM {
                false => (e, l),
                true if l + e == 0 => (0, 0),
                true if line + 1 == lines => (channel + 1, 0),
                true => (channel, line + 1),
            };
            prefetch(ahead[channel].wrapping_add(line * LINE));
        }
        for v in 0..2 {
            // SAFETY: the caller's contract; loads need no alignment; a chunk has 32 sums.
            unsafe {
                let to = sums.as_mut_ptr().add(v * WIDE);
                let mut acc = s.wide().load(to);
                for e in 0..N {
                    let w = s.wide().load_f16(from[e].add((2 * l + v) * WIDE));
                    acc = s.wide().fma(w, x[e], acc);
                }
                s.wide().store(to, acc);
            }
        }
    }
}

/// # Safety
/// As for [`run_floats`].
#[inline(always)]
unsafe fn run_ends<S: Simd>(s: S, task: &EndsTask<'_>) {
    let EndsTask { linear, sums, stride } = task;
    let (first, second) = sums.split_at(sums.len() / 2);
    let mut acc: [Acc; 1] = [[[0.0; UNIT]; MAX_TILE]];
    for row in linear.rows.clone() {
        for unit in linear.units.clone() {
            let at = row * stride + (unit - linear.first_unit) * UNIT;
            let halves = first[at..][..UNIT].iter().zip(&second[at..][..UNIT]);
            for (acc, (first, second)) in acc[0][0].iter_mut().zip(halves) {
                *acc = first + second;
            }
            // SAFETY: the caller's contract.
            unsafe { finish_apart(s, linear, row, unit, &acc) };
        }
    }
}
