//! Integers of products with weights in quads, in NEON instructions: the 8 outputs of a tile in two
//! registers, 4 columns of a quad in each lane of 32 bits. The sums are those of the AVX2 kernels in
//! the same order, so the bits are the same.
//!
//! - NEON multiplies bytes to i16. Products of 4-bit values are added there, for the 8 quads of a
//!   block: 15 * 128 * 8 = 15,360 fits; those of 8-bit values two by two to i32.
//! - `sdot` adds the four products of a lane of 32 bits to an i32.
//! - `smmla` multiplies two rows of eight values with two outputs of eight: a lane of 64 bits has two
//!   quads of an output, which are interleaved once for all rows.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::portable::{block_columns, is_bytes};
use super::quads::Dots;
use crate::isa::{Neon, NeonDotprod, NeonI8mm};
use crate::simd::Simd;
use limbeck_plan::{QUAD_ROWS, QUANT_BLOCK};
use std::arch::aarch64::*;
use std::arch::asm;

/// Bytes of a tile's quad.
const QUAD: usize = 32;

/// Four columns of each of 8 outputs.
type Outputs = [int8x16_t; 2];
/// A number for each of 8 outputs.
type Eight = [int32x4_t; 2];

/// Dot products of the four bytes in lanes of 32 bits.
pub(crate) trait LaneDots: Simd<V = [float32x4_t; 2]> {
    /// Four sums in the making.
    type Sum: Copy;

    /// Sums of nothing.
    fn none(self) -> Self::Sum;

    /// Adds the products of each lane of `w` with lane `LANE` of `q`. Unless values are bytes, `w`
    /// lies in 0..=15 and at most 8 lanes of `q` are added to a sum.
    ///
    /// # Safety
    /// The token's features are there.
    unsafe fn add_products<const VALUES: u8, const LANE: i32>(
        self,
        sum: Self::Sum,
        w: int8x16_t,
        q: int8x16_t,
    ) -> Self::Sum;

    /// The four sums.
    fn total<const VALUES: u8>(self, sum: Self::Sum) -> int32x4_t;
}

/// The 32 bytes at `p`.
///
/// # Safety
/// They exist.
#[inline(always)]
unsafe fn load(p: *const u8) -> [uint8x16_t; 2] {
    // SAFETY: the caller's contract.
    unsafe { [vld1q_u8(p), vld1q_u8(p.add(16))] }
}

/// The low and the high nibbles.
#[inline(always)]
pub(super) fn nibbles(bytes: uint8x16_t) -> [int8x16_t; 2] {
    // SAFETY: every AArch64 CPU that has a token has NEON.
    unsafe {
        let low = vandq_u8(bytes, vdupq_n_u8(15));
        [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes))]
    }
}

/// Of a record's values, those that meet the quads `quad` and `quad + 4` of a row.
///
/// # Safety
/// `record` points at a record; `quad` is less than 4.
#[inline(always)]
unsafe fn values<const VALUES: u8>(record: *const u8, quad: usize) -> [Outputs; 2] {
    // SAFETY: a record begins with 8 quads of 32 bytes, or 4 where a byte has two values.
    unsafe {
        let first = load(record.add(quad * QUAD));
        if is_bytes(VALUES) {
            let second = load(record.add((quad + 4) * QUAD));
            return [signed(first), signed(second)];
        }
        let [low, high] = [nibbles(first[0]), nibbles(first[1])];
        [[low[0], high[0]], [low[1], high[1]]]
    }
}

#[inline(always)]
fn signed(bytes: [uint8x16_t; 2]) -> Outputs {
    // SAFETY: every AArch64 CPU that has a token has NEON.
    unsafe { [vreinterpretq_s8_u8(bytes[0]), vreinterpretq_s8_u8(bytes[1])] }
}

/// Each quad of each row with the outputs of all tiles.
///
/// # Safety
/// As [`Dots::dots`].
#[inline(always)]
unsafe fn by_lane<S: LaneDots, const VALUES: u8, const ROWS: usize, const TILES: usize>(
    s: S,
    records: [*const u8; TILES],
    q: [*const i8; ROWS],
) -> [[Eight; TILES]; ROWS] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[[s.none(); 2]; TILES]; ROWS];
        for part in 0..block_columns(VALUES) / QUANT_BLOCK {
            let (records, q) = of_part(part, records, q);
            let mut quants = [[vdupq_n_s8(0); 2]; ROWS];
            for r in 0..ROWS {
                quants[r] = [vld1q_s8(q[r]), vld1q_s8(q[r].add(16))];
            }
            add_lane::<S, VALUES, 0, ROWS, TILES>(s, records, &quants, &mut sums);
            add_lane::<S, VALUES, 1, ROWS, TILES>(s, records, &quants, &mut sums);
            add_lane::<S, VALUES, 2, ROWS, TILES>(s, records, &quants, &mut sums);
            add_lane::<S, VALUES, 3, ROWS, TILES>(s, records, &quants, &mut sums);
        }
        let mut dots = [[[vdupq_n_s32(0); 2]; TILES]; ROWS];
        for r in 0..ROWS {
            for t in 0..TILES {
                let [low, high] = sums[r][t];
                dots[r][t] = [s.total::<VALUES>(low), s.total::<VALUES>(high)];
            }
        }
        dots
    }
}

