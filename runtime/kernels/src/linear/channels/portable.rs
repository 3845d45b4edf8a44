//! The products in plain Rust, with the arithmetic of the portable quads.

use super::{ActiveBlock, Ahead, ChannelKernel, Group};
use crate::isa::Portable;
use crate::linear::activations::ActBlock;
use crate::linear::portable::{Q4, Q4M};
use half::f16;
use limbeck_plan::QUANT_BLOCK;

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
        active: &ActiveBlock,
        _: &mut Ahead<'_>,
        sums: *mut f32,
    ) {
        let half = 16 * group.lanes;
        let mut dots = [0i32; 128];
        let count = 4 * active.quads as usize;
        for (c, q) in active.channels[..count].iter().zip(&active.values[..count]) {
            // SAFETY: the caller's contract: each channel has `half` bytes here.
            let bytes = unsafe {
                std::slice::from_raw_parts(group.data.add(usize::from(*c) * group.stride), half)
            };
            for (p, byte) in bytes.iter().enumerate() {
                let row = 4 * group.lanes * (p % 16 / 4) + p / 16 * 4 + p % 4;
                dots[row] += i32::from(byte & 15) * i32::from(*q);
                dots[half + row] += i32::from(byte >> 4) * i32::from(*q);
            }
        }
        let offset = if VALUES == Q4 { block.eight_sum } else { 0 };
        for (row, dot) in dots.iter().enumerate().take(2 * half) {
            // SAFETY: the caller's contract: two bytes for each row of the group, and a sum.
            unsafe {
                let half_at = |at: *const u8| {
                    f16::from_le_bytes(at.add(2 * row).cast::<[u8; 2]>().read()).to_f32()
                };
                let sum = &mut *sums.add(row);
                *sum += (dot - offset) as f32 * (half_at(group.scales) * block.scale);
                if VALUES == Q4M {
                    *sum += half_at(group.mins) * block.scaled_sum;
                }
            }
        }
    }
}

/// Finds the active channels of a row's blocks.
pub(crate) fn find_active(_: Portable, q: &[i8], out: &mut [ActiveBlock]) {
    q.chunks_exact(QUANT_BLOCK).zip(out).for_each(|(q, out)| out.find(q));
}
