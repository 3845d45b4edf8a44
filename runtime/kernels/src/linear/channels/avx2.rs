//! The products in AVX2 instructions: the bytes of two channels are interleaved, and `maddubs` sums
//! an output's two products in i16. Eight such sums fit: 15 * 127 * 2 * 8 = 30,480. Of 8-bit values
//! those of four channels are interleaved, and multiplied as in the quads' kernel.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::{ActiveBlock, ChannelKernel, FindFloats, FindQuants, FindTask, Group, Quads};
use crate::isa::Avx2;
use crate::linear::activations::ActBlock;
use crate::linear::portable::{Q4, Q4M, Q8};
use limbeck_plan::QUANT_BLOCK;
use std::arch::x86_64::*;

/// Pairs of channels whose products are added in i16.
const PAIRS: usize = 8;

/// Channels of the given values.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Channels<const VALUES: u8>;

impl<const VALUES: u8> Avx2Channels<VALUES> {
    /// The bytes of the channel at `at` for lanes `lane..lane + COUNT`, `from` after its first ones.
    ///
    /// # Safety
    /// As for [`ChannelKernel::add`]; the bytes exist.
    #[inline(always)]
    unsafe fn load<const COUNT: usize>(
        group: &Group,
        lane: usize,
        at: u32,
        from: usize,
    ) -> __m256i {
        // SAFETY: the caller's contract.
        unsafe {
            let at = group.data.add(16 * lane + at as usize + from);
            if COUNT == 2 {
                _mm256_loadu_si256(at.cast())
            } else {
                _mm256_zextsi128_si256(_mm_loadu_si128(at.cast()))
            }
        }
    }

