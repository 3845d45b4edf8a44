//! Products of many rows with a weight in which channels lie together: a part of it at a time is made into quads or
//! panels.

use super::channels::{RetileTask, group_count, group_start};
use super::halves::{end_halves, in_halves};
use super::task::{Input, LinearTask, UNIT};
use super::{float_products, whole_products};
use crate::channels::{ChannelTile, GROUP};
use crate::elementwise::SharedRows;
use crate::pool::Pool;
use crate::table::Kernels;
use crate::{first_of, vec_bytes};
use limbeck_plan::{CHANNEL_RUN, PackFormat, QUAD_ROWS, QUANT_BLOCK};
use std::ops::Range;

/// Bytes of rows that are made into quads or panels at a time; into panels, half of their columns at once.
const RETILED: usize = 2 << 20;

/// Memory of [`retiled_products`].
#[derive(Debug, Default)]
pub(super) struct RetiledScratch {
    /// Quads or panels.
    weight: Vec<u8>,
    /// The first half of each row's values, then the second half of each.
    input: Vec<f32>,
}

impl RetiledScratch {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        vec_bytes(&self.weight) + vec_bytes(&self.input)
    }
}

/// Runs a task whose weight is by channel, in parts.
pub(super) fn retiled_products(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut RetiledScratch,
    sums: &mut Vec<f32>,
    format: PackFormat,
    task: &LinearTask<'_>,
) {
    let RetiledScratch { weight, input } = scratch;
    let halves = match task.input {
        Input::Floats(x) => Some(in_halves(x, task.k, input)),
        Input::Quantised { .. } => None,
    };
    for part in Part::all(format, task) {
        let units = part.rows.start / UNIT..part.rows.end.min(task.n).div_ceil(UNIT);
        let first_unit = units.start;
        let rows = task.rows.clone();
        let Some(halves) = &halves else {
            let w = part.retile(kernels, pool, 0..task.k, weight);
            let part = LinearTask { w, rows, units, first_unit, ..*task };
            whole_products(kernels, pool, format.values, &part);
            continue;
        };
        let n = part.rows.len();
        let sums = first_of(sums, 2 * rows.len() * n);
        for ((columns, x), sums) in halves.iter().zip(sums.chunks_exact_mut(rows.len() * n)) {
            let w = part.retile(kernels, pool, columns.clone(), weight);
            if columns.is_empty() {
                sums.fill(0.0);
                continue;
            }
            let sizes = [rows.len(), columns.len(), n];
            float_products(kernels, Some(pool), format.values, sizes, x, w, sums);
        }
        let ends = LinearTask { rows, units, first_unit, ..*task };
        end_halves(kernels, pool, pool.threads(), format, &ends, sums, n);
    }
}

/// Some of a weight's groups, which are retiled together.
struct Part<'a> {
    task: &'a LinearTask<'a>,
    format: PackFormat,
    groups: Range<usize>,
    /// Of the weight, with those that fill up its last run.
    rows: Range<usize>,
}

impl<'a> Part<'a> {
    /// Parts whose rows take at most [`RETILED`] bytes, or of one group.
    fn all(format: PackFormat, task: &'a LinearTask<'a>) -> impl Iterator<Item = Part<'a>> {
        let groups = group_count(format, task.n);
        let mut first = 0;
        std::iter::from_fn(move || {
            if first == groups {
                return None;
            }
            let part = |end| {
                let rows = rows_of(format, task.n, first..end);
                Part { task, format, groups: first..end, rows }
            };
            let fits = |end: &usize| part(*end).rows.len() * row_bytes(format, task.k) <= RETILED;
            let end = (first + 2..=groups).take_while(fits).last().unwrap_or(first + 1);
            let part = part(end);
            first = end;
            Some(part)
        })
    }

    /// The part's rows in quads, or these columns of them in panels.
    fn retile<'m>(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        columns: Range<usize>,
        memory: &'m mut Vec<u8>,
    ) -> &'m [u8] {
        let Part { task, format, .. } = self;
        let row_bytes = row_bytes(*format, columns.len());
        let out = first_of(memory, self.rows.len() * row_bytes);
        let shared = SharedRows::new(out);
        let per_tile = format.tile_rows(task.n).div_ceil(GROUP);
        pool.run(self.groups.len(), &|i| {
            let group = self.groups.start + i;
            let tile = ChannelTile::of(*format, task.n, task.k, group / per_tile);
            let rows = rows_of(*format, task.n, group..group + 1);
            let first = (rows.start - self.rows.start) * row_bytes;
            // SAFETY: groups have rows of their own.
            let out = unsafe { shared.part(first, rows.len() * row_bytes) };
            let (group, columns) = (group % per_tile, columns.clone());
            let (w, values, tile) = (task.w, format.values, &tile);
            kernels.retile(&mut RetileTask { w, values, tile, group, columns, out });
        });
        out
    }
}

/// Rows of some groups of a weight of `n` rows, with those that fill up its last run.
fn rows_of(format: PackFormat, n: usize, groups: Range<usize>) -> Range<usize> {
    let start = |group| group_start(format, n, group).min(n.next_multiple_of(CHANNEL_RUN));
    start(groups.start)..start(groups.end)
}

/// Bytes of `columns` of a row in quads or panels.
fn row_bytes(format: PackFormat, columns: usize) -> usize {
    match format.values.quad_record_bytes() {
        Some(record) => columns.div_ceil(QUANT_BLOCK) * record / QUAD_ROWS,
        None => columns * format.values.float_bytes().unwrap_or(0),
    }
}
