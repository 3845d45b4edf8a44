//! The linear op: a matrix product with a packed weight, an optional norm or factors before it and a fused
//! epilogue after it.
//!
//! Outputs are computed in units of 16 rows of the weight (one panel, or two tiles of quads). A
//! task takes a range of units and a range of rows of `x`; which ones has no influence on bits.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod channels;
mod epilogue;
mod halves;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panels;
mod portable;
mod prologue;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod quads;
mod retiled;
mod sparse;
mod task;

pub(crate) use activations::{ActBlock, QuantActs, quantise_row};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512Panels, Avx512Quads};
#[cfg(target_arch = "x86_64")]
pub(crate) use channels::{
    Avx2Channels, Avx512Channels, find_active_avx2, find_active_avx512, retile_sse,
};
pub(crate) use channels::{
    ChannelTask, FindTask, PortableChannels, RetileTask, find_active, retile_portable,
    run as run_channels, run_floats as run_float_channels,
};
#[cfg(target_arch = "aarch64")]
pub(crate) use channels::{NeonChannels, retile_neon};
pub(crate) use epilogue::Epilogue;
pub(crate) use panels::Panels;
pub(crate) use portable::{PortableQuads, Q4, Q4M, Q8, Q8W};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use quads::Quads;
pub(crate) use sparse::keep_row;
pub use sparse::{Sparsity, SparsityRead, sparse_linear};
pub(crate) use task::{Input, LinearTask, UNIT, run};

use crate::elementwise::SharedRows;
use crate::error::{Error, ErrorKind, check_len};
use crate::norm::NormArgs;
use crate::packed::Packed;
use crate::pool::{Pool, SERIAL_MACS};
use crate::table::Kernels;
use crate::vec_bytes;
use limbeck_plan::{Activation, Layout, Values, WIDE_BLOCK};
use prologue::Prologue;
use sparse::{ChannelScratch, channel_products};
use std::ops::Range;

/// Rows up to which each thread gets one contiguous run of units.
const FEW_ROWS: usize = 8;
/// Parts of the units per thread where rows use different parts of the weight.
const MIXED_PARTS: usize = 2;
/// Rows for each thread from which each gets rows of its own.
const OWN_ROWS: usize = 32;
/// The most tasks of a thread.
const TASKS: usize = 8;
/// Multiply-adds of a task, where a thread gets more than one.
const TASK_MACS: usize = 8 * 1024 * 1024;
/// Bytes of `x` that one task goes through for each unit of the weight.
const ROW_BLOCK_BYTES: usize = 384 * 1024;

/// The operands of [`linear`]: `y = act((norm(x) * factors) w^T + bias) + residual`.
#[derive(Debug)]
pub struct LinearArgs<'a> {
    /// `[T, K]`, `K` being the weight's columns.
    pub x: &'a [f32],
    /// Applied to each row of `x` first, with the bits of [`crate::norm`].
    pub norm: Option<NormArgs<'a>>,
    /// `[K]`: each row is multiplied by them after the norm.
    pub factors: Option<&'a [f32]>,
    /// `[N, K]` in any layout but rows.
    pub w: Packed<'a>,
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// Applied before the residual is added; to the gate when `gated`.
    pub activation: Activation,
    /// The weight's rows alternate 8 gate, 8 up; `y = act(gate) * up`. `N` is a multiple of 16.
    pub gated: bool,
    /// `[T, N']`.
    pub residual: Option<&'a [f32]>,
    /// Activations meet a quantised weight in two 8-bit parts, the second for what the first
    /// leaves over.
    pub precise: bool,
    /// `[T, N']`, `N' = N / 2` when `gated`, else `N`.
    pub out: &'a mut [f32],
}

