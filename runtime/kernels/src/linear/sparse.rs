//! Input channels that are left out where they are small, and products with weights in channels.

use super::channels::{ActiveBlock, ActiveRows, ChannelTask, RetileTask, group_count, group_start};
use super::task::{LinearTask, UNIT};
use super::{LinearArgs, LinearScratch, run_linear, whole_products};
use crate::channels::{ChannelTile, GROUP, channel_bytes};
use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::pool::{Pool, SERIAL_MACS};
use crate::simd::LINE;
use crate::table::Kernels;
use crate::vec_bytes;
use limbeck_plan::{CHANNEL_RUN, QUAD_ROWS, QUANT_BLOCK, Values, channel_tile_rows};
use std::ops::Range;

/// Rows of activations up to which a weight in channels is read as it is.
const FEW_ROWS: usize = 4;
/// Bytes of quads that a call of more rows makes at a time.
const RETILED: usize = 2 << 20;
/// Which channels of `x`, after its norm, a linear leaves out: channel `j` counts as 0 where
/// `|x[j]| weights[j] < thresholds[choice]`. NaN is kept.
#[derive(Clone, Copy, Debug)]
pub struct Sparsity<'a> {
    /// `[K]`.
    pub weights: &'a [f32],
    /// `[C]`; one that is not above 0 leaves nothing out.
    pub thresholds: &'a [f32],
    /// `[T]`, each in `0..C`.
    pub choice: &'a [i32],
}

/// What a [`sparse_linear`] kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SparsityRead {
    /// Channels that were kept, over all rows.
    pub channels: u64,
    /// Bytes of the weight that were read: whole cache lines.
    pub bytes: u64,
}

impl Sparsity<'_> {
    pub(crate) fn check(&self, rows: usize, cols: usize) -> Result<(), Error> {
        check_len("the channels' weights", self.weights.len(), cols)?;
        check_len("the choice", self.choice.len(), rows)?;
        match self.choice.iter().find(|k| self.threshold(**k).is_none()) {
            None => Ok(()),
            Some(k) => Err(Error::range(format!("there is no threshold {k}"))),
        }
    }

    fn threshold(&self, choice: i32) -> Option<f32> {
        self.thresholds.get(usize::try_from(choice).ok()?).copied()
    }

    /// Zeroes what row `row` leaves out; gives the number of channels kept.
    pub(crate) fn apply(&self, kernels: &Kernels, row: usize, x: &mut [f32]) -> usize {
        let threshold = self.choice.get(row).and_then(|k| self.threshold(*k)).unwrap_or(0.0);
        if threshold > 0.0 { kernels.keep_row(self.weights, threshold, x) } else { x.len() }
    }
}

/// Zeroes the values with `|x| weight < threshold`; gives the number of the others.
#[inline(always)]
pub(crate) fn keep_row<S>(_: S, weights: &[f32], threshold: f32, x: &mut [f32]) -> usize {
    let mut dropped = 0u32;
    for (x, weight) in x.iter_mut().zip(weights) {
        let drop = x.abs() * weight < threshold;
        dropped += u32::from(drop);
        *x = if drop { 0.0 } else { *x };
    }
    x.len() - dropped as usize
}

/// [`linear`](super::linear) of the channels that `sparsity` keeps. The bits are those of `linear`
/// for an `x` with zeros in the others' place.
///
/// # Errors
/// As there; `Range` for a choice that has no threshold.
pub fn sparse_linear(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut LinearScratch,
    args: LinearArgs<'_>,
    sparsity: &Sparsity<'_>,
) -> Result<SparsityRead, Error> {
    run_linear(kernels, pool, scratch, args, Some(sparsity))
}

/// Memory of products with weights in channels.
#[derive(Debug, Default)]
pub(super) struct ChannelScratch {
    active: ActiveRows,
    quads: Vec<u8>,
}

impl ChannelScratch {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.active.bytes() + vec_bytes(&self.quads)
    }

    /// Makes room for calls of a few rows of `cols` values.
    pub fn reserve(&mut self, rows: usize, cols: usize) {
        self.active.reserve(rows.min(FEW_ROWS), cols);
    }
}

/// Runs a task whose weight is in channels, in parts; gives the bytes of the weight read.
pub(super) fn channel_products(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut ChannelScratch,
    values: Values,
    task: &LinearTask<'_>,
) -> u64 {
    // A tile's channels are found by u32.
    if task.rows.len() > FEW_ROWS || u32::try_from(task.w.len()).is_err() {
        retiled_products(kernels, pool, &mut scratch.quads, values, task);
        return task.w.len() as u64;
    }
    let (m, k, n) = (task.rows.len(), task.k, task.n);
    scratch.reserve(m, k);
    let active = scratch.active.find(kernels, values, n, task.input, k);
    let threads = if m * n * k < SERIAL_MACS { 1 } else { pool.threads() };
    let groups = group_count(values, n);
    let share = |i: usize| match i {
        0 => 0,
        i if i >= threads => groups,
        i => (0..groups).find(|g| group_start(n, *g) * threads >= i * n).unwrap_or(groups),
    };
    pool.run(threads, &|i| {
        let groups = share(i)..share(i + 1);
        if groups.is_empty() {
            return;
        }
        let part = ChannelTask {
            input: task.input,
            active,
            w: task.w,
            values,
            k,
            n,
            rows: task.rows.clone(),
            groups,
            epilogue: task.epilogue,
        };
        // SAFETY: tasks write the disjoint outputs of their groups.
        unsafe { kernels.channel_task(values, &part) };
    });
    bytes_read(values, n, active.blocks, m)
}

