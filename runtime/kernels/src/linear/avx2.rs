//! Products with weights in quads, in AVX2 instructions: 8 outputs of a tile in the lanes, 4
//! columns of a quad in each lane, against the broadcast quad of the activations.
//!
//! 4-bit: `maddubs` gives sums of two products in i16, and the 8 quads of a block are added
//! there: 15 * 128 * 2 * 8 = 30,720 fits. 8-bit: `maddubs` takes the magnitudes of the weights
//! and the activations with the weights' signs (128 * 128 * 2 = 32,768 is reached only by a
//! negative sum, so it fits), and `madd` widens each quad to i32.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::portable::{Q4, Q4M, Q8, record_bytes};
use super::task::{Acc, Input, LinearTask, Tile, UNIT};
use crate::isa::Avx2;
use limbeck_plan::{QUAD_ROWS, QUANT_BLOCK};
use std::arch::x86_64::*;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Quads of the given values.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Quads<const VALUES: u8>;

impl<const VALUES: u8> Avx2Quads<VALUES> {
    /// The 8 integer dot products of each of `TILES` records with each of `ROWS` blocks.
    ///
    /// # Safety
    /// The CPU has AVX2. `records[t]` points at a record, `q[r]` at 32 values.
    #[inline(always)]
    unsafe fn dots<const ROWS: usize, const TILES: usize>(
        records: [*const u8; TILES],
        q: [*const i8; ROWS],
    ) -> [[__m256i; TILES]; ROWS] {
        // SAFETY: the caller's contract; a record starts with 4 (8 for `Q8`) vectors of 32 bytes,
        // and the 32 values are 8 quads of 4 bytes.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); TILES]; ROWS];
            let ones = _mm256_set1_epi16(1);
            if VALUES == Q8 {
                for quad in 0..8 {
                    let mut w = [_mm256_setzero_si256(); TILES];
                    for t in 0..TILES {
                        w[t] = _mm256_loadu_si256(records[t].add(quad * 32).cast());
                    }
                    for r in 0..ROWS {
                        let a =
                            _mm256_set1_epi32(q[r].add(quad * 4).cast::<i32>().read_unaligned());
                        for t in 0..TILES {
                            let signed = _mm256_sign_epi8(a, w[t]);
                            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w[t]), signed);
                            let quads = _mm256_madd_epi16(pairs, ones);
                            sums[r][t] = _mm256_add_epi32(sums[r][t], quads);
                        }
                    }
                }
                return sums;
            }
            let mask = _mm256_set1_epi8(15);
            for quad in 0..4 {
                let (mut low, mut high) =
                    ([_mm256_setzero_si256(); TILES], [_mm256_setzero_si256(); TILES]);
                for t in 0..TILES {
                    let w = _mm256_loadu_si256(records[t].add(quad * 32).cast());
                    low[t] = _mm256_and_si256(w, mask);
                    high[t] = _mm256_and_si256(_mm256_srli_epi16::<4>(w), mask);
                }
                for r in 0..ROWS {
                    let at = q[r].add(quad * 4).cast::<i32>();
                    let a_low = _mm256_set1_epi32(at.read_unaligned());
                    let a_high = _mm256_set1_epi32(at.add(4).read_unaligned());
                    for t in 0..TILES {
                        let pairs = _mm256_maddubs_epi16(low[t], a_low);
                        sums[r][t] = _mm256_add_epi16(sums[r][t], pairs);
                        let pairs = _mm256_maddubs_epi16(high[t], a_high);
                        sums[r][t] = _mm256_add_epi16(sums[r][t], pairs);
                    }
                }
            }
            for row in &mut sums {
                for sum in row {
                    *sum = _mm256_madd_epi16(*sum, ones);
                }
            }
            sums
        }
    }

    /// The products of `ROWS` rows with `TILES` neighbouring tiles, to `acc [row][tile][8]`, rows
    /// a multiple of [`UNIT`] apart.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C; the rows and tiles exist.
    #[inline(always)]
    unsafe fn product<const ROWS: usize, const TILES: usize>(
        task: &LinearTask<'_>,
        row: usize,
        tile: usize,
        acc: &mut [f32],
    ) {
        let Input::Quantised { q, blocks } = task.input else {
            return;
        };
        let (record, data) = record_bytes(VALUES);
        let per_row = task.k.div_ceil(QUANT_BLOCK);
        let stored = task.stored.div_ceil(QUANT_BLOCK);
        // SAFETY: the caller's contract: the weight holds `stored >= per_row` records for each
        // tile, the input `per_row` blocks for each row. A prefetch may point anywhere.
        unsafe {
            let w = task.w.as_ptr().add(tile * stored * record);
            let q = q.as_ptr().add(row * per_row * QUANT_BLOCK);
            let blocks = blocks.as_ptr().add(row * per_row);
            let mut sums = [[_mm256_setzero_ps(); TILES]; ROWS];
            for b in 0..per_row {
                let mut records = [w; TILES];
                let mut quants = [q; ROWS];
                for t in 0..TILES {
                    records[t] = w.add((t * stored + b) * record);
                    if ROWS == 1 {
                        // Memory is the limit: ask for the same record of the next tiles.
                        let ahead = records[t].wrapping_add(TILES * stored * record);
                        for line in 0..record.div_ceil(LINE) {
                            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line * LINE).cast());
                        }
                    }
                }
                for r in 0..ROWS {
                    quants[r] = q.add((r * per_row + b) * QUANT_BLOCK);
                }
                let dots = Self::dots(records, quants);
                for t in 0..TILES {
                    let scales = _mm256_cvtph_ps(_mm_loadu_si128(records[t].add(data).cast()));
                    for r in 0..ROWS {
                        let block = &*blocks.add(r * per_row + b);
                        let mut dot = dots[r][t];
                        if VALUES == Q4 {
                            dot = _mm256_add_epi32(dot, _mm256_set1_epi32(block.minus_8_sums));
                        }
                        let scale = _mm256_mul_ps(scales, _mm256_set1_ps(block.scale));
                        sums[r][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sums[r][t]);
                    }
                    if VALUES == Q4M {
                        let mins =
                            _mm256_cvtph_ps(_mm_loadu_si128(records[t].add(data + 16).cast()));
                        for r in 0..ROWS {
                            let block = &*blocks.add(r * per_row + b);
                            let scaled = _mm256_set1_ps(block.scaled_sum);
                            sums[r][t] = _mm256_fmadd_ps(mins, scaled, sums[r][t]);
                        }
                    }
                }
            }
            let stride = TILES.next_multiple_of(2) * QUAD_ROWS;
            assert!(acc.len() >= (ROWS - 1) * stride + TILES * QUAD_ROWS);
            for (r, row) in sums.iter().enumerate() {
                for (t, sum) in row.iter().enumerate() {
                    _mm256_storeu_ps(acc.as_mut_ptr().add(r * stride + t * QUAD_ROWS), *sum);
                }
            }
        }
    }
}

