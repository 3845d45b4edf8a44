//! Products with weights in quads, for instruction sets with a vector of 8 outputs: for each block
//! of columns the exact integer dot product `dot`, then `acc = fma(dot, scale_w scale_x, acc)`
//! (and `acc = fma(min_w, scale_x sum_x, acc)` for `Q4m`), block after block.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::portable::{Q4, Q4M, block_columns, record_bytes};
use super::task::{Acc, Input, LinearTask, Tile, UNIT};
use crate::simd::{self, LINE, Simd};
use limbeck_plan::{QUAD_ROWS, QUANT_BLOCK};

/// The integers of such products.
pub(crate) trait Dots: Simd {
    /// Eight i32.
    type Eight: Copy;

    /// The 8 integer dot products of each of `TILES` records with each of `ROWS` blocks.
    ///
    /// # Safety
    /// `records[t]` points at a record of `VALUES`, `q[r]` at the values of a block.
    unsafe fn dots<const VALUES: u8, const ROWS: usize, const TILES: usize>(
        self,
        records: [*const u8; TILES],
        q: [*const i8; ROWS],
    ) -> [[Self::Eight; TILES]; ROWS];

    /// `dots + offset`, as floats.
    fn floats(self, dots: Self::Eight, offset: i32) -> Self::V;
}

/// Quads of the given values.
#[derive(Clone, Copy)]
pub(crate) struct Quads<const VALUES: u8>;

/// The products of `ROWS` rows with `TILES` neighbouring tiles, to `acc [row][tile][8]`, rows a
/// multiple of [`UNIT`] apart.
///
/// # Safety
/// The rows and tiles exist.
#[inline(always)]
unsafe fn product<S: Dots, const VALUES: u8, const ROWS: usize, const TILES: usize>(
    s: S,
    task: &LinearTask<'_>,
    row: usize,
    tile: usize,
    acc: &mut [f32],
) {
    let Input::Quantised { q, blocks } = task.input else {
        return;
    };
    let (record, data) = record_bytes(VALUES);
    let columns = block_columns(VALUES);
    let (count, stored) = (task.k.div_ceil(columns), task.stored.div_ceil(columns));
    // Each block of the input has an entry for every 32 of its columns.
    let entries = columns / QUANT_BLOCK;
    let per_row = count * entries;
    // SAFETY: the caller's contract: the weight holds `stored >= count` records for each tile, the
    // input `count` blocks for each row. A prefetch may point anywhere.
    unsafe {
        let w = task.w.as_ptr().add(tile * stored * record);
        let q = q.as_ptr().add(row * per_row * QUANT_BLOCK);
        let blocks = blocks.as_ptr().add(row * per_row);
        let mut sums = [[s.splat(0.0); TILES]; ROWS];
        for b in 0..count {
            let mut records = [w; TILES];
            let mut quants = [q; ROWS];
            for t in 0..TILES {
                records[t] = w.add((t * stored + b) * record);
                if ROWS == 1 {
                    // Memory is the limit: ask for the same record of the next tiles.
                    let ahead = records[t].wrapping_add(TILES * stored * record);
                    for line in 0..record.div_ceil(LINE) {
                        simd::prefetch(ahead.wrapping_add(line * LINE));
                    }
                }
            }
            for r in 0..ROWS {
                quants[r] = q.add((r * count + b) * columns);
            }
            let dots = s.dots::<VALUES, ROWS, TILES>(records, quants);
            let (mut scales, mut mins) = ([s.splat(0.0); TILES], [s.splat(0.0); TILES]);
            for t in 0..TILES {
                scales[t] = s.load_f16(records[t].add(data).cast());
                if VALUES == Q4M {
                    mins[t] = s.load_f16(records[t].add(data + 16).cast());
                }
            }
            for r in 0..ROWS {
                let block = &*blocks.add(r * per_row + b * entries);
                let offset = if VALUES == Q4 { block.minus_8_sums } else { 0 };
                for t in 0..TILES {
                    let scale = s.mul(scales[t], s.splat(block.scale));
                    sums[r][t] = s.fma(s.floats(dots[r][t], offset), scale, sums[r][t]);
                    if VALUES == Q4M {
                        sums[r][t] = s.fma(mins[t], s.splat(block.scaled_sum), sums[r][t]);
                    }
                }
            }
        }
        let stride = TILES.next_multiple_of(2) * QUAD_ROWS;
        assert!(acc.len() >= (ROWS - 1) * stride + TILES * QUAD_ROWS);
        for (r, row) in sums.iter().enumerate() {
            for (t, sum) in row.iter().enumerate() {
                s.store(acc.as_mut_ptr().add(r * stride + t * QUAD_ROWS), *sum);
            }
        }
    }
}

/// Whether both tiles of the unit exist.
#[inline(always)]
fn whole(task: &LinearTask<'_>, unit: usize) -> bool {
    unit * UNIT + QUAD_ROWS < task.held()
}

impl<S: Dots, const VALUES: u8> Tile<S> for Quads<VALUES> {
    const ROW_UNITS: usize = 2;
    const UNIT_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn one_row<const UNITS: usize>(
        self,
        s: S,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        let acc = acc.as_flattened_mut();
        // SAFETY: the caller's contract.
        unsafe {
            if UNITS == 2 && whole(task, unit + 1) {
                product::<S, VALUES, 1, 4>(s, task, row, 2 * unit, acc);
            } else {
                for u in 0..UNITS {
                    let acc = &mut acc[u * UNIT..];
                    if whole(task, unit + u) {
                        product::<S, VALUES, 1, 2>(s, task, row, 2 * (unit + u), acc);
                    } else {
                        product::<S, VALUES, 1, 1>(s, task, row, 2 * (unit + u), acc);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn one_unit<const ROWS: usize>(
        self,
        s: S,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        let acc = acc.as_flattened_mut();
        // SAFETY: the caller's contract.
        unsafe {
            if whole(task, unit) {
                product::<S, VALUES, ROWS, 2>(s, task, row, 2 * unit, acc);
            } else {
                product::<S, VALUES, ROWS, 1>(s, task, row, 2 * unit, acc);
            }
        }
    }
}