    /// The dot products of 8-bit values, by run of rows.
    ///
    /// # Safety
    /// As for [`Self::lanes`].
    #[inline(always)]
    unsafe fn bytes<const COUNT: usize>(group: &Group, lane: usize, quads: Quads) -> [__m256i; 8] {
        // SAFETY: the caller's contract: two times 16 bytes of each channel for a lane.
        unsafe {
            let mut dots = [_mm256_setzero_si256(); 8];
            let ones = _mm256_set1_epi16(1);
            for quad in 0..quads.count {
                let at = quads.at.add(4 * quad);
                if lane == 0 {
                    group.ask(at, 32 * group.lanes);
                }
                let values = quads.values.add(4 * quad);
                let q = _mm256_set1_epi32(values.cast::<i32>().read_unaligned());
                for half in 0..2 {
                    let from = half * 16 * group.lanes;
                    let mut w = [_mm256_setzero_si256(); 4];
                    for e in 0..4 {
                        w[e] = Self::load::<COUNT>(group, lane, *at.add(e), from);
                    }
                    let [a, b, c, d] = w;
                    let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
                    let ab_high = _mm256_unpackhi_epi8(a, b);
                    let cd_high = _mm256_unpackhi_epi8(c, d);
                    let quads = [
                        _mm256_unpacklo_epi16(ab, cd),
                        _mm256_unpackhi_epi16(ab, cd),
                        _mm256_unpacklo_epi16(ab_high, cd_high),
                        _mm256_unpackhi_epi16(ab_high, cd_high),
                    ];
                    for j in 0..4 {
                        let signed = _mm256_sign_epi8(q, quads[j]);
                        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(quads[j]), signed);
                        let sums = _mm256_madd_epi16(pairs, ones);
                        dots[4 * half + j] = _mm256_add_epi32(dots[4 * half + j], sums);
                    }
                }
            }
            dots
        }
    }

    /// The dot products of 4-bit values, by run of rows.
    ///
    /// # Safety
    /// As for [`Self::lanes`].
    #[inline(always)]
    unsafe fn nibbles<const COUNT: usize>(
        group: &Group,
        lane: usize,
        block: &ActBlock,
        quads: Quads,
    ) -> [__m256i; 8] {
        // SAFETY: the caller's contract: 16 bytes of each channel for a lane.
        unsafe {
            let offset = if VALUES == Q4 { block.minus_8_sums } else { 0 };
            let mut dots = [_mm256_set1_epi32(offset); 8];
            let nibble = _mm256_set1_epi8(15);
            let pairs = 2 * quads.count;
            for start in (0..pairs).step_by(PAIRS) {
                // Low and high nibbles of bytes 0..8 and 8..16 of each lane.
                let mut partial = [_mm256_setzero_si256(); 4];
                for pair in start..pairs.min(start + PAIRS) {
                    let at = quads.at.add(2 * pair);
                    if lane == 0 && pair % 2 == 0 {
                        group.ask(at, 16 * group.lanes);
                    }
                    let a = Self::load::<COUNT>(group, lane, *at, 0);
                    let b = Self::load::<COUNT>(group, lane, *at.add(1), 0);
                    let values = quads.values.add(2 * pair);
                    let q = _mm256_set1_epi16(values.cast::<i16>().read_unaligned());
                    let bytes = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
                    for i in 0..2 {
                        let low = _mm256_and_si256(bytes[i], nibble);
                        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes[i]), nibble);
                        let products = _mm256_maddubs_epi16(low, q);
                        partial[i] = _mm256_add_epi16(partial[i], products);
                        let products = _mm256_maddubs_epi16(high, q);
                        partial[2 + i] = _mm256_add_epi16(partial[2 + i], products);
                    }
                }
                for (i, partial) in partial.into_iter().enumerate() {
                    let low = _mm256_unpacklo_epi16(partial, partial);
                    let high = _mm256_unpackhi_epi16(partial, partial);
                    let (low, high) = (_mm256_srai_epi32::<16>(low), _mm256_srai_epi32::<16>(high));
                    dots[2 * i] = _mm256_add_epi32(dots[2 * i], low);
                    dots[2 * i + 1] = _mm256_add_epi32(dots[2 * i + 1], high);
                }
            }
            dots
        }
    }

    /// Lanes `lane..lane + COUNT` of a group.
    ///
    /// # Safety
    /// As for [`ChannelKernel::add`]; the lanes exist.
    #[inline(always)]
    unsafe fn lanes<const COUNT: usize>(
        group: &Group,
        lane: usize,
        block: &ActBlock,
        quads: Quads,
        sums: *mut f32,
    ) {
        // SAFETY: the caller's contract: four scales, minima and sums of each of the eight runs.
        unsafe {
            let dots = if VALUES == Q8 {
                Self::bytes::<COUNT>(group, lane, quads)
            } else {
                Self::nibbles::<COUNT>(group, lane, block, quads)
            };
            let halves = |at: *const u8| {
                if COUNT == 2 {
                    _mm256_cvtph_ps(_mm_loadu_si128(at.cast()))
                } else {
                    _mm256_cvtph_ps(_mm_loadl_epi64(at.cast()))
                }
            };
            let scale = _mm256_set1_ps(block.scale);
            let scaled_sum = _mm256_set1_ps(block.scaled_sum);
            for j in 0..8 {
                let at = 4 * group.lanes * j + 4 * lane;
                let scales = _mm256_mul_ps(halves(group.scales.add(2 * at)), scale);
                let to = sums.add(at);
                let sum = if COUNT == 2 {
                    _mm256_loadu_ps(to)
                } else {
                    _mm256_zextps128_ps256(_mm_loadu_ps(to))
                };
                let mut sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[j]), scales, sum);
                if VALUES == Q4M {
                    sum = _mm256_fmadd_ps(halves(group.mins.add(2 * at)), scaled_sum, sum);
                }
                if COUNT == 2 {
                    _mm256_storeu_ps(to, sum);
                } else {
                    _mm_storeu_ps(to, _mm256_castps256_ps128(sum));
                }
            }
        }
    }
}

