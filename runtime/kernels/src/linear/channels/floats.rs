//! The products with f16 values: each output is one chain of `acc = fma(w, x, acc)` over the channels
//! in order, as it is with panels.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over vectors of fixed number read best by index"
)]

use super::{ChannelTask, FinishTile, LINE, TILE_ROWS, TOGETHER, prefetch, tiles};
use crate::channels::GROUP;
use crate::simd::{Lanes, Simd};
use std::ops::Range;

/// Values of a wide vector.
const WIDE: usize = 16;
/// Bytes of a value; those of two wide vectors are a line.
const SIZE: usize = 2;
/// Channels between the one that is computed and the one that is asked for.
const AHEAD: usize = 8;

/// Runs a task with a weight in f16.
///
/// # Safety
/// As for [`super::run`].
#[inline(always)]
pub(crate) unsafe fn run_floats<S: Simd>(s: S, task: &ChannelTask<'_>) {
    for (tile, groups, rows) in tiles(task) {
        let range = groups.start * GROUP..tile.width.min(groups.end * GROUP);
        let first = task.w.as_ptr().wrapping_add(tile.offset);
        let mut sums = [[0.0f32; TILE_ROWS]; TOGETHER];
        for (row, sums) in rows.clone().zip(&mut sums) {
            let (at, x) = task.active.floats(row, tile.is_last(task.n));
            // SAFETY: the caller's contract: each channel of the list has these values.
            unsafe {
                if at.len() == task.k {
                    add_channels::<S, true>(s, first, at, x, range.clone(), sums);
                } else {
                    add_channels::<S, false>(s, first, at, x, range.clone(), sums);
                }
            }
        }
        // SAFETY: the caller's contract.
        unsafe { s.apart(FinishTile { task, tile: &tile, groups, rows, sums: &sums }) };
    }
}

/// Adds the products of a row's channels with the tile's rows `range`, a multiple of 32 of them, a few
/// channels at a time: what a channel has for these rows is read in one go.
///
/// # Safety
/// `at[i]` bytes after `first` there are a channel's values for these rows; the token's features are
/// there.
#[inline(always)]
unsafe fn add_channels<S: Simd, const WHOLE: bool>(
    s: S,
    first: *const u8,
    at: &[u32],
    x: &[f32],
    range: Range<usize>,
    sums: &mut [f32; TILE_ROWS],
) {
    let data = first.wrapping_add(range.start * SIZE);
    let sums = &mut sums[range];
    // SAFETY: the caller's contract.
    unsafe {
        let done = add_each::<S, 4, WHOLE>(s, data, at, x, 0, sums);
        add_each::<S, 1, false>(s, data, at, x, done, sums);
    }
}

/// Adds the products of channels from the `done`-th on, `N` at a time; gives how many are done then.
///
/// # Safety
/// As for [`add_channels`].
#[inline(always)]
unsafe fn add_each<S: Simd, const N: usize, const WHOLE: bool>(
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
        unsafe { add::<S, N, WHOLE>(s, data, channels, ahead, sums) };
        done += N;
    }
    done
}

/// Adds the products of `N` channels, one after another, and asks for others: line by line of each where the list
/// is `WHOLE`, as the core then sees a stream and reads on by itself. Past a channel that is followed by one left
/// out it would read for nothing, so there the lines of several channels alternate.
///
/// # Safety
/// As for [`add_channels`].
#[inline(always)]
unsafe fn add<S: Simd, const N: usize, const WHOLE: bool>(
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
            (channel, line) = match WHOLE {
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