/// Whether both tiles of the unit exist.
#[inline(always)]
fn whole(task: &LinearTask<'_>, unit: usize) -> bool {
    unit * UNIT + QUAD_ROWS < task.held()
}

impl<const VALUES: u8> Tile<Avx2> for Avx2Quads<VALUES> {
    const ROW_UNITS: usize = 2;
    const UNIT_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn one_row<const UNITS: usize>(
        self,
        _: Avx2,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        let acc = acc.as_flattened_mut();
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe {
            if UNITS == 2 && whole(task, unit + 1) {
                Self::product::<1, 4>(task, row, 2 * unit, acc);
            } else {
                for u in 0..UNITS {
                    let acc = &mut acc[u * UNIT..];
                    if whole(task, unit + u) {
                        Self::product::<1, 2>(task, row, 2 * (unit + u), acc);
                    } else {
                        Self::product::<1, 1>(task, row, 2 * (unit + u), acc);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn one_unit<const ROWS: usize>(
        self,
        _: Avx2,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        let acc = acc.as_flattened_mut();
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe {
            Self::product::<ROWS, 1>(task, row, 2 * unit, acc);
            if whole(task, unit) {
                Self::product::<ROWS, 1>(task, row, 2 * unit + 1, &mut acc[QUAD_ROWS..]);
            }
        }
    }
}
