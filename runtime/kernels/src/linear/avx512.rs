//! Products in AVX-512 and VNNI instructions: the 16 outputs of a unit in the lanes. The sums are
//! those of the AVX2 kernels in the same order, so the bits are the same.
//!
//! `dpbusd` multiplies unsigned by signed bytes and adds four products to each i32. 4-bit weights
//! are unsigned as stored; 8-bit ones become so by adding 128. What that adds to a dot product is
//! taken off at its start.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::activations::ActBlock;
use super::panels::AHEAD;
use super::portable::{Q4, Q4M, Q8W, block_columns, is_bytes, record_bytes};
use super::quads::Quads;
use super::task::{Acc, Input, LinearTask, Tile, UNIT};
use crate::isa::{Avx2, Avx512};
use crate::simd::{self, LINE, Simd, Work};
use limbeck_plan::{QUAD_ROWS, QUANT_BLOCK};
use std::arch::x86_64::*;

/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn store(sums: &[__m512], acc: &mut Acc) {
    for (acc, sum) in acc.iter_mut().zip(sums) {
        // SAFETY: 16 f32 to 16 f32; the caller's contract.
        unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), *sum) };
    }
}

/// The sums of each row with two units.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn store_two<const ROWS: usize>(sums: [[__m512; 2]; ROWS], acc: &mut [Acc; 2]) {
    for r in 0..ROWS {
        for u in 0..2 {
            // SAFETY: 16 f32 to 16 f32; the caller's contract.
            unsafe { _mm512_storeu_ps(acc[u][r].as_mut_ptr(), sums[r][u]) };
        }
    }
}

/// Quads of the given values.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Quads<const VALUES: u8>;

const _: () = assert!(2 * size_of::<ActBlock>() == QUANT_BLOCK);

/// The two tiles of a unit, side by side.
#[derive(Clone, Copy)]
struct Unit {
    first: *const u8,
    /// From the first tile's record to the second's; 0 when there is no second.
    apart: usize,
}

impl Unit {
    /// 32 bytes of each tile's record.
    ///
    /// # Safety
    /// The CPU has AVX-512 F; both records have these bytes.
    #[inline(always)]
    unsafe fn load32(self, at: usize) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe {
            let first = self.first.add(at);
            let low = _mm256_loadu_si256(first.cast());
            let high = _mm256_loadu_si256(first.add(self.apart).cast());
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }

    /// Asks for `len` bytes at `at` bytes from each tile's record.
    #[inline(always)]
    fn prefetch(self, at: usize, len: usize) {
        for tile in [0, self.apart] {
            let record = self.first.wrapping_add(at + tile);
            for line in 0..len.div_ceil(LINE) {
                simd::prefetch(record.wrapping_add(line * LINE));
            }
        }
    }

    /// 8 f16 of each tile's record, as f32.
    ///
    /// # Safety
    /// As for [`Unit::load32`].
    #[inline(always)]
    unsafe fn load_halves(self, at: usize) -> __m512 {
        // SAFETY: the caller's contract.
        unsafe {
            let first = self.first.add(at);
            let low = _mm_loadu_si128(first.cast());
            let high = _mm_loadu_si128(first.add(self.apart).cast());
            _mm512_cvtph_ps(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high))
        }
    }
}

impl<const VALUES: u8> Avx512Quads<VALUES> {
    /// What a block's dot product starts from.
    #[inline(always)]
    fn offset(block: &ActBlock) -> i32 {
        match VALUES {
            Q4 => block.minus_8_sums,
            Q4M => 0,
            _ => block.minus_128_sums,
        }
    }

    /// The 16 integer dot products of each of `UNITS` records with each of `ROWS` blocks, added
    /// to `dots`.
    ///
    /// # Safety
    /// The CPU has the token's features. The units point at records, `q[r]` at the values of a block.
    #[inline(always)]
    unsafe fn dots<const ROWS: usize, const UNITS: usize>(
        units: [Unit; UNITS],
        q: [*const i8; ROWS],
        dots: &mut [[__m512i; UNITS]; ROWS],
    ) {
        // SAFETY: the caller's contract; a record starts with a vector of 32 bytes for each quad of 4
        // columns, or for two of them where values have 4 bits.
        unsafe {
            let quad_of = |r: usize, quad: usize| {
                let quad: *const i8 = q[r].add(quad * 4);
                _mm512_set1_epi32(quad.cast::<i32>().read_unaligned())
            };
            if is_bytes(VALUES) {
                let flip = _mm512_set1_epi8(-128);
                for quad in 0..block_columns(VALUES) / 4 {
                    let mut w = [_mm512_setzero_si512(); UNITS];
                    for u in 0..UNITS {
                        w[u] = _mm512_xor_si512(units[u].load32(quad * 32), flip);
                    }
                    for r in 0..ROWS {
                        for u in 0..UNITS {
                            dots[r][u] = _mm512_dpbusd_epi32(dots[r][u], w[u], quad_of(r, quad));
                        }
                    }
                }
                return;
            }
            let mask = _mm512_set1_epi8(15);
            for quad in 0..4 {
                let mut low = [_mm512_setzero_si512(); UNITS];
                let mut high = [_mm512_setzero_si512(); UNITS];
                for u in 0..UNITS {
                    let w = units[u].load32(quad * 32);
                    low[u] = _mm512_and_si512(w, mask);
                    high[u] = _mm512_and_si512(_mm512_srli_epi16::<4>(w), mask);
                }
                for r in 0..ROWS {
                    for u in 0..UNITS {
                        let dot = _mm512_dpbusd_epi32(dots[r][u], low[u], quad_of(r, quad));
                        dots[r][u] = _mm512_dpbusd_epi32(dot, high[u], quad_of(r, quad + 4));
                    }
                }
            }
        }
    }