impl LinearArgs<'_> {
    /// Checks every shape; returns `(T, N')`.
    pub(crate) fn check(&self) -> Result<(usize, usize), Error> {
        let (m, n_out) = self.check_operands()?;
        check_len("the linear's result", self.out.len(), m.saturating_mul(n_out))?;
        Ok((m, n_out))
    }

    /// Checks everything but the rows of the result; returns the rows of `x` and `N'`.
    pub(crate) fn check_operands(&self) -> Result<(usize, usize), Error> {
        let (n, k) = (self.w.rows(), self.w.cols());
        if self.w.format().layout == Layout::Row {
            return Err(Error::new(
                ErrorKind::Format,
                format!("a linear cannot read a weight in {}", self.w.format()),
            ));
        }
        if !self.x.len().is_multiple_of(k) {
            return Err(Error::shape(format!("{} values are not rows of {k}", self.x.len())));
        }
        if self.gated && !n.is_multiple_of(UNIT) {
            return Err(Error::shape(format!("a gated weight has {n} rows, not a multiple of 16")));
        }
        let m = self.x.len() / k;
        let n_out = if self.gated { n / 2 } else { n };
        if let Some(norm) = &self.norm {
            norm.check(k)?;
        }
        if let Some(factors) = self.factors {
            check_len("the factors", factors.len(), k)?;
        }
        if let Some(bias) = self.bias {
            check_len("the bias", bias.len(), n)?;
        }
        if let Some(residual) = self.residual {
            check_len("the residual", residual.len(), self.out.len())?;
        }
        Ok((m, n_out))
    }
}

/// Memory that [`linear`] works in; grows to the largest call and is then reused.
#[derive(Debug, Default)]
pub struct LinearScratch {
    normed: Vec<f32>,
    acts: QuantActs,
    channels: ChannelScratch,
}

impl LinearScratch {
    /// Makes room for calls of up to `rows` rows of `cols` values, or half as many precise ones,
    /// so that they do not allocate; but for sums of weights in f16 by channel, whose memory grows to the largest.
    pub fn reserve(&mut self, rows: usize, cols: usize) {
        let len = rows.saturating_mul(cols);
        if self.normed.len() < len {
            self.normed.resize(len, 0.0);
        }
        self.reserve_acts(rows, cols);
        self.channels.reserve(rows, cols);
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        vec_bytes(&self.normed) + self.acts.bytes() + self.channels.bytes()
    }

    /// [`LinearScratch::reserve`] for calls without a norm.
    pub(crate) fn reserve_acts(&mut self, rows: usize, cols: usize) {
        self.acts.reserve(rows, cols.next_multiple_of(WIDE_BLOCK));
    }

    /// What products take of the rows `from` (all when `None`) of `args.x`.
    pub(crate) fn input<'s, 'b: 's>(
        &'s mut self,
        kernels: &Kernels,
        pool: &Pool,
        args: &LinearArgs<'b>,
        from: Option<&[usize]>,
    ) -> Input<'s> {
        let rows = from.map_or(args.x.len() / args.w.cols(), <[usize]>::len);
        let prologue = Prologue { kernels, pool, args, sparsity: None, rows, from, parts: 1 };
        prologue.run(&mut self.normed, &mut self.acts).0
    }
}

/// Computes `out`; see [`LinearArgs`].
///
/// A quantised weight is multiplied with the activations quantised per row and block of columns to
/// 8 bits (scale = largest magnitude / 127): the dot product of a block is exact in integers,
/// then scaled and added in f32, block after block. With `precise` that is done for both parts,
/// and the two sums are added.
///
/// # Errors
/// `Shape` when the operands do not fit each other, `Format` for a weight in row layout.
pub fn linear(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut LinearScratch,
    args: LinearArgs<'_>,
) -> Result<(), Error> {
    run_linear(kernels, pool, scratch, args, None)?;
    Ok(())
}

