//! Input channels that are left out where they are small, and products with weights in which channels lie together.

use super::channels::{
    Active, ActiveBlock, ActiveRows, BlocksTask, ChannelTask, group_count, group_start,
};
use super::halves::half_products;
use super::retiled::{RetiledScratch, retiled_products};
use super::task::LinearTask;
use super::{LinearArgs, LinearScratch, run_linear};
use crate::channels::{ChannelTile, channel_bytes};
use crate::error::{Error, check_len};
use crate::pool::{Pool, SERIAL_MACS};
use crate::simd::LINE;
use crate::table::Kernels;
use crate::vec_bytes;
use limbeck_plan::{PackFormat, QUANT_BLOCK, Values};

/// Rows of activations up to which a weight by channel is read as it is.
const FEW_ROWS: usize = 4;

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

/// Memory of products with weights in which channels lie together.
#[derive(Debug, Default)]
pub(super) struct ChannelScratch {
    active: ActiveRows,
    /// Of halves, `[halves, rows, outputs]`.
    sums: Vec<f32>,
    retiled: RetiledScratch,
}

impl ChannelScratch {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.active.bytes() + vec_bytes(&self.sums) + self.retiled.bytes()
    }

    /// Makes room for calls of a few rows of `cols` values.
    pub fn reserve(&mut self, rows: usize, cols: usize) {
        self.active.reserve(rows.min(FEW_ROWS), cols);
    }
}

/// Runs a task whose weight is by channel, in parts; gives the bytes of the weight read.
pub(super) fn channel_products(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut ChannelScratch,
    format: PackFormat,
    task: &LinearTask<'_>,
) -> u64 {
    // A tile's channels are found by u32.
    if task.rows.len() > FEW_ROWS || u32::try_from(task.w.len()).is_err() {
        let ChannelScratch { sums, retiled, .. } = scratch;
        retiled_products(kernels, pool, retiled, sums, format, task);
        return task.w.len() as u64;
    }
    let (m, k, n) = (task.rows.len(), task.k, task.n);
    scratch.reserve(m, k);
    let active = scratch.active.find(kernels, format, n, task.input, k);
    let threads = if m * n * k < SERIAL_MACS { 1 } else { pool.threads() };
    match format.values {
        Values::F16 => {
            half_products(kernels, pool, threads, active, &mut scratch.sums, format, task)
        }
        _ => block_products(kernels, pool, threads, active, format, task),
    }
    bytes_read(format, n, active.blocks, m)
}

/// Products of a few rows with a quantised weight: each thread has some of its rows.
fn block_products(
    kernels: &Kernels,
    pool: &Pool,
    threads: usize,
    active: Active<'_>,
    format: PackFormat,
    task: &LinearTask<'_>,
) {
    let n = task.n;
    let groups = group_count(format, n);
    let share = |i: usize| match i {
        0 => 0,
        i if i >= threads => groups,
        i => (0..groups).find(|g| group_start(format, n, *g) * threads >= i * n).unwrap_or(groups),
    };
    pool.run(threads, &|i| {
        let groups = share(i)..share(i + 1);
        if groups.is_empty() {
            return;
        }
        let part = ChannelTask::Blocks(BlocksTask {
            input: task.input,
            active,
            w: task.w,
            format,
            k: task.k,
            n,
            rows: task.rows.clone(),
            groups,
            epilogue: task.epilogue,
        });
        // SAFETY: tasks write the disjoint outputs of their groups.
        unsafe { kernels.channel_task(format.values, &part) };
    });
}

/// The bytes of a weight of `n` rows that rows of activations with these channels read together.
fn bytes_read(format: PackFormat, n: usize, active: &[ActiveBlock], rows: usize) -> u64 {
    let values = format.values;
    let per_row = active.len() / rows.max(1);
    let tile = format.tile_rows(n);
    let tiles = n.div_ceil(tile);
    let last = ChannelTile::of(format, n, QUANT_BLOCK, tiles - 1);
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