    /// The products of `ROWS` rows with `UNITS` units, row after row.
    ///
    /// # Safety
    /// The CPU has the token's features; the rows and units exist.
    #[inline(always)]
    unsafe fn product<const ROWS: usize, const UNITS: usize>(
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
    ) -> [[__m512; UNITS]; ROWS] {
        // SAFETY: the token's features, as the caller vouches.
        let mut sums = unsafe { [[_mm512_setzero_ps(); UNITS]; ROWS] };
        let Input::Quantised { q, blocks } = task.input else { return sums };
        let (record, data) = record_bytes(VALUES);
        let columns = block_columns(VALUES);
        let count = task.k.div_ceil(columns);
        // Each block of the input has an entry for every 32 of its columns.
        let entries = columns / QUANT_BLOCK;
        let tile_bytes = task.stored.div_ceil(columns) * record;
        // SAFETY: the caller's contract: the weight holds at least `count` records for each tile,
        // `tile_bytes` apart, the input `count` blocks for each row.
        unsafe {
            let mut units = [Unit { first: task.w.as_ptr(), apart: 0 }; UNITS];
            for u in 0..UNITS {
                units[u].first = task.w.as_ptr().add(2 * (unit + u) * tile_bytes);
                let both = (unit + u) * UNIT + QUAD_ROWS < task.held();
                units[u].apart = if both { tile_bytes } else { 0 };
            }
            // The first rows ask for the records of the next units: they come from memory.
            let ahead = ROWS == 1 || row == task.rows.start;
            // Bytes from a row's blocks to the next one's; its values lie twice as far apart.
            let apart = count * entries * size_of::<ActBlock>();
            let mut q = q.as_ptr().add(row * 2 * apart);
            let mut blocks = blocks.as_ptr().add(row * count * entries);
            for _ in 0..count {
                let mut rows = [q; ROWS];
                let mut dots = [[_mm512_setzero_si512(); UNITS]; ROWS];
                for r in 0..ROWS {
                    rows[r] = q.add(2 * (r * apart));
                    dots[r] =
                        [_mm512_set1_epi32(Self::offset(&*blocks.byte_add(r * apart))); UNITS];
                }
                if ahead {
                    for unit in units {
                        unit.prefetch(2 * UNITS * tile_bytes, record);
                    }
                }
                Self::dots(units, rows, &mut dots);
                for u in 0..UNITS {
                    let scales = units[u].load_halves(data);
                    for r in 0..ROWS {
                        let block = &*blocks.byte_add(r * apart);
                        let scale = _mm512_mul_ps(scales, _mm512_set1_ps(block.scale));
                        let dot = _mm512_cvtepi32_ps(dots[r][u]);
                        sums[r][u] = _mm512_fmadd_ps(dot, scale, sums[r][u]);
                    }
                    if VALUES == Q4M {
                        let mins = units[u].load_halves(data + 16);
                        for r in 0..ROWS {
                            let block = &*blocks.byte_add(r * apart);
                            let scaled = _mm512_set1_ps(block.scaled_sum);
                            sums[r][u] = _mm512_fmadd_ps(mins, scaled, sums[r][u]);
                        }
                    }
                    units[u].first = units[u].first.add(record);
                }
                q = q.add(columns);
                blocks = blocks.add(entries);
            }
        }
        sums
    }
}

/// [`Tile::one_row`] of AVX2.
struct LoneRow<'a, 'b, const VALUES: u8, const UNITS: usize> {
    task: &'a LinearTask<'b>,
    row: usize,
    unit: usize,
    acc: &'a mut Acc,
}

impl<const VALUES: u8, const UNITS: usize> Work<Avx2> for LoneRow<'_, '_, VALUES, UNITS> {
    #[inline(always)]
    unsafe fn run(self, s: Avx2) {
        let LoneRow { task, row, unit, acc } = self;
        // SAFETY: the caller's contract.
        unsafe { Quads::<VALUES>.one_row::<UNITS>(s, task, row, unit, acc) }
    }
}

