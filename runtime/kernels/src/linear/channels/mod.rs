//! Products of a few rows with a weight in which channels lie together: only those input channels are read that a
//! row has a value for. Sums of quantised values are those of quads in the same order, so the bits are the same. In
//! f16 there are two sums for each output, over a half of the channels each.

mod active;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod floats;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod retile;

pub(crate) use active::{
    Active, ActiveBlock, ActiveRows, FindTask, Quads, find_active, second_half,
};
#[cfg(target_arch = "x86_64")]
pub(crate) use active::{FindFloats, FindQuants};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::{Avx2Channels, find_active_avx2};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512Channels, find_active_avx512};
pub(crate) use floats::{EndsTask, HalfTask, run_floats};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::NeonChannels;
pub(crate) use portable::PortableChannels;
#[cfg(target_arch = "aarch64")]
pub(crate) use retile::retile_neon;
#[cfg(target_arch = "x86_64")]
pub(crate) use retile::retile_sse;
pub(crate) use retile::{RetileTask, retile_portable};

use super::activations::ActBlock;
use super::epilogue::{Epilogue, finish_apart};
use super::task::{Acc, Input, LinearTask, MAX_TILE, UNIT};
use crate::channels::{ChannelTile, GROUP};
use crate::simd::{LINE, Simd, Work, prefetch};
use limbeck_plan::{PackFormat, QUANT_BLOCK, Values};
use std::ops::Range;

/// Rows of activations that go over a weight's tile together.
const TOGETHER: usize = 4;
/// Most rows of a tile of quantised values.
const TILE_ROWS: usize = 1024;
/// Quads of channels between those that are computed and those that are asked for.
const QUADS_AHEAD: usize = 10;

/// A part of what a linear does with a weight in which channels lie together.
pub(crate) enum ChannelTask<'a> {
    /// Of quantised values: everything.
    Blocks(BlocksTask<'a>),
    /// Of f16: sums over half of the channels, then what becomes of them.
    Half(HalfTask<'a>),
    Ends(EndsTask<'a>),
}

/// Some rows and groups of one linear whose weight is quantised.
pub(crate) struct BlocksTask<'a> {
    pub input: Input<'a>,
    /// Of the input's rows.
    pub active: Active<'a>,
    pub w: &'a [u8],
    pub format: PackFormat,
    pub k: usize,
    pub n: usize,
    /// Of the input; whole rows of products.
    pub rows: Range<usize>,
    /// Groups of the weight's rows, counted over its tiles.
    pub groups: Range<usize>,
    pub epilogue: &'a Epilogue<'a>,
}

/// How many groups a weight of `n` rows has.
pub(crate) fn group_count(format: PackFormat, n: usize) -> usize {
    let (per_tile, tiles) = shape(format, n);
    (tiles - 1) * per_tile + ChannelTile::of(format, n, 1, tiles - 1).groups()
}

/// Rows before a group.
pub(crate) fn group_start(format: PackFormat, n: usize, group: usize) -> usize {
    let (per_tile, _) = shape(format, n);
    group / per_tile * format.tile_rows(n) + group % per_tile * GROUP
}

/// Groups of a whole tile, and tiles.
fn shape(format: PackFormat, n: usize) -> (usize, usize) {
    let tile = format.tile_rows(n);
    (tile.div_ceil(GROUP), n.div_ceil(tile))
}

/// One group of one record.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// Its values in the first channel of the tile.
    pub data: *const u8,
    pub scales: *const u8,
    pub mins: *const u8,
    /// 1 to 4.
    pub lanes: usize,
}

impl Group {
    /// Asks for `bytes` of the four channels that are [`QUADS_AHEAD`] after those at `at`.
    ///
    /// # Safety
    /// `at` points into a row's list.
    #[inline(always)]
    pub unsafe fn ask(&self, at: *const u32, bytes: usize) {
        for e in 0..4 {
            // SAFETY: a row's list goes on for this many quads after its last.
            let first = unsafe { *at.add(4 * QUADS_AHEAD + e) } as usize;
            for line in (0..bytes).step_by(LINE) {
                prefetch(self.data.wrapping_add(first + line));
            }
        }
    }
}

/// The products of one block.
pub(crate) trait ChannelKernel<S: Simd>: Copy {
    /// Adds the group's products with a block to its `32 lanes` sums; asks for what comes later.
    ///
    /// # Safety
    /// The group's pointers and `sums` are good for its lanes and the channels of `quads`, which are
    /// a block's, and the token's features are there.
    unsafe fn add(self, s: S, group: &Group, block: &ActBlock, quads: Quads, sums: *mut f32);
}

/// Runs a task of blocks.
///
/// # Safety
/// The task's ranges lie within its input, weight and output, whose lengths fit its shape; `active`
/// belongs to the input; and no other thread touches the outputs of its rows and groups meanwhile.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd, C: ChannelKernel<S>>(s: S, kernel: C, task: &ChannelTask<'_>) {
    let ChannelTask::Blocks(task) = task else { return debug_assert!(false, "not of blocks") };
    for (tile, groups, rows) in tiles(task) {
        // SAFETY: the caller's contract; the groups are the tile's.
        unsafe { run_tile(s, kernel, task, &tile, groups, rows) };
    }
}