/// The bytes of a weight of `n` rows that rows of activations with these channels read together.
fn bytes_read(values: Values, n: usize, active: &[ActiveBlock], rows: usize) -> u64 {
    let per_row = active.len() / rows.max(1);
    let tile = channel_tile_rows(n);
    let tiles = n.div_ceil(tile);
    let last = ChannelTile::of(values, n, QUANT_BLOCK, tiles - 1);
    let whole = ChannelLines::new(channel_bytes(values, tile));
    let same = last.width == tile;
    let last_lines = if same { whole } else { ChannelLines::new(last.channel()) };
    let mut lines = 0;
    for b in 0..per_row {
        let blocks = active[b..].iter().step_by(per_row.max(1));
        let mask = blocks.fold(0, |mask, block| mask | block.mask);
        lines += (tiles - 1) as u64 * whole.of(mask) + last_lines.of(mask);
    }
    let padded = (tiles - 1) * tile + last.width;
    let all = values.channel_row_bytes().unwrap_or(0) * padded;
    let rest = all - QUANT_BLOCK * channel_bytes(values, padded);
    lines * LINE as u64 + (per_row * rest) as u64
}

/// The cache lines of a block's channels of some bytes each.
#[derive(Clone, Copy)]
struct ChannelLines {
    /// Of each channel at least, and the channels that touch one more.
    least: u64,
    more: u32,
    /// Channels whose last line is the next one's first.
    shared: u32,
    /// Of all channels.
    all: u64,
}

impl ChannelLines {
    fn new(bytes: usize) -> ChannelLines {
        if bytes.is_multiple_of(LINE) {
            let least = (bytes / LINE) as u64;
            return ChannelLines { least, more: 0, shared: 0, all: QUANT_BLOCK as u64 * least };
        }
        let touched = |c: usize| ((c + 1) * bytes).div_ceil(LINE) - c * bytes / LINE;
        let least = (0..QUANT_BLOCK).map(touched).min().unwrap_or(0);
        let bits = |of: &dyn Fn(usize) -> bool| {
            (0..QUANT_BLOCK).filter(|c| of(*c)).fold(0, |bits, c| bits | 1 << c)
        };
        ChannelLines {
            least: least as u64,
            all: (QUANT_BLOCK * bytes).div_ceil(LINE) as u64,
            more: bits(&|c| touched(c) > least),
            shared: bits(&|c| c + 1 < QUANT_BLOCK && !((c + 1) * bytes).is_multiple_of(LINE)),
        }
    }

    /// Channels of less than a line may share one among more than two: then it is an upper bound.
    fn of(&self, mask: u32) -> u64 {
        let count = |mask: u32| u64::from(mask.count_ones());
        let touched = self.least * count(mask) + count(mask & self.more);
        (touched - count(mask & (mask >> 1) & self.shared)).min(self.all)
    }
}

/// Makes quads of some of the weight at a time and multiplies with them.
fn retiled_products(
    kernels: &Kernels,
    pool: &Pool,
    quads: &mut Vec<u8>,
    values: Values,
    task: &LinearTask<'_>,
) {
    let (n, k) = (task.n, task.k);
    let row_bytes = match values.quad_record_bytes() {
        Some(record) => k.div_ceil(QUANT_BLOCK) * record / QUAD_ROWS,
        None => k * values.float_bytes().unwrap_or(0),
    };
    let groups = group_count(values, n);
    let per_tile = channel_tile_rows(n).div_ceil(GROUP);
    let end_of = |group: usize| match group + 1 == groups {
        true => n.next_multiple_of(CHANNEL_RUN),
        false => group_start(n, group + 1),
    };
    let mut first = 0;
    while first < groups {
        let start = group_start(n, first);
        let fits = |g: &usize| (end_of(*g) - start) * row_bytes <= RETILED;
        let end = (first + 1..groups).take_while(fits).last().unwrap_or(first) + 1;
        let len = (end_of(end - 1) - start) * row_bytes;
        if quads.len() < len {
            quads.resize(len, 0);
        }
        let out = SharedRows::new(&mut quads[..len]);
        pool.run(end - first, &|i| {
            let group = first + i;
            let tile = ChannelTile::of(values, n, k, group / per_tile);
            let rows: Range<usize> = group_start(n, group)..end_of(group);
            // SAFETY: groups have rows of their own.
            let out = unsafe { out.part((rows.start - start) * row_bytes, rows.len() * row_bytes) };
            let group = group % per_tile;
            kernels.retile(&mut RetileTask { w: task.w, values, tile: &tile, group, out });
        });
        let part = LinearTask {
            w: &quads[..len],
            units: start / UNIT..end_of(end - 1).min(n).div_ceil(UNIT),
            first_unit: start / UNIT,
            rows: task.rows.clone(),
            ..*task
        };
        whole_products(kernels, pool, values, &part);
        first = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_match_a_count_of_each() {
        for bytes in [64, 96, 128, 144, 240, 256] {
            let lines = ChannelLines::new(bytes);
            for mask in [0u32, 1, 0x8000_0001, 0x1234_5678, 0xffff_ffff, 0x0ff0_0f0f] {
                let mut touched = std::collections::BTreeSet::new();
                for c in (0..32usize).filter(|c| mask >> c & 1 == 1) {
                    touched.extend(c * bytes / LINE..((c + 1) * bytes).div_ceil(LINE));
                }
                assert_eq!(lines.of(mask), touched.len() as u64, "{bytes} {mask:x}");
            }
        }
    }
}
