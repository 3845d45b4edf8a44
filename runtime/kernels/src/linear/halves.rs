//! Products with weights in f16 in which channels lie together: sums over either half of the channels, and what
//! becomes of both.

use super::channels::{Active, ChannelTask, EndsTask, HalfTask, second_half};
use super::task::{LinearTask, UNIT};
use crate::elementwise::SharedRows;
use crate::first_of;
use crate::pool::Pool;
use crate::table::Kernels;
use limbeck_plan::{CHANNEL_RUN, PackFormat, QUANT_BLOCK};
use std::ops::Range;

/// Products of a few rows with a weight in f16: each thread has half of the channels, or a part of the outputs of
/// a half.
pub(super) fn half_products(
    kernels: &Kernels,
    pool: &Pool,
    threads: usize,
    active: Active<'_>,
    sums: &mut Vec<f32>,
    format: PackFormat,
    task: &LinearTask<'_>,
) {
    let (m, runs) = (task.rows.len(), task.n.div_ceil(CHANNEL_RUN));
    let stride = runs * CHANNEL_RUN;
    let parts = if threads.is_multiple_of(2) { threads / 2 } else { threads };
    let outputs = |part: usize| runs * part / parts * CHANNEL_RUN;
    let shared = SharedRows::new(first_of(sums, 2 * m * stride));
    run_on(pool, threads, 2 * parts, &|i| {
        let task = ChannelTask::Half(HalfTask {
            active,
            w: task.w,
            format,
            k: task.k,
            n: task.n,
            rows: m,
            half: i % 2,
            outputs: outputs(i / 2)..outputs(i / 2 + 1),
            sums: &shared,
        });
        // SAFETY: the input has these rows, the weight these outputs, and tasks have sums of their own.
        unsafe { kernels.channel_task(format.values, &task) };
    });
    let sums = &sums[..2 * m * stride];
    let units = 0..task.n.div_ceil(UNIT);
    let whole = LinearTask { rows: task.rows.clone(), units, ..*task };
    end_halves(kernels, pool, threads, format, &whole, sums, stride);
}

/// Runs tasks on the pool where there are to be several threads.
fn run_on(pool: &Pool, threads: usize, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    if threads == 1 { (0..tasks).for_each(task) } else { pool.run(tasks, task) }
}

/// What becomes of the sums of halves.
pub(super) fn end_halves(
    kernels: &Kernels,
    pool: &Pool,
    threads: usize,
    format: PackFormat,
    task: &LinearTask<'_>,
    sums: &[f32],
    stride: usize,
) {
    let Range { start, end } = task.units.clone();
    let unit = |i: usize| start + (end - start) * i / threads;
    run_on(pool, threads, threads, &|i| {
        let linear = LinearTask { rows: task.rows.clone(), units: unit(i)..unit(i + 1), ..*task };
        let task = ChannelTask::Ends(EndsTask { linear, sums, stride });
        // SAFETY: tasks write the disjoint outputs of their units.
        unsafe { kernels.channel_task(format.values, &task) };
    });
}

/// The columns of either half of rows of `k` values, and the rows of these alone, which go to `memory`.
pub(super) fn in_halves<'a>(
    x: &[f32],
    k: usize,
    memory: &'a mut Vec<f32>,
) -> [(Range<usize>, &'a [f32]); 2] {
    let middle = (second_half(k.div_ceil(QUANT_BLOCK)) * QUANT_BLOCK).min(k);
    let (first, second) = first_of(memory, x.len()).split_at_mut(x.len() / k * middle);
    for (i, row) in x.chunks_exact(k).enumerate() {
        let (low, high) = row.split_at(middle);
        first[i * middle..][..middle].copy_from_slice(low);
        second[i * (k - middle)..][..k - middle].copy_from_slice(high);
    }
    [(0..middle, first), (middle..k, second)]
}
