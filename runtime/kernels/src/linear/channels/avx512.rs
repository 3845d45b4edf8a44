//! The products in AVX-512 and VNNI instructions: the bytes of four channels are interleaved, so
//! that each lane of 32 bits has one output's four values for `dpbusd`.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::{ActiveBlock, Ahead, ChannelKernel, Group};
use crate::isa::Avx512;
use crate::linear::activations::ActBlock;
use crate::linear::portable::{Q4, Q4M};
use limbeck_plan::QUANT_BLOCK;
use std::arch::x86_64::*;

/// Channels of the given values.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Channels<const VALUES: u8>;

impl<const VALUES: u8> Avx512Channels<VALUES> {
    /// # Safety
    /// As for [`ChannelKernel::add`], with `LANES` lanes.
    #[inline(always)]
    unsafe fn group<const LANES: usize>(
        group: &Group,
        block: &ActBlock,
        active: &ActiveBlock,
        ahead: &mut Ahead<'_>,
        sums: *mut f32,
    ) {
        let bytes: u64 = if LANES == 4 { u64::MAX } else { (1 << (16 * LANES)) - 1 };
        let rows: u16 = if LANES == 4 { u16::MAX } else { (1 << (4 * LANES)) - 1 };
        // SAFETY: the caller's contract: `16 LANES` bytes of each channel, `32 LANES` scales, minima
        // and sums; masked loads and stores touch no others.
        unsafe {
            let load = |at: *const u8| {
                if LANES == 4 {
                    _mm512_loadu_si512(at.cast())
                } else {
                    _mm512_maskz_loadu_epi8(bytes, at.cast())
                }
            };
            let halves = |at: *const u8| {
                if LANES == 4 {
                    _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()))
                } else {
                    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(rows, at.cast()))
                }
            };
            let offset = if VALUES == Q4 { -block.eight_sum } else { 0 };
            let mut dots = [_mm512_set1_epi32(offset); 8];
            let nibble = _mm512_set1_epi8(15);
            for quad in 0..active.quads as usize {
                ahead.ask();
                let channels = active.channels.as_ptr().add(4 * quad);
                let at =
                    |e: usize| load(group.data.add(usize::from(*channels.add(e)) * group.stride));
                let (a, b, c, d) = (at(0), at(1), at(2), at(3));
                let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
                let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
                let quads = [
                    _mm512_unpacklo_epi16(ab, cd),
                    _mm512_unpackhi_epi16(ab, cd),
                    _mm512_unpacklo_epi16(ab_high, cd_high),
                    _mm512_unpackhi_epi16(ab_high, cd_high),
                ];
                let values = active.values.as_ptr().add(4 * quad);
                let q = _mm512_set1_epi32(values.cast::<i32>().read_unaligned());
                for j in 0..4 {
                    let low = _mm512_and_si512(quads[j], nibble);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(quads[j]), nibble);
                    dots[j] = _mm512_dpbusd_epi32(dots[j], low, q);
                    dots[4 + j] = _mm512_dpbusd_epi32(dots[4 + j], high, q);
                }
            }
            (active.quads as usize..8).for_each(|_| ahead.ask());
            let scale = _mm512_set1_ps(block.scale);
            let scaled_sum = _mm512_set1_ps(block.scaled_sum);
            for j in 0..8 {
                let at = 4 * LANES * j;
                let scales = _mm512_mul_ps(halves(group.scales.add(2 * at)), scale);
                let sum = _mm512_maskz_loadu_ps(rows, sums.add(at));
                let mut sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[j]), scales, sum);
                if VALUES == Q4M {
                    sum = _mm512_fmadd_ps(halves(group.mins.add(2 * at)), scaled_sum, sum);
                }
                _mm512_mask_storeu_ps(sums.add(at), rows, sum);
            }
        }
    }
}

impl<const VALUES: u8> ChannelKernel<Avx512> for Avx512Channels<VALUES> {
    #[inline(always)]
    unsafe fn add(
        self,
        _: Avx512,
        group: &Group,
        block: &ActBlock,
        active: &ActiveBlock,
        ahead: &mut Ahead<'_>,
        sums: *mut f32,
    ) {
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe {
            match group.lanes {
                4 => Self::group::<4>(group, block, active, ahead, sums),
                3 => Self::group::<3>(group, block, active, ahead, sums),
                2 => Self::group::<2>(group, block, active, ahead, sums),
                _ => Self::group::<1>(group, block, active, ahead, sums),
            }
        }
    }
}

/// Finds the active channels of a row's blocks, 16 at a time.
///
/// # Safety
/// The CPU has the token's features.
#[inline(always)]
pub(crate) unsafe fn find_active_avx512(_: Avx512, q: &[i8], out: &mut [ActiveBlock]) {
    for (q, out) in q.chunks_exact(QUANT_BLOCK).zip(out) {
        // SAFETY: `q` has 32 values; the first half's channels end at 16 at most, and 16 more fit.
        unsafe {
            let all = _mm256_loadu_si256(q.as_ptr().cast());
            let mask = _mm256_test_epi8_mask(all, all);
            let (low, high) = (mask as u16, (mask >> 16) as u16);
            let first = _mm512_set1_epi32(mask.trailing_zeros() as i32 & 31);
            let numbers = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            let compress =
                |mask: u16, from: i32, values: __m128i, to: usize, out: &mut ActiveBlock| {
                    let numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(from));
                    let numbers = _mm512_mask_compress_epi32(first, mask, numbers);
                    let values = _mm512_maskz_compress_epi32(mask, _mm512_cvtepi8_epi32(values));
                    let at = out.channels.as_mut_ptr().add(to);
                    _mm_storeu_si128(at.cast(), _mm512_cvtepi32_epi8(numbers));
                    let at = out.values.as_mut_ptr().add(to);
                    _mm_storeu_si128(at.cast(), _mm512_cvtepi32_epi8(values));
                };
            // The channels that fill up the last quad may lie beyond the second half's.
            compress(0, 0, _mm_setzero_si128(), 16, out);
            compress(low, 0, _mm256_castsi256_si128(all), 0, out);
            let count = low.count_ones() as usize;
            compress(high, 16, _mm256_extracti128_si256::<1>(all), count, out);
            out.mask = mask;
            out.quads = mask.count_ones().div_ceil(4);
        }
    }
}
