//! Products of a few rows with a weight in channels: of each block of 32 input channels only those
//! are read that the row has a value for. Sums are those of quads in the same order, so the bits are
//! the same.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod retile;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::{Avx2Channels, find_active_avx2};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512Channels, find_active_avx512};
pub(crate) use portable::{PortableChannels, find_active};
#[cfg(target_arch = "x86_64")]
pub(crate) use retile::retile_sse;
pub(crate) use retile::{RetileTask, retile_portable};

use super::activations::ActBlock;
use super::task::{Epilogue, Input, LinearTask, UNIT, finish};
use crate::channels::{ChannelTile, GROUP};
use crate::simd::Simd;
use limbeck_plan::{QUANT_BLOCK, Values, channel_tile_rows};
use std::ops::Range;

/// Rows of activations that go over a weight's tile together.
const TOGETHER: usize = 4;
/// Most rows of a tile.
const TILE_ROWS: usize = 1024;
/// Records between the one that is computed and the one that is asked for.
const RECORDS_AHEAD: usize = 2;
/// Bytes of a cache line.
const LINE: usize = 64;

/// The channels of one row's block that are not zero, in order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ActiveBlock {
    /// A bit for each.
    pub mask: u32,
    /// Groups of four.
    pub quads: u32,
    /// Their numbers; up to a whole quad the first one again.
    pub channels: [u8; QUANT_BLOCK],
    /// Their values; up to a whole quad zeros.
    pub values: [i8; QUANT_BLOCK],
}

impl ActiveBlock {
    /// Finds them among the 32 values of a block.
    pub fn find(&mut self, q: &[i8]) {
        *self = ActiveBlock::default();
        let mut count = 0;
        for (c, v) in q.iter().enumerate().take(QUANT_BLOCK).filter(|(_, v)| **v != 0) {
            (self.channels[count], self.values[count]) = (c as u8, *v);
            self.mask |= 1 << c;
            count += 1;
        }
        self.quads = count.div_ceil(4) as u32;
        let first = self.channels[0];
        self.channels[count..].fill(first);
    }
}

/// Some rows and groups of one linear whose weight is in channels.
pub(crate) struct ChannelTask<'a> {
    pub input: Input<'a>,
    /// `[rows, blocks]`.
    pub active: &'a [ActiveBlock],
    pub w: &'a [u8],
    pub values: Values,
    pub k: usize,
    pub n: usize,
    /// Of the input; whole rows of products.
    pub rows: Range<usize>,
    /// Groups of the weight's rows, counted over its tiles.
    pub groups: Range<usize>,
    pub epilogue: &'a Epilogue<'a>,
}

/// How many groups a weight of `n` rows has.
pub(crate) fn group_count(values: Values, n: usize) -> usize {
    let (per_tile, tiles) = shape(n);
    (tiles - 1) * per_tile + ChannelTile::of(values, n, 1, tiles - 1).groups()
}

/// Rows before a group.
pub(crate) fn group_start(n: usize, group: usize) -> usize {
    let (per_tile, _) = shape(n);
    group / per_tile * channel_tile_rows(n) + group % per_tile * GROUP
}

/// Groups of a whole tile, and tiles.
fn shape(n: usize) -> (usize, usize) {
    let tile = channel_tile_rows(n);
    (tile.div_ceil(GROUP), n.div_ceil(tile))
}

/// One group of one record.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// The first channel's values.
    pub data: *const u8,
    /// From one channel to the next.
    pub stride: usize,
    pub scales: *const u8,
    pub mins: *const u8,
    /// 1 to 4.
    pub lanes: usize,
}

/// What to ask for while a block is computed: the channels of a record ahead, in order.
pub(crate) struct Ahead<'a> {
    channels: &'a [u8],
    /// The first channel's first byte, from one channel to the next, and how far.
    data: *const u8,
    stride: usize,
    bytes: usize,
    /// Where the next line is in the first channel of `channels`.
    line: usize,
    /// Lines of one part of a group.
    share: usize,
}

impl<'a> Ahead<'a> {
    /// Parts that a group asks for its share in.
    const PARTS: usize = 8;

    /// Asks for `bytes` of each active channel while `groups` groups are computed.
    fn new(
        active: &'a ActiveBlock,
        data: *const u8,
        stride: usize,
        bytes: usize,
        groups: usize,
    ) -> Ahead<'a> {
        let channels = &active.channels[..active.mask.count_ones() as usize];
        let lines = channels.len() * bytes.div_ceil(LINE);
        let share = (lines as u32).div_ceil((Self::PARTS * groups).max(1) as u32) as usize;
        Ahead { channels, data, stride, bytes, line: 0, share }
    }

    /// Asks for the next part.
    #[inline(always)]
    fn ask(&mut self) {
        for _ in 0..self.share {
            let Some((first, others)) = self.channels.split_first() else { return };
            prefetch(self.data.wrapping_add(usize::from(*first) * self.stride + self.line));
            self.line += LINE;
            if self.line >= self.bytes {
                (self.line, self.channels) = (0, others);
            }
        }
    }
}

/// The products of one block.
pub(crate) trait ChannelKernel<S: Simd>: Copy {
    /// Adds the group's products with a block to its `32 lanes` sums, and asks for its share of what
    /// is ahead.
    ///
    /// # Safety
    /// The group's pointers and `sums` are good for its lanes and 32 channels, and the token's
    /// features are there.
    unsafe fn add(
        self,
        s: S,
        group: &Group,
        block: &ActBlock,
        active: &ActiveBlock,
        ahead: &mut Ahead<'_>,
        sums: *mut f32,
    );
}

