//! The products in AVX-512 and VNNI instructions: the bytes of four channels are interleaved, so
//! that each lane of 32 bits has one output's four values for `dpbusd`. 8-bit values become unsigned
//! by adding 128; what that adds to a dot product is taken off at its start.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::{ActiveBlock, ChannelKernel, FindFloats, FindQuants, FindTask, Group, Quads};
use crate::isa::Avx512;
use crate::linear::activations::ActBlock;
use crate::linear::portable::{Q4, Q4M, Q8};
use limbeck_plan::QUANT_BLOCK;
use std::arch::x86_64::*;

/// Channels of the given values.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Channels<const VALUES: u8>;

impl<const VALUES: u8> Avx512Channels<VALUES> {
    /// `LANES` lanes of four channels, `from` bytes after the group's first ones: of each output the
    /// channels' four values, the outputs in order.
    ///
    /// # Safety
    /// As for [`ChannelKernel::add`]; `at` points at four channels of a list, which have these bytes.
    #[inline(always)]
    unsafe fn interleaved<const LANES: usize>(
        group: &Group,
        at: *const u32,
        from: usize,
    ) -> [__m512i; 4] {
        let bytes: u64 = if LANES == 4 { u64::MAX } else { (1 << (16 * LANES)) - 1 };
        // SAFETY: the caller's contract; masked loads touch no other bytes.
        unsafe {
            let mut w = [_mm512_setzero_si512(); 4];
            for e in 0..4 {
                let at = group.data.add(*at.add(e) as usize + from);
                w[e] = if LANES == 4 {
                    _mm512_loadu_si512(at.cast())
                } else {
                    _mm512_maskz_loadu_epi8(bytes, at.cast())
                };
            }
            let [a, b, c, d] = w;
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            [
                _mm512_unpacklo_epi16(ab, cd),
                _mm512_unpackhi_epi16(ab, cd),
                _mm512_unpacklo_epi16(ab_high, cd_high),
                _mm512_unpackhi_epi16(ab_high, cd_high),
            ]
        }
    }

    /// # Safety
    /// As for [`ChannelKernel::add`], with `LANES` lanes.
    #[inline(always)]
    unsafe fn group<const LANES: usize>(
        group: &Group,
        block: &ActBlock,
        quads: Quads,
        sums: *mut f32,
    ) {
        let rows: u16 = if LANES == 4 { u16::MAX } else { (1 << (4 * LANES)) - 1 };
        // SAFETY: the caller's contract: `16 LANES` bytes of each channel (twice for `Q8`), `32 LANES`
        // scales, minima and sums; masked loads and stores touch no others.
        unsafe {
            let halves = |at: *const u8| {
                if LANES == 4 {
                    _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()))
                } else {
                    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(rows, at.cast()))
                }
            };
            let offset = match VALUES {
                Q8 => block.minus_128_sums,
                Q4 => block.minus_8_sums,
                _ => 0,
            };
            let mut dots = [_mm512_set1_epi32(offset); 8];
            let (nibble, flip) = (_mm512_set1_epi8(15), _mm512_set1_epi8(-128));
            for quad in 0..quads.count {
                let at = quads.at.add(4 * quad);
                group.ask(at, if VALUES == Q8 { 32 * LANES } else { 16 * LANES });
                let values = quads.values.add(4 * quad);
                let q = _mm512_set1_epi32(values.cast::<i32>().read_unaligned());
                if VALUES == Q8 {
                    for half in 0..2 {
                        let from = 16 * LANES * half;
                        let w = Self::interleaved::<LANES>(group, at, from);
                        for j in 0..4 {
                            let (w, dot) = (_mm512_xor_si512(w[j], flip), &mut dots[4 * half + j]);
                            *dot = _mm512_dpbusd_epi32(*dot, w, q);
                        }
                    }
                    continue;
                }
                let quads = Self::interleaved::<LANES>(group, at, 0);
                for j in 0..4 {
                    let low = _mm512_and_si512(quads[j], nibble);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(quads[j]), nibble);
                    dots[j] = _mm512_dpbusd_epi32(dots[j], low, q);
                    dots[4 + j] = _mm512_dpbusd_epi32(dots[4 + j], high, q);
                }
            }
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
    unsafe fn add(self, _: Avx512, group: &Group, block: &ActBlock, quads: Quads, sums: *mut f32) {
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe {
            match group.lanes {
                4 => Self::group::<4>(group, block, quads, sums),
                3 => Self::group::<3>(group, block, quads, sums),
                2 => Self::group::<2>(group, block, quads, sums),
                _ => Self::group::<1>(group, block, quads, sums),
            }
        }
    }
}

