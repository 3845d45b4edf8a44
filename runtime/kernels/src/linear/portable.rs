//! Products with weights in quads, in plain Rust: for each block of columns the exact integer
//! dot product, then `acc += isum * (dw * da)` (and `acc += m * (da * asum)` for `Q4m`), block
//! after block.

use super::activations::ActBlock;
use super::task::{Acc, Input, LinearTask, Tile, UNIT};
use crate::isa::Portable;
use crate::simd::{LANES, widen_f16};
use limbeck_plan::{QUAD_ROWS, QUANT_BLOCK, WIDE_BLOCK};

/// Which quantised values a kernel reads.
pub(crate) const Q8: u8 = 0;
pub(crate) const Q4: u8 = 1;
pub(crate) const Q4M: u8 = 2;
pub(crate) const Q8W: u8 = 3;

/// Whether a value is a byte.
#[inline(always)]
pub(crate) const fn is_bytes(values: u8) -> bool {
    values == Q8 || values == Q8W
}

/// Columns of a block.
#[inline(always)]
pub(crate) const fn block_columns(values: u8) -> usize {
    if values == Q8W { WIDE_BLOCK } else { QUANT_BLOCK }
}

/// Bytes of a record and of the values at its front.
#[inline(always)]
pub(crate) fn record_bytes(values: u8) -> (usize, usize) {
    match values {
        Q8 => (272, 256),
        Q8W => (528, 512),
        Q4 => (144, 128),
        _ => (160, 128),
    }
}

/// The first eight f16 of some bytes.
#[inline(always)]
pub(crate) fn f16_bits(bytes: &[u8]) -> [u16; LANES] {
    std::array::from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

/// Quads of the given values.
#[derive(Clone, Copy)]
pub(crate) struct PortableQuads<const VALUES: u8>;

impl<const VALUES: u8> PortableQuads<VALUES> {
    /// Adds one record's products with one row's block to the tile's 8 sums.
    #[inline(always)]
    fn block(record: &[u8], q: &[i8], block: &ActBlock, sums: &mut [f32]) {
        let (_, data) = record_bytes(VALUES);
        let mut dots = [0i32; QUAD_ROWS];
        for (quad, bytes) in record[..data].chunks_exact(4 * QUAD_ROWS).enumerate() {
            let low = &q[quad * 4..quad * 4 + 4];
            if is_bytes(VALUES) {
                for (dot, w) in dots.iter_mut().zip(bytes.chunks_exact(4)) {
                    for e in 0..4 {
                        *dot += i32::from(w[e] as i8) * i32::from(low[e]);
                    }
                }
            } else {
                let high = &q[quad * 4 + 16..quad * 4 + 20];
                for (dot, w) in dots.iter_mut().zip(bytes.chunks_exact(4)) {
                    for e in 0..4 {
                        *dot += i32::from(w[e] & 15) * i32::from(low[e])
                            + i32::from(w[e] >> 4) * i32::from(high[e]);
                    }
                }
            }
        }
        let offset = if VALUES == Q4 { block.minus_8_sums } else { 0 };
        let (scales, mins) = record[data..].split_at(2 * QUAD_ROWS);
        let scales = widen_f16(f16_bits(scales));
        for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(scales) {
            *sum += (dot + offset) as f32 * (scale * block.scale);
        }
        if VALUES == Q4M {
            for (sum, min) in sums.iter_mut().zip(widen_f16(f16_bits(mins))) {
                *sum += min * block.scaled_sum;
            }
        }
    }

    fn product(task: &LinearTask<'_>, row: usize, unit: usize, acc: &mut [f32; UNIT]) {
        let Input::Quantised { q, blocks } = task.input else {
            return;
        };
        let columns = block_columns(VALUES);
        let per_row = task.k.div_ceil(columns) * columns / QUANT_BLOCK;
        let (record, _) = record_bytes(VALUES);
        let tile_bytes = task.stored.div_ceil(columns) * record;
        let q = &q[row * per_row * QUANT_BLOCK..][..per_row * QUANT_BLOCK];
        let blocks = blocks[row * per_row..][..per_row].iter().step_by(columns / QUANT_BLOCK);
        let tiles = task.w.chunks_exact(tile_bytes).skip(unit * 2);
        *acc = [0.0; UNIT];
        for (tile, sums) in tiles.zip(acc.chunks_exact_mut(QUAD_ROWS)) {
            let records = tile.chunks_exact(record).zip(q.chunks_exact(columns));
            for ((record, q), block) in records.zip(blocks.clone()) {
                Self::block(record, q, block, sums);
            }
        }
    }
}

impl<const VALUES: u8> Tile<Portable> for PortableQuads<VALUES> {
    const ROW_UNITS: usize = 1;
    const UNIT_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn one_row<const UNITS: usize>(
        self,
        _: Portable,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        for (u, acc) in acc.iter_mut().enumerate().take(UNITS) {
            Self::product(task, row, unit + u, acc);
        }
    }

    #[inline(always)]
    unsafe fn one_unit<const ROWS: usize>(
        self,
        _: Portable,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        for (r, acc) in acc.iter_mut().enumerate().take(ROWS) {
            Self::product(task, row + r, unit, acc);
        }
    }
}
