//! The products in AVX2 instructions: the bytes of two channels are interleaved, and `maddubs` sums
//! an output's two products in i16. Eight such sums fit: 15 * 127 * 2 * 8 = 30,480.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::{ActiveBlock, Ahead, ChannelKernel, Group};
use crate::isa::Avx2;
use crate::linear::activations::ActBlock;
use crate::linear::portable::{Q4, Q4M};
use limbeck_plan::QUANT_BLOCK;
use std::arch::x86_64::*;

/// Pairs of channels whose products are added in i16.
const PAIRS: usize = 8;

/// Channels of the given values.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Channels<const VALUES: u8>;

impl<const VALUES: u8> Avx2Channels<VALUES> {
    /// Lanes `lane..lane + COUNT` of a group.
    ///
    /// # Safety
    /// As for [`ChannelKernel::add`]; the lanes exist.
    #[inline(always)]
    unsafe fn lanes<const COUNT: usize>(
        group: &Group,
        lane: usize,
        block: &ActBlock,
        active: &ActiveBlock,
        ahead: &mut Ahead<'_>,
        sums: *mut f32,
    ) {
        // SAFETY: the caller's contract: 16 bytes of each channel for a lane, and four scales,
        // minima and sums of each of the eight runs.
        unsafe {
            let data = group.data.add(16 * lane);
            let load = |c: u8| {
                let at = data.add(usize::from(c) * group.stride);
                if COUNT == 2 {
                    _mm256_loadu_si256(at.cast())
                } else {
                    _mm256_zextsi128_si256(_mm_loadu_si128(at.cast()))
                }
            };
            let offset = if VALUES == Q4 { -block.eight_sum } else { 0 };
            let mut dots = [_mm256_set1_epi32(offset); 8];
            let nibble = _mm256_set1_epi8(15);
            let pairs = 2 * active.quads as usize;
            for start in (0..pairs).step_by(PAIRS) {
                // Low and high nibbles of bytes 0..8 and 8..16 of each lane.
                let mut partial = [_mm256_setzero_si256(); 4];
                for pair in start..pairs.min(start + PAIRS) {
                    if lane == 0 && pair % 2 == 0 {
                        ahead.ask();
                    }
                    let channels = active.channels.as_ptr().add(2 * pair);
                    let (a, b) = (load(*channels), load(*channels.add(1)));
                    let values = active.values.as_ptr().add(2 * pair);
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
            let halves = |at: *const u8| {
                if COUNT == 2 {
                    _mm256_cvtph_ps(_mm_loadu_si128(at.cast()))
                } else {
                    _mm256_cvtph_ps(_mm_loadl_epi64(at.cast()))
                }
            };
            if lane == 0 {
                (active.quads as usize..8).for_each(|_| ahead.ask());
            }
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
    unsafe fn add(
        self,
        _: Avx2,
        group: &Group,
        block: &ActBlock,
        active: &ActiveBlock,
        ahead: &mut Ahead<'_>,
        sums: *mut f32,
    ) {
        // SAFETY: the caller's contract; the token proves the CPU's features.
        unsafe {
            let mut lane = 0;
            while lane + 2 <= group.lanes {
                Self::lanes::<2>(group, lane, block, active, ahead, sums);
                lane += 2;
            }
            if lane < group.lanes {
                Self::lanes::<1>(group, lane, block, active, ahead, sums);
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

/// Finds the active channels of a row's blocks, 8 at a time.
///
/// # Safety
/// The CPU has the token's features.
#[inline(always)]
pub(crate) unsafe fn find_active_avx2(_: Avx2, q: &[i8], out: &mut [ActiveBlock]) {
    for (q, out) in q.chunks_exact(QUANT_BLOCK).zip(out) {
        // SAFETY: `q` has 32 values; what `i` parts before have is at most `8 i`, so that 8 more
        // values fit.
        unsafe {
            let all = _mm256_loadu_si256(q.as_ptr().cast());
            let zeros = _mm256_cmpeq_epi8(all, _mm256_setzero_si256());
            let mask = !(_mm256_movemask_epi8(zeros) as u32);
            let first = _mm256_set1_epi8(mask.trailing_zeros() as i8 & 31);
            _mm256_storeu_si256(out.channels.as_mut_ptr().cast(), first);
            _mm256_storeu_si256(out.values.as_mut_ptr().cast(), _mm256_setzero_si256());
            let first = _mm256_castsi256_si128(first);
            let mut count = 0;
            for part in 0..4 {
                let bits = (mask >> (8 * part)) as u8;
                let positions = POSITIONS[usize::from(bits)];
                let positions = _mm_cvtsi64_si128(positions as i64);
                let values = _mm_loadl_epi64(q.as_ptr().add(8 * part).cast());
                let values = _mm_shuffle_epi8(values, positions);
                let numbers = _mm_add_epi8(positions, _mm_set1_epi8(8 * part as i8));
                let numbers = _mm_blendv_epi8(numbers, first, positions);
                _mm_storel_epi64(out.channels.as_mut_ptr().add(count).cast(), numbers);
                _mm_storel_epi64(out.values.as_mut_ptr().add(count).cast(), values);
                count += bits.count_ones() as usize;
            }
            out.mask = mask;
            out.quads = mask.count_ones().div_ceil(4);
        }
    }
}