/// [`linear`], or [`sparse_linear`] where there is sparsity; gives the channels kept.
fn run_linear(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut LinearScratch,
    args: LinearArgs<'_>,
    sparsity: Option<&Sparsity<'_>>,
) -> Result<SparsityRead, Error> {
    let (m, n_out) = args.check()?;
    let (n, k) = (args.w.rows(), args.w.cols());
    let values = args.w.format().values;
    if let Some(sparsity) = sparsity {
        sparsity.check(m, k)?;
    }
    let mut read = SparsityRead { channels: (m * k) as u64, bytes: args.w.bytes().len() as u64 };
    if m == 0 {
        return Ok(read);
    }
    let parts = if args.precise && values.is_quantised() { 2 } else { 1 };
    let LinearScratch { normed, acts, channels } = scratch;
    let prologue = Prologue { kernels, pool, args: &args, sparsity, rows: m, from: None, parts };
    let (input, kept) = prologue.run(normed, acts);
    if sparsity.is_some() {
        read.channels = kept;
    }
    let out = SharedRows::new(args.out);
    let epilogue = Epilogue {
        parts,
        bias: args.bias,
        activation: args.activation,
        gated: args.gated,
        residual: args.residual,
        residual_first: false,
        n_out,
        to: None,
        out: &out,
    };
    let task = LinearTask {
        input,
        w: args.w.bytes(),
        k,
        stored: args.w.stored_cols(),
        n,
        rows: 0..m * parts,
        units: 0..n.div_ceil(UNIT),
        first_unit: 0,
        epilogue: &epilogue,
    };
    if args.w.format().by_channel() {
        read.bytes = channel_products(kernels, pool, channels, args.w.format(), &task);
    } else {
        whole_products(kernels, pool, values, &task);
    }
    Ok(read)
}

/// Runs a task whose weight is in panels or quads, in parts.
pub(crate) fn whole_products(
    kernels: &Kernels,
    pool: &Pool,
    values: Values,
    whole: &LinearTask<'_>,
) {
    // SAFETY: parts write the disjoint outputs of their units and rows.
    unsafe {
        products(kernels, pool, values, Size::of(whole), &|rows, units, compute| {
            compute(&LinearTask { rows, units, ..*whole });
        });
    }
}

/// `out = x w'`: `x` is `[m, k]`, `panels` are those of an `[n, k]` weight in floats, `out` is `[m, n]`. Without a
/// pool it is this thread's work.
pub(crate) fn float_products(
    kernels: &Kernels,
    pool: Option<&Pool>,
    values: Values,
    [m, k, n]: [usize; 3],
    x: &[f32],
    panels: &[u8],
    out: &mut [f32],
) {
    let out = SharedRows::new(&mut out[..m * n]);
    let epilogue = Epilogue::plain(n, &out);
    let task = LinearTask {
        input: Input::Floats(&x[..m * k]),
        w: &panels[..n.next_multiple_of(UNIT) * k * values.float_bytes().unwrap_or(0)],
        k,
        stored: k,
        n,
        rows: 0..m,
        units: 0..n.div_ceil(UNIT),
        first_unit: 0,
        epilogue: &epilogue,
    };
    match pool {
        Some(pool) => whole_products(kernels, pool, values, &task),
        // SAFETY: the slices hold all rows and units, and `out` their products.
        None => unsafe { kernels.linear_task(values, &task) },
    }
}

/// See [`Size::shares`].
pub(crate) type Shares<'a> = dyn Fn(usize, usize) -> usize + Sync + 'a;

/// What is to be cut into parts.
pub(crate) struct Size<'a> {
    pub rows: usize,
    pub units: Range<usize>,
    /// Columns of a row.
    pub k: usize,
    /// Multiply-adds of everything.
    pub macs: usize,
    pub quantised: bool,
    /// Where rows use different parts of the weight: the unit that the `i`-th of `n` parts of equal
    /// work begins with.
    pub shares: Option<&'a Shares<'a>>,
}