/// Adds the products of quads `LANE` and `LANE + 4`.
///
/// # Safety
/// As [`Dots::dots`].
#[inline(always)]
unsafe fn add_lane<
    S: LaneDots,
    const VALUES: u8,
    const LANE: i32,
    const ROWS: usize,
    const TILES: usize,
>(
    s: S,
    records: [*const u8; TILES],
    quants: &[[int8x16_t; 2]; ROWS],
    sums: &mut [[[S::Sum; 2]; TILES]; ROWS],
) {
    for t in 0..TILES {
        // SAFETY: the caller's contract; `LANE` is less than 4.
        let w = unsafe { values::<VALUES>(records[t], LANE as usize) };
        for r in 0..ROWS {
            for half in 0..2 {
                for i in 0..2 {
                    let (sum, q) = (sums[r][t][i], quants[r][half]);
                    // SAFETY: the caller's contract.
                    sums[r][t][i] = unsafe { s.add_products::<VALUES, LANE>(sum, w[half][i], q) };
                }
            }
        }
    }
}

impl LaneDots for Neon {
    /// Of 4-bit values in i16, to be added up in fours; of 8-bit values in i32, in twos.
    type Sum = [int16x8_t; 2];

    #[inline(always)]
    fn none(self) -> Self::Sum {
        // SAFETY: the token proves NEON.
        unsafe { [vdupq_n_s16(0); 2] }
    }

    #[inline(always)]
    unsafe fn add_products<const VALUES: u8, const LANE: i32>(
        self,
        sum: Self::Sum,
        w: int8x16_t,
        q: int8x16_t,
    ) -> Self::Sum {
        // SAFETY: the token proves NEON.
        unsafe {
            let q = vreinterpretq_s8_s32(vdupq_laneq_s32::<LANE>(vreinterpretq_s32_s8(q)));
            if is_bytes(VALUES) {
                let low = vmull_s8(vget_low_s8(w), vget_low_s8(q));
                let low = vpadalq_s16(vreinterpretq_s32_s16(sum[0]), low);
                let high = vpadalq_s16(vreinterpretq_s32_s16(sum[1]), vmull_high_s8(w, q));
                return [vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high)];
            }
            [vmlal_s8(sum[0], vget_low_s8(w), vget_low_s8(q)), vmlal_high_s8(sum[1], w, q)]
        }
    }

    #[inline(always)]
    fn total<const VALUES: u8>(self, [low, high]: Self::Sum) -> int32x4_t {
        // SAFETY: the token proves NEON.
        unsafe {
            if is_bytes(VALUES) {
                vpaddq_s32(vreinterpretq_s32_s16(low), vreinterpretq_s32_s16(high))
            } else {
                vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high))
            }
        }
    }
}

