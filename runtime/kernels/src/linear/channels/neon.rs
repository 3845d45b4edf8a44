//! The products in NEON instructions: the bytes of four channels are interleaved, so that each lane of
//! 32 bits has one output's four values, as in the quads' kernel.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::{ChannelKernel, Group, Quads};
use crate::linear::activations::ActBlock;
use crate::linear::neon::{LaneDots, nibbles};
use crate::linear::portable::{Q4, Q4M, Q8};
use crate::simd::widen_halves;
use std::arch::aarch64::*;

/// Channels of the given values.
#[derive(Clone, Copy)]
pub(crate) struct NeonChannels<const VALUES: u8>;

/// One lane of four channels, `from` bytes after the lane's first ones: of each output the channels'
/// four values, by run of outputs.
///
/// # Safety
/// As for [`ChannelKernel::add`]; `at` points at four channels of a list, which have these bytes.
#[inline(always)]
unsafe fn interleaved(group: &Group, at: *const u32, from: usize) -> [uint8x16_t; 4] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut w = [vdupq_n_u8(0); 4];
        for e in 0..4 {
            w[e] = vld1q_u8(group.data.add(*at.add(e) as usize + from));
        }
        let [a, b, c, d] = w;
        let (ab, cd) = (vzip1q_u8(a, b), vzip1q_u8(c, d));
        let (ab_high, cd_high) = (vzip2q_u8(a, b), vzip2q_u8(c, d));
        let (ab, cd) = (vreinterpretq_u16_u8(ab), vreinterpretq_u16_u8(cd));
        let (ab_high, cd_high) = (vreinterpretq_u16_u8(ab_high), vreinterpretq_u16_u8(cd_high));
        [
            vreinterpretq_u8_u16(vzip1q_u16(ab, cd)),
            vreinterpretq_u8_u16(vzip2q_u16(ab, cd)),
            vreinterpretq_u8_u16(vzip1q_u16(ab_high, cd_high)),
            vreinterpretq_u8_u16(vzip2q_u16(ab_high, cd_high)),
        ]
    }
}

impl<const VALUES: u8> NeonChannels<VALUES> {
    /// The dot products of a lane, by run of rows.
    ///
    /// # Safety
    /// As for [`ChannelKernel::add`]; the lane exists.
    #[inline(always)]
    unsafe fn dots<S: LaneDots>(s: S, group: &Group, lane: usize, quads: Quads) -> [int32x4_t; 8] {
        // SAFETY: the caller's contract: 16 bytes of each channel for a lane, for `Q8` 16 more.
        unsafe {
            let mut sums = [s.none(); 8];
            for quad in 0..quads.count {
                let at = quads.at.add(4 * quad);
                if lane == 0 {
                    group.ask(at, if VALUES == Q8 { 32 } else { 16 } * group.lanes);
                }
                let values = quads.values.add(4 * quad);
                let q = vdupq_n_s32(values.cast::<i32>().read_unaligned());
                let q = vreinterpretq_s8_s32(q);
                let first = interleaved(group, at, 16 * lane);
                let second = match VALUES {
                    Q8 => interleaved(group, at, 16 * (group.lanes + lane)),
                    _ => first,
                };
                for j in 0..4 {
                    let [low, high] = if VALUES == Q8 {
                        [vreinterpretq_s8_u8(first[j]), vreinterpretq_s8_u8(second[j])]
                    } else {
                        nibbles(first[j])
                    };
                    sums[j] = s.add_products::<VALUES, 0>(sums[j], low, q);
                    sums[4 + j] = s.add_products::<VALUES, 0>(sums[4 + j], high, q);
                }
            }
            let mut dots = [vdupq_n_s32(0); 8];
            for j in 0..8 {
                dots[j] = s.total::<VALUES>(sums[j]);
            }
            dots
        }
    }
}

impl<S: LaneDots, const VALUES: u8> ChannelKernel<S> for NeonChannels<VALUES> {
    #[inline(always)]
    unsafe fn add(self, s: S, group: &Group, block: &ActBlock, quads: Quads, sums: *mut f32) {
        let offset = if VALUES == Q4 { block.minus_8_sums } else { 0 };
        for lane in 0..group.lanes {
            // SAFETY: the caller's contract: four scales, minima and sums of each of the eight runs.
            unsafe {
                let dots = Self::dots(s, group, lane, quads);
                for j in 0..8 {
                    let at = 4 * group.lanes * j + 4 * lane;
                    let scales = widen_halves(vld1_u16(group.scales.add(2 * at).cast()));
                    let scales = vmulq_n_f32(scales, block.scale);
                    let dot = vcvtq_f32_s32(vaddq_s32(dots[j], vdupq_n_s32(offset)));
                    let to = sums.add(at);
                    let mut sum = vfmaq_f32(vld1q_f32(to), dot, scales);
                    if VALUES == Q4M {
                        let mins = widen_halves(vld1_u16(group.mins.add(2 * at).cast()));
                        sum = vfmaq_f32(sum, mins, vdupq_n_f32(block.scaled_sum));
                    }
                    vst1q_f32(to, sum);
                }
            }
        }
    }
}