impl Size<'_> {
    /// All rows and units of a task.
    pub fn of(task: &LinearTask<'_>) -> Self {
        let (rows, units) = (task.rows.len(), task.units.clone());
        let macs = rows * (units.len() * UNIT) * task.k;
        let quantised = matches!(task.input, Input::Quantised { .. });
        Size { rows, units, k: task.k, macs, quantised, shares: None }
    }

    /// Units and rows per part.
    fn chunks(&self, threads: usize) -> (usize, usize) {
        let (m, units) = (self.rows, self.units.len());
        // Threads that meet in one place for each little task lose more than uneven ones wait.
        let tasks = (self.macs / (threads * TASK_MACS)).clamp(1, TASKS);
        if self.shares.is_some() {
            // All rows: parts of them would not be of equal work. Each part begins with a weight that no
            // cache has: they are few.
            let parts = if threads == 1 { 1 } else { threads * tasks.min(MIXED_PARTS) };
            return (units.div_ceil(parts).next_multiple_of(2), m);
        }
        if m <= FEW_ROWS {
            return (units.div_ceil(threads), m);
        }
        let row_tasks = row_blocks(m, self.k, self.quantised);
        // Where there are few units, rows are what threads share.
        let row_tasks = row_tasks.max(threads.div_ceil(units)).min(m);
        // Each thread has rows of its own where there are enough: what it wrote it reads again.
        let own = row_tasks > 1 || m >= OWN_ROWS * threads;
        let row_tasks = if own { row_tasks.next_multiple_of(threads) } else { row_tasks };
        let rows = m.div_ceil(row_tasks).next_multiple_of(2);
        if threads == 1 {
            return (units, rows);
        }
        let unit_tasks = (threads * tasks).div_ceil(row_tasks).min(units);
        // Kernels take units in pairs.
        (units.div_ceil(unit_tasks).next_multiple_of(2), rows)
    }
}

/// Blocks of `rows` rows of `k` values, each of which goes through the whole weight: of nearly the same size, up
/// to half as large again as [`ROW_BLOCK_BYTES`].
pub(crate) fn row_blocks(rows: usize, k: usize, quantised: bool) -> usize {
    let row_bytes = if quantised { k * 2 } else { k * 4 };
    let block = (ROW_BLOCK_BYTES / row_bytes).next_multiple_of(12).max(12);
    ((rows + block / 2) / block).max(1)
}

/// The tasks of a part: called with its rows and units, and with what computes a task.
pub(crate) type Tasks<'a> =
    dyn Fn(Range<usize>, Range<usize>, &mut dyn FnMut(&LinearTask<'_>)) + Sync + 'a;

/// Computes products with a weight in panels or quads in parts.
///
/// # Safety
/// The tasks lie within their inputs, weights and outputs, and no two write the same outputs.
pub(crate) unsafe fn products(
    kernels: &Kernels,
    pool: &Pool,
    values: Values,
    size: Size<'_>,
    tasks: &Tasks<'_>,
) {
    let (m, units) = (size.rows, size.units.len());
    if m == 0 || units == 0 {
        return;
    }
    let threads = if size.macs < SERIAL_MACS { 1 } else { pool.threads() };
    let (unit_chunk, row_chunk) = size.chunks(threads);
    let (unit_tasks, row_tasks) = (units.div_ceil(unit_chunk), m.div_ceil(row_chunk));
    pool.run(unit_tasks * row_tasks, &|index| {
        let first_unit = |part: usize| match size.shares {
            Some(shares) => shares(part, unit_tasks),
            None => size.units.end.min(size.units.start + part * unit_chunk),
        };
        let part = index % unit_tasks;
        let units = first_unit(part)..first_unit(part + 1);
        let first_row = index / unit_tasks * row_chunk;
        let rows = first_row..m.min(first_row + row_chunk);
        tasks(rows, units, &mut |task| {
            // SAFETY: the caller's contract.
            unsafe { kernels.linear_task(values, task) };
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_unequal_work_are_not_cut() {
        let shares = |_: usize, _: usize| 0usize;
        for (rows, threads) in [(2, 1), (2, 2), (128, 1), (128, 2), (2048, 4)] {
            let macs = rows * 192 * UNIT * 768;
            let of = |shares| Size { rows, units: 0..192, k: 768, macs, quantised: false, shares };
            assert_eq!(of(Some(&shares as &Shares<'_>)).chunks(threads).1, rows);
            assert!(of(None).chunks(threads).1 < rows || rows < 128 || threads == 1);
        }
    }
}