impl<const VALUES: u8> ChannelKernel<Avx2> for Avx2Channels<VALUES> {
    #[inline(always)]
    unsafe fn add(self, _: Avx2, group: &Group, block: &ActBlock, quads: Quads, sums: *mut f32) {
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe {
            let mut lane = 0;
            while lane + 2 <= group.lanes {
                Self::lanes::<2>(group, lane, block, quads, sums);
                lane += 2;
            }
            if lane < group.lanes {
                Self::lanes::<1>(group, lane, block, quads, sums);
            }
        }
    }
}

/// For each mask of 8 bits the positions of its bits, in order, a byte each; then 0x80.
const POSITIONS: [u64; 256] = {
    let mut table = [0u64; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut bit, mut count, mut bytes) = (0, 0, 0x8080_8080_8080_8080u64);
        while bit < 8 {
            if mask >> bit & 1 == 1 {
                bytes = bytes & !(0xff << (8 * count)) | bit << (8 * count);
                count += 1;
            }
            bit += 1;
        }
        table[mask] = bytes;
        mask += 1;
    }
    table
};

/// Finds the channels of a row that are not zero, 8 at a time.
///
/// # Safety
/// The CPU has the token's features.
#[inline(always)]
pub(crate) unsafe fn find_active_avx2(_: Avx2, task: &mut FindTask<'_>) {
    // SAFETY: the caller's contract.
    unsafe {
        match task {
            FindTask::Quants(task) => find_quants(task),
            FindTask::Floats(task) => find_floats(task),
        }
    }
}

/// # Safety
/// As for [`find_active_avx2`].
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
        let mut mask = 0;
        // SAFETY: `x` has 32 values; at most as many channels are listed as came before, and the
        // lists have room for 16 more.
        unsafe {
            let stride = _mm256_set1_epi32(task.stride as i32);
            for part in 0..4u32 {
                let x = _mm256_loadu_ps(x.as_ptr().add(8 * part as usize));
                let kept = _mm256_cmp_ps::<_CMP_NEQ_UQ>(x, _mm256_setzero_ps());
                let bits = _mm256_movemask_ps(kept) as u8;
                let positions = _mm_cvtsi64_si128(POSITIONS[usize::from(bits)] as i64);
                let positions = _mm256_cvtepu8_epi32(positions);
                let start = b as u32 * task.record + 8 * part * task.stride;
                let at = _mm256_mullo_epi32(positions, stride);
                let at = _mm256_add_epi32(at, _mm256_set1_epi32(start as i32));
                _mm256_storeu_si256(task.at.as_mut_ptr().add(end).cast(), at);
                let values = _mm256_permutevar8x32_ps(x, positions);
                _mm256_storeu_ps(task.floats.as_mut_ptr().add(end), values);
                mask |= u32::from(bits) << (8 * part);
                end += bits.count_ones() as usize;
            }
        }
        task.blocks[b] = ActiveBlock { mask, first: first as u32, quads: 0 };
    }
}

/// # Safety
/// As for [`find_active_avx2`].
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
            let zeros = _mm256_cmpeq_epi8(all, _mm256_setzero_si256());
            let mask = !(_mm256_movemask_epi8(zeros) as u32);
            let stride = _mm256_set1_epi32(task.stride as i32);
            let record = b as u32 * task.record;
            for part in 0..4u32 {
                let bits = (mask >> (8 * part)) as u8;
                let positions = _mm_cvtsi64_si128(POSITIONS[usize::from(bits)] as i64);
                let start = record + 8 * part * task.stride;
                let at = _mm256_mullo_epi32(_mm256_cvtepu8_epi32(positions), stride);
                let at = _mm256_add_epi32(at, _mm256_set1_epi32(start as i32));
                _mm256_storeu_si256(task.at.as_mut_ptr().add(end).cast(), at);
                let values = _mm_loadl_epi64(q.as_ptr().add(8 * part as usize).cast());
                let values = _mm_shuffle_epi8(values, positions);
                _mm_storel_epi64(task.values.as_mut_ptr().add(end).cast(), values);
                end += bits.count_ones() as usize;
            }
            mask
        };
        end = task.close(b, mask, first, end);
    }
}