/// Finds the channels of a row that are not zero, 16 at a time.
///
/// # Safety
/// The CPU has the token's features.
#[inline(always)]
pub(crate) unsafe fn find_active_avx512(_: Avx512, task: &mut FindTask<'_>) {
    // SAFETY: the caller's contract.
    unsafe {
        match task {
            FindTask::Quants(task) => find_quants(task),
            FindTask::Floats(task) => find_floats(task),
        }
    }
}

/// # Safety
/// As for [`find_active_avx512`].
#[inline(always)]
unsafe fn find_floats(task: &mut FindFloats<'_>) {
    assert!(task.has_room());
    let mut end = 0;
    for b in 0..task.blocks.len() {
        let first = end;
        let Some(x) = task.x[b * QUANT_BLOCK..].first_chunk::<QUANT_BLOCK>() else {
            end = task.block(b, first);
            continue;
        };
        let mut all = 0;
        // SAFETY: `x` has 32 values; at most as many channels are listed as came before, and the
        // lists have room for 16 more.
        unsafe {
            let numbers = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            let steps = _mm512_mullo_epi32(numbers, _mm512_set1_epi32(task.stride as i32));
            for half in 0..2u32 {
                let x = _mm512_loadu_ps(x.as_ptr().add(16 * half as usize));
                let mask = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(x, _mm512_setzero_ps());
                let start = b as u32 * task.record + 16 * half * task.stride;
                let at = _mm512_add_epi32(steps, _mm512_set1_epi32(start as i32));
                let at = _mm512_maskz_compress_epi32(mask, at);
                _mm512_storeu_si512(task.at.as_mut_ptr().add(end).cast(), at);
                let values = _mm512_maskz_compress_ps(mask, x);
                _mm512_storeu_ps(task.floats.as_mut_ptr().add(end), values);
                all |= u32::from(mask) << (16 * half);
                end += mask.count_ones() as usize;
            }
        }
        task.blocks[b] = ActiveBlock { mask: all, first: first as u32, quads: 0 };
    }
}

/// # Safety
/// As for [`find_active_avx512`].
#[inline(always)]
unsafe fn find_quants(task: &mut FindQuants<'_>) {
    assert!(task.has_room());
    let mut end = 0;
    for (b, q) in task.q.chunks_exact(QUANT_BLOCK).enumerate() {
        let first = end;
        // SAFETY: `q` has 32 values; at most as many channels are listed as came before, and the
        // lists have room for 16 more.
        let mask = unsafe {
            let all = _mm256_loadu_si256(q.as_ptr().cast());
            let mask = _mm256_test_epi8_mask(all, all);
            let numbers = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            let steps = _mm512_mullo_epi32(numbers, _mm512_set1_epi32(task.stride as i32));
            let record = b as u32 * task.record;
            for half in 0..2u32 {
                let mask = (mask >> (16 * half)) as u16;
                let start = record + 16 * half * task.stride;
                let at = _mm512_add_epi32(steps, _mm512_set1_epi32(start as i32));
                let at = _mm512_maskz_compress_epi32(mask, at);
                _mm512_storeu_si512(task.at.as_mut_ptr().add(end).cast(), at);
                let q = _mm_loadu_si128(q.as_ptr().add(16 * half as usize).cast());
                let q = _mm512_maskz_compress_epi32(mask, _mm512_cvtepi8_epi32(q));
                let to = task.values.as_mut_ptr().add(end);
                _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(q));
                end += mask.count_ones() as usize;
            }
            mask
        };
        end = task.close(b, mask, first, end);
    }
}