/// `sum` and the products of each lane of `w` with lane `LANE` of `q`. (The intrinsic is not stable.)
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const LANE: i32>(mut sum: int32x4_t, w: int8x16_t, q: int8x16_t) -> int32x4_t {
    // SAFETY: the function's features have the instruction, which touches its registers alone.
    unsafe {
        asm!("sdot {sum:v}.4s, {w:v}.16b, {q:v}.4b[{lane}]", sum = inout(vreg) sum,
            w = in(vreg) w, q = in(vreg) q, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// `sum` and the products of the rows of 8 of `a` with those of `b`: `[a0 b0, a0 b1, a1 b0, a1 b1]`.
/// (The intrinsic is not stable.)
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the function's features have the instruction, which touches its registers alone.
    unsafe {
        asm!("smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum,
            a = in(vreg) a, b = in(vreg) b, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// What tokens with `sdot` have in common.
macro_rules! by_sdot {
    () => {
        type Sum = int32x4_t;

        #[inline(always)]
        fn none(self) -> Self::Sum {
            // SAFETY: the token proves NEON.
            unsafe { vdupq_n_s32(0) }
        }

        #[inline(always)]
        unsafe fn add_products<const VALUES: u8, const LANE: i32>(
            self,
            sum: Self::Sum,
            w: int8x16_t,
            q: int8x16_t,
        ) -> Self::Sum {
            // SAFETY: the token proves `sdot`.
            unsafe { sdot::<LANE>(sum, w, q) }
        }

        #[inline(always)]
        fn total<const VALUES: u8>(self, sum: Self::Sum) -> int32x4_t {
            sum
        }
    };
}

impl LaneDots for NeonDotprod {
    by_sdot!();
}

impl LaneDots for NeonI8mm {
    by_sdot!();
}

/// [`Dots`] of a token, by the function for several rows.
macro_rules! dots {
    ($token:ty, $rows:ident) => {
        impl Dots for $token {
            type Eight = Eight;

            #[inline(always)]
            unsafe fn dots<const VALUES: u8, const ROWS: usize, const TILES: usize>(
                self,
                records: [*const u8; TILES],
                q: [*const i8; ROWS],
            ) -> [[Eight; TILES]; ROWS] {
                // SAFETY: the caller's contract; the token proves the CPU's features.
                unsafe {
                    if ROWS == 1 {
                        by_lane::<Self, VALUES, ROWS, TILES>(self, records, q)
                    } else {
                        $rows::<Self, VALUES, ROWS, TILES>(self, records, q)
                    }
                }
            }

            #[inline(always)]
            fn floats(self, dots: Eight, offset: i32) -> Self::V {
                // SAFETY: the token proves NEON.
                unsafe {
                    let offset = vdupq_n_s32(offset);
                    let dots = [vaddq_s32(dots[0], offset), vaddq_s32(dots[1], offset)];
                    [vcvtq_f32_s32(dots[0]), vcvtq_f32_s32(dots[1])]
                }
            }
        }
    };
}

dots!(Neon, by_lane);
dots!(NeonDotprod, by_lane);
dots!(NeonI8mm, by_pair);

/// Two rows at a time with two outputs at a time.
///
/// # Safety
/// As [`Dots::dots`]; the CPU has `smmla`.
#[inline(always)]
unsafe fn by_pair<S: LaneDots, const VALUES: u8, const ROWS: usize, const TILES: usize>(
    _: S,
    records: [*const u8; TILES],
    q: [*const i8; ROWS],
) -> [[Eight; TILES]; ROWS] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut dots = [[[vdupq_n_s32(0); 2]; TILES]; ROWS];
        for t in 0..TILES {
            // Of rows `2 p` and `2 p + 1`, for each two outputs.
            let mut sums = [[vdupq_n_s32(0); 4]; ROWS];
            let parts = block_columns(VALUES) / QUANT_BLOCK;
            for (part, quad) in (0..parts).flat_map(|part| [(part, 0), (part, 2)]) {
                let (records, q) = of_part(part, records, q);
                let a = values::<VALUES>(records[t], quad);
                let b = values::<VALUES>(records[t], quad + 1);
                for half in 0..2 {
                    let w = outputs(a[half], b[half]);
                    for p in 0..ROWS.div_ceil(2) {
                        // The last row of an odd number goes with itself.
                        let (first, second) = (q[2 * p], q[(2 * p + 1).min(ROWS - 1)]);
                        let at = 16 * half + 4 * quad;
                        let rows = vcombine_s8(vld1_s8(first.add(at)), vld1_s8(second.add(at)));
                        for i in 0..4 {
                            sums[p][i] = smmla(sums[p][i], rows, w[i]);
                        }
                    }
                }
            }
            for r in 0..ROWS {
                for i in 0..2 {
                    dots[r][t][i] = row_of(r % 2, sums[r / 2][2 * i], sums[r / 2][2 * i + 1]);
                }
            }
        }
        dots
    }
}

/// The records' and the rows' 32 columns of the `part`-th of a block.
#[inline(always)]
fn of_part<const ROWS: usize, const TILES: usize>(
    part: usize,
    records: [*const u8; TILES],
    q: [*const i8; ROWS],
) -> ([*const u8; TILES], [*const i8; ROWS]) {
    let columns = part * QUANT_BLOCK;
    (
        records.map(|record| record.wrapping_add(columns * QUAD_ROWS)),
        q.map(|q| q.wrapping_add(columns)),
    )
}

/// Two quads of 8 outputs as eight values of each two outputs.
#[inline(always)]
fn outputs(a: Outputs, b: Outputs) -> [int8x16_t; 4] {
    // SAFETY: every AArch64 CPU that has a token has NEON.
    unsafe {
        let [a, b] = [a.map(|v| vreinterpretq_s32_s8(v)), b.map(|v| vreinterpretq_s32_s8(v))];
        [
            vreinterpretq_s8_s32(vzip1q_s32(a[0], b[0])),
            vreinterpretq_s8_s32(vzip2q_s32(a[0], b[0])),
            vreinterpretq_s8_s32(vzip1q_s32(a[1], b[1])),
            vreinterpretq_s8_s32(vzip2q_s32(a[1], b[1])),
        ]
    }
}

/// The numbers of the first or the second row, of four outputs.
#[inline(always)]
fn row_of(row: usize, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: every AArch64 CPU that has a token has NEON.
    unsafe {
        let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
        let both = if row == 0 { vzip1q_s64(a, b) } else { vzip2q_s64(a, b) };
        vreinterpretq_s32_s64(both)
    }
}