/// Each tile with the task's groups of it and rows that go over it together. Kernels loop over this:
/// a closure would be a function of its own, without their instruction set.
fn tiles(task: &BlocksTask<'_>) -> impl Iterator<Item = (ChannelTile, Range<usize>, Range<usize>)> {
    let (per_tile, count) = shape(task.format, task.n);
    let Range { start, end } = task.groups.clone();
    let (format, n, k, all) = (task.format, task.n, task.k, task.rows.clone());
    (start / per_tile..end.div_ceil(per_tile).min(count)).flat_map(move |index| {
        let tile = ChannelTile::of(format, n, k, index);
        let first = index * per_tile;
        let groups = start.max(first) - first..end.min(first + tile.groups()) - first;
        let rows = all.clone().step_by(TOGETHER);
        let last = all.end;
        rows.map(move |row| (tile, groups.clone(), row..last.min(row + TOGETHER)))
    })
}

/// The products of up to [`TOGETHER`] rows with some groups of a tile.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn run_tile<S: Simd, C: ChannelKernel<S>>(
    s: S,
    kernel: C,
    task: &BlocksTask<'_>,
    tile: &ChannelTile,
    groups: Range<usize>,
    rows: Range<usize>,
) {
    let Input::Quantised { blocks, .. } = task.input else { return };
    let per_row = task.k.div_ceil(QUANT_BLOCK);
    let mut sums = [[0.0f32; TILE_ROWS]; TOGETHER];
    let first = task.w.as_ptr().wrapping_add(tile.offset);
    for b in 0..per_row {
        let record = first.wrapping_add(b * tile.record);
        let next = record.wrapping_add(tile.record);
        for (row, sums) in rows.clone().zip(&mut sums) {
            let Some(block) = blocks.get(row * per_row + b) else { continue };
            let quads = task.active.quads(row, b, tile.is_last(task.n));
            for g in groups.clone() {
                let floats = 2 * g * GROUP;
                for part in (0..2 * GROUP).step_by(LINE) {
                    prefetch(next.wrapping_add(tile.scales() + floats + part));
                    if task.format.values == Values::Q4m {
                        prefetch(next.wrapping_add(tile.mins() + floats + part));
                    }
                }
                let group = Group {
                    data: first.wrapping_add(g * tile.group()),
                    scales: record.wrapping_add(tile.scales() + floats),
                    mins: record.wrapping_add(tile.mins() + floats),
                    lanes: tile.lanes(g),
                };
                // SAFETY: the caller's contract; a tile has at most 1024 rows.
                unsafe { kernel.add(s, &group, block, quads, sums[g * GROUP..].as_mut_ptr()) };
            }
        }
    }
    // SAFETY: the caller's contract.
    unsafe { s.apart(FinishGroups { task, tile, groups, rows, sums: &sums }) };
}

/// The epilogue of some rows' sums with some groups of a tile: one function, whatever the values are.
struct FinishGroups<'a, 'b> {
    task: &'a BlocksTask<'b>,
    tile: &'a ChannelTile,
    groups: Range<usize>,
    rows: Range<usize>,
    sums: &'a [[f32; TILE_ROWS]; TOGETHER],
}

impl<S: Simd> Work<S> for FinishGroups<'_, '_> {
    #[inline(always)]
    unsafe fn run(self, s: S) {
        // SAFETY: the caller's contract.
        unsafe { finish_groups(s, self) }
    }
}

/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn finish_groups<S: Simd>(s: S, work: FinishGroups<'_, '_>) {
    let FinishGroups { task, tile, groups, rows, sums } = work;
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
    let mut acc: [Acc; 1] = [[[0.0; UNIT]; MAX_TILE]];
    for (index, row) in rows.step_by(parts).enumerate() {
        for unit in first / UNIT..end.div_ceil(UNIT) {
            let at = unit * UNIT - tile.first_row;
            let sum = &mut acc[0][0];
            sum.copy_from_slice(&sums[index * parts][at..at + UNIT]);
            if parts == 2 {
                for (sum, rest) in sum.iter_mut().zip(&sums[index * parts + 1][at..]) {
                    *sum += rest;
                }
            }
            // SAFETY: outputs of this task's rows and groups.
            unsafe { finish_apart(s, &linear, row / parts, unit, &acc) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_the_rows_in_order() {
        let [channels, columns] = [Values::Q4, Values::F16].map(PackFormat::channels);
        let (channels, columns) = (channels.unwrap(), columns.unwrap());
        let starts = |format, n| -> Vec<usize> {
            (0..group_count(format, n)).map(|g| group_start(format, n, g)).collect()
        };
        for (n, count) in [(1, 1), (33, 2), (288, 3), (576, 6), (960, 8), (3072, 24)] {
            let starts = starts(channels, n);
            assert_eq!(starts.len(), count, "{n} rows");
            assert!(starts.is_sorted_by(|a, b| a < b) && starts[count - 1] < n);
        }
        assert_eq!(starts(channels, 576), [0, 128, 256, 288, 416, 544]);
        assert_eq!(starts(columns, 576), [0, 128, 256, 384, 512]);
        assert_eq!(starts(columns, 9728)[25..28], [3200, 3264, 3392]);
    }
}
