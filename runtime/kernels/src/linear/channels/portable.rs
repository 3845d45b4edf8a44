//! The products in plain Rust, with the arithmetic of the portable quads.

use super::{ChannelKernel, Group, Quads};
use crate::isa::Portable;
use crate::linear::activations::ActBlock;
use crate::linear::portable::{Q4, Q4M, Q8, f16_bits};
use crate::simd::{LANES, widen_f16};

/// Channels of the given values.
#[derive(Clone, Copy)]
pub(crate) struct PortableChannels<const VALUES: u8>;

impl<const VALUES: u8> ChannelKernel<Portable> for PortableChannels<VALUES> {
    #[inline(always)]
    unsafe fn add(
        self,
        _: Portable,
        group: &Group,
        block: &ActBlock,
        quads: Quads,
        sums: *mut f32,
    ) {
        let half = 16 * group.lanes;
        let len = if VALUES == Q8 { 2 * half } else { half };
        let mut dots = [0i32; 128];
        for i in 0..4 * quads.count {
            // SAFETY: the caller's contract: the list has these, and each channel `len` bytes here.
            let (bytes, q) = unsafe {
                let at = *quads.at.add(i) as usize;
                (std::slice::from_raw_parts(group.data.add(at), len), *quads.values.add(i))
            };
            for (p, byte) in bytes.iter().enumerate() {
                let (p, second) = (p % half, p / half * half);
                let row = 4 * group.lanes * (p % 16 / 4) + p / 16 * 4 + p % 4 + second;
                if VALUES == Q8 {
                    dots[row] += i32::from(*byte as i8) * i32::from(q);
                } else {
                    dots[row] += i32::from(byte & 15) * i32::from(q);
                    dots[half + row] += i32::from(byte >> 4) * i32::from(q);
                }
            }
        }
        let offset = if VALUES == Q4 { block.minus_8_sums } else { 0 };
        for (eight, dots) in dots[..2 * half].chunks_exact(LANES).enumerate() {
            // SAFETY: the caller's contract: a sum for each row of the group.
            let sums = unsafe { std::slice::from_raw_parts_mut(sums.add(eight * LANES), LANES) };
            let floats = |of: *const u8| {
                let bytes = 2 * LANES;
                // SAFETY: the caller's contract: an f16 for each row of the group.
                let bytes = unsafe { std::slice::from_raw_parts(of.add(eight * bytes), bytes) };
                widen_f16(f16_bits(bytes))
            };
            for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(floats(group.scales)) {
                *sum += (dot + offset) as f32 * (scale * block.scale);
            }
            if VALUES == Q4M {
                for (sum, min) in sums.iter_mut().zip(floats(group.mins)) {
                    *sum += min * block.scaled_sum;
                }
            }
        }
    }
}
