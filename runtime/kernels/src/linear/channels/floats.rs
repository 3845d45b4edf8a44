//! The products with f16 values: each output is one chain of `acc = fma(w, x, acc)` over the channels
//! in order, as it is with panels.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over vectors of fixed number read best by index"
)]

use super::{ChannelTask, LINE, TILE_ROWS, TOGETHER, finish_tile, prefetch, tiles};
use crate::channels::GROUP;
use crate::simd::Simd;
use std::ops::Range;

/// Values of a wide vector.
const WIDE: usize = 16;
/// Bytes of a value.
const SIZE: usize = 2;
/// Channels between the one that is computed and the one that is asked for.
const AHEAD: usize = 12;

/// Runs a task with a weight in f16.
///
/// # Safety
/// As for [`super::run`].
#[inline(always)]
pub(crate) unsafe fn run_floats<S: Simd>(s: S, task: &ChannelTask<'_>) {
    for (tile, groups, rows) in tiles(task) {
        let last = tile.first_row + tile.width >= task.n;
        let range = groups.start * GROUP..tile.width.min(groups.end * GROUP);
        let first = task.w.as_ptr().wrapping_add(tile.offset);
        let mut sums = [[0.0f32; TILE_ROWS]; TOGETHER];
        for (row, sums) in rows.clone().zip(&mut sums) {
            let (at, x) = task.active.floats(row, last);
            // SAFETY: the caller's contract: each channel of the list has these values.
            unsafe { add_channels(s, first, at, x, range.clone(), sums) };
        }
        // SAFETY: the caller's contract.
        unsafe { finish_tile(s, task, &tile, groups, rows, &sums) };
    }
}

/// Sums of channels `x` for the tile's rows `range`, a multiple of 32 of them, in turns of as many
/// rows as registers hold.
///
/// # Safety
/// `at[i]` bytes after `first` there are a channel's values for these rows; the token's features are
/// there.
#[inline(always)]
unsafe fn add_channels<S: Simd>(
    s: S,
    first: *const u8,
    at: &[u32],
    x: &[f32],
    range: Range<usize>,
    sums: &mut [f32; TILE_ROWS],
) {
    let mut row = range.start;
    while row < range.end {
        let (data, sums) = (first.wrapping_add(row * SIZE), &mut sums[row..]);
        // SAFETY: the caller's contract; there are as many rows left as each turn takes.
        row += unsafe {
            match (range.end - row) / WIDE {
                18.. if S::REGISTERS > 16 => turn::<S, 18>(s, data, at, x, sums),
                12.. if S::REGISTERS > 16 => turn::<S, 12>(s, data, at, x, sums),
                6.. => turn::<S, 6>(s, data, at, x, sums),
                4.. => turn::<S, 4>(s, data, at, x, sums),
                _ => turn::<S, 2>(s, data, at, x, sums),
            }
        };
    }
}

/// Sums of `N` vectors of rows; gives the number of rows.
///
/// # Safety
/// As for [`add_channels`].
#[inline(always)]
unsafe fn turn<S: Simd, const N: usize>(
    s: S,
    data: *const u8,
    at: &[u32],
    x: &[f32],
    sums: &mut [f32],
) -> usize {
    let sums = &mut sums[..N * WIDE];
    let mut acc = [s.splat_wide(0.0); N];
    for (i, (at_i, x)) in at.iter().zip(x).enumerate() {
        // After the last channel the first ones' values for the next turn are asked for.
        let (ahead, on) = if i + AHEAD < at.len() {
            (at[i + AHEAD], 0)
        } else {
            (at[(i + AHEAD - at.len()) % at.len()], N * WIDE * SIZE)
        };
        let ahead = data.wrapping_add(ahead as usize + on);
        for line in (0..N * WIDE * SIZE).step_by(LINE) {
            prefetch(ahead.wrapping_add(line));
        }
        let x = s.splat_wide(*x);
        for v in 0..N {
            // SAFETY: the caller's contract; loads need no alignment.
            let w = unsafe {
                let values = data.add(*at_i as usize).cast::<u16>();
                s.load_wide_f16(values.add(v * WIDE))
            };
            acc[v] = s.fma_wide(w, x, acc[v]);
        }
    }
    for (sums, acc) in sums.chunks_exact_mut(WIDE).zip(acc) {
        // SAFETY: a chunk has 16 values.
        unsafe { s.store_wide(sums.as_mut_ptr(), acc) };
    }
    N * WIDE
}