/// Asks for the line at `at`, which may be anywhere.
#[inline(always)]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch may point anywhere, and every x86-64 CPU has SSE.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Runs a task.
///
/// # Safety
/// The task's ranges lie within its input, weight and output, whose lengths fit its shape; `active`
/// belongs to the input; and no other thread touches the outputs of its rows and groups meanwhile.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd, C: ChannelKernel<S>>(s: S, kernel: C, task: &ChannelTask<'_>) {
    let (per_tile, _) = shape(task.n);
    let mut group = task.groups.start;
    while group < task.groups.end {
        let index = group / per_tile;
        let tile = ChannelTile::of(task.values, task.n, task.k, index);
        let first = index * per_tile;
        let end = task.groups.end.min(first + tile.groups());
        let mut row = task.rows.start;
        while row < task.rows.end {
            let rows = row..task.rows.end.min(row + TOGETHER);
            // SAFETY: the caller's contract; the groups are the tile's.
            unsafe { run_tile(s, kernel, task, &tile, group - first..end - first, rows.clone()) };
            row = rows.end;
        }
        group = end.max(group + 1);
    }
}

/// The products of up to [`TOGETHER`] rows with some groups of a tile.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn run_tile<S: Simd, C: ChannelKernel<S>>(
    s: S,
    kernel: C,
    task: &ChannelTask<'_>,
    tile: &ChannelTile,
    groups: Range<usize>,
    rows: Range<usize>,
) {
    let Input::Quantised { blocks, .. } = task.input else { return };
    let per_row = task.k.div_ceil(QUANT_BLOCK);
    let mut sums = [[0.0f32; TILE_ROWS]; TOGETHER];
    let stride = tile.channel();
    for b in 0..per_row {
        let record = task.w.as_ptr().wrapping_add(tile.offset + b * tile.record);
        let next = record.wrapping_add(RECORDS_AHEAD * tile.record);
        for (row, sums) in rows.clone().zip(&mut sums) {
            let at = row * per_row + b;
            // What comes after the last block is the next tile's first.
            let ahead = row * per_row + (b + RECORDS_AHEAD) % per_row;
            let (block, active) = (&blocks[at], &task.active[at]);
            let from = groups.start * GROUP / 2;
            let bytes = stride.min(groups.end * GROUP / 2) - from;
            let data = next.wrapping_add(from);
            let mut ahead = Ahead::new(&task.active[ahead], data, stride, bytes, groups.len());
            for g in groups.clone() {
                let floats = 2 * g * GROUP;
                for part in (0..2 * GROUP).step_by(LINE) {
                    prefetch(next.wrapping_add(tile.scales() + floats + part));
                    if task.values == Values::Q4m {
                        prefetch(next.wrapping_add(tile.mins() + floats + part));
                    }
                }
                let group = Group {
                    data: record.wrapping_add(g * GROUP / 2),
                    stride,
                    scales: record.wrapping_add(tile.scales() + floats),
                    mins: record.wrapping_add(tile.mins() + floats),
                    lanes: tile.lanes(g),
                };
                // SAFETY: the caller's contract; a tile has at most 512 rows.
                unsafe {
                    kernel.add(
                        s,
                        &group,
                        block,
                        active,
                        &mut ahead,
                        sums[g * GROUP..].as_mut_ptr(),
                    );
                }
            }
        }
    }
    let linear = LinearTask {
        input: task.input,
        w: task.w,
        k: task.k,
        stored: task.k,
        n: task.n,
        rows: rows.clone(),
        units: 0..0,
        first_unit: 0,
        epilogue: task.epilogue,
    };
    let parts = task.epilogue.parts;
    let first = tile.first_row + groups.start * GROUP;
    let end = (tile.first_row + tile.width.min(groups.end * GROUP)).min(task.n);
    for (index, row) in rows.step_by(parts).enumerate() {
        for unit in first / UNIT..end.div_ceil(UNIT) {
            let at = unit * UNIT - tile.first_row;
            let mut acc = [0.0; UNIT];
            acc.copy_from_slice(&sums[index * parts][at..at + UNIT]);
            if parts == 2 {
                for (acc, rest) in acc.iter_mut().zip(&sums[index * parts + 1][at..]) {
                    *acc += rest;
                }
            }
            // SAFETY: outputs of this task's rows and groups.
            unsafe { finish(s, &linear, row / parts, unit, &acc) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_the_rows_in_order() {
        for (n, count) in [(1, 1), (33, 2), (288, 3), (576, 6), (960, 8), (3072, 24)] {
            assert_eq!(group_count(Values::Q4, n), count, "{n} rows");
            let starts: Vec<usize> = (0..count).map(|g| group_start(n, g)).collect();
            assert!(starts.is_sorted_by(|a, b| a < b) && starts[count - 1] < n);
        }
        assert_eq!(
            (0..6).map(|g| group_start(576, g)).collect::<Vec<_>>(),
            [0, 128, 256, 288, 416, 544]
        );
    }

    #[test]
    fn active_channels_are_those_that_are_not_zero() {
        let mut q = [0i8; 32];
        (q[3], q[4], q[9], q[30], q[31]) = (5, -6, 7, -8, 9);
        let mut active = ActiveBlock::default();
        active.find(&q);
        assert_eq!((active.quads, active.mask), (2, 0xc000_0218));
        assert_eq!(active.channels[..8], [3, 4, 9, 30, 31, 3, 3, 3]);
        assert_eq!(active.values[..8], [5, -6, 7, -8, 9, 0, 0, 0]);
        active.find(&[0; 32]);
        assert_eq!((active.quads, active.mask), (0, 0));
    }
}