impl<const VALUES: u8> Tile<Avx512> for Avx512Quads<VALUES> {
    const ROW_UNITS: usize = 2;
    const UNIT_ROWS: usize = 8;
    // Sums wait in memory while the integers of a wide block are added.
    const PAIR_ROWS: usize = if VALUES == Q8W { 8 } else { 6 };

    #[inline(always)]
    unsafe fn one_row<const UNITS: usize>(
        self,
        _: Avx512,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe {
            if is_bytes(VALUES) {
                store(Self::product::<1, UNITS>(task, row, unit).as_flattened(), acc);
            } else {
                // Memory is the limit, which the form of AVX2 reads faster.
                Avx2::assume().apart(LoneRow::<VALUES, UNITS> { task, row, unit, acc });
            }
        }
    }

    #[inline(always)]
    unsafe fn one_unit<const ROWS: usize>(
        self,
        _: Avx512,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe { store(Self::product::<ROWS, 1>(task, row, unit).as_flattened(), acc) }
    }

    #[inline(always)]
    unsafe fn two_units<const ROWS: usize>(
        self,
        _: Avx512,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut [Acc; 2],
    ) {
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe { store_two(Self::product::<ROWS, 2>(task, row, unit), acc) }
    }
}

/// A panel's values: f16 when `HALF`, else f32.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Panels<const HALF: bool>;

impl<const HALF: bool> Avx512Panels<HALF> {
    const PANEL_COLUMN: usize = UNIT * if HALF { 2 } else { 4 };

    /// A panel's column.
    ///
    /// # Safety
    /// The CPU has AVX-512 F; `column` points at a whole column.
    #[inline(always)]
    unsafe fn load(column: *const u8) -> __m512 {
        // SAFETY: a column holds 16 values; loads need no alignment.
        unsafe {
            if HALF {
                _mm512_cvtph_ps(_mm256_loadu_si256(column.cast()))
            } else {
                _mm512_loadu_ps(column.cast())
            }
        }
    }

    /// The products of `ROWS` rows with `UNITS` units, row after row.
    ///
    /// # Safety
    /// The CPU has AVX-512 F; the rows and units exist.
    #[inline(always)]
    unsafe fn product<const ROWS: usize, const UNITS: usize>(
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
    ) -> [[__m512; UNITS]; ROWS] {
        // SAFETY: the token's features, as the caller vouches.
        let mut sums = unsafe { [[_mm512_setzero_ps(); UNITS]; ROWS] };
        let Input::Floats(x) = task.input else { return sums };
        let (k, stored) = (task.k, task.stored);
        // SAFETY: the input holds `k` values for each row and the weight `stored >= k` columns
        // for each unit, as the caller vouches.
        unsafe {
            let w = task.w.as_ptr().add(unit * stored * Self::PANEL_COLUMN);
            let x = x.as_ptr().add(row * k);
            // The next panels come from memory while these are used.
            let (asked, step) = task.part_of_next(row, ROWS, Self::PANEL_COLUMN);
            let mut next = w.wrapping_add(UNITS * stored * Self::PANEL_COLUMN + asked);
            for i in 0..k {
                let mut columns = [_mm512_setzero_ps(); UNITS];
                for u in 0..UNITS {
                    // A prefetch may point anywhere.
                    let column = w.add((u * stored + i) * Self::PANEL_COLUMN);
                    if ROWS == 1 {
                        _mm_prefetch::<_MM_HINT_T0>(column.wrapping_add(AHEAD).cast());
                    } else {
                        simd::prefetch_far(next.wrapping_add(u * stored * Self::PANEL_COLUMN));
                    }
                    columns[u] = Self::load(column);
                }
                for r in 0..ROWS {
                    let x = _mm512_set1_ps(*x.add(r * k + i));
                    for u in 0..UNITS {
                        sums[r][u] = _mm512_fmadd_ps(columns[u], x, sums[r][u]);
                    }
                }
                next = next.wrapping_add(step);
            }
        }
        sums
    }
}

impl<const HALF: bool> Tile<Avx512> for Avx512Panels<HALF> {
    const ROW_UNITS: usize = 4;
    const UNIT_ROWS: usize = 6;
    const PAIR_ROWS: usize = 12;

    #[inline(always)]
    unsafe fn one_row<const UNITS: usize>(
        self,
        _: Avx512,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe { store(Self::product::<1, UNITS>(task, row, unit).as_flattened(), acc) }
    }

    #[inline(always)]
    unsafe fn one_unit<const ROWS: usize>(
        self,
        _: Avx512,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe { store(Self::product::<ROWS, 1>(task, row, unit).as_flattened(), acc) }
    }

    #[inline(always)]
    unsafe fn two_units<const ROWS: usize>(
        self,
        _: Avx512,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut [Acc; 2],
    ) {
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe { store_two(Self::product::<ROWS, 2>(task, row, unit), acc) }
    }
}
