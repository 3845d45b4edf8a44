//! How a call's work is spread over threads.

use super::spans::{self, MAX_QUERIES, Tile};
use super::{AttendTask, Call, PrepareTask};
use crate::pool::{Pool, SERIAL_MACS};
use crate::table::Kernels;
use std::ops::Range;

/// Elements of queries, keys and values from which their preparation is a parallel region.
const PARALLEL_PREPARE: usize = 4 * 1024;
/// Tasks for each thread, where there are heads enough.
const TASKS: usize = 4;
/// Heads for each thread from which it does not matter that threads have one more or less.
const MANY_HEADS: usize = 8;

/// The call as threads see it, and its tiles.
pub(super) struct Run<'a> {
    pub kernels: &'a Kernels,
    pub pool: &'a Pool,
    pub call: Call<'a>,
}

impl Run<'_> {
    /// Computes everything. Tiles are memory to work in.
    pub fn run(&self, tiles: &mut Vec<Tile>) {
        let macs = spans::macs(&self.call);
        match self.heads_of_a_task() {
            Some(heads) if macs >= SERIAL_MACS => self.in_one_region(heads),
            _ => self.in_two_regions(tiles, macs),
        }
    }

    /// Key heads of a task that prepares and attends to a span's rows, where nothing but the span's own
    /// rows is read, and threads get about as much to do as one another.
    fn heads_of_a_task(&self) -> Option<usize> {
        let (call, threads) = (&self.call, self.pool.threads());
        let (spans, heads) = (call.spans.len(), call.params.kv_heads);
        let rows: usize = call.spans.iter().map(|span| span.rows).sum();
        if call.cache().is_some() || rows < call.rows.len() || spans == 0 {
            return None;
        }
        let all = spans * heads;
        let even = all.is_multiple_of(threads) || all >= MANY_HEADS * threads;
        even.then(|| heads.div_ceil((threads * TASKS).div_ceil(spans).min(heads)))
    }

    /// Each task prepares some heads of a span, then attends to them.
    fn in_one_region(&self, heads: usize) {
        let (call, all) = (&self.call, self.call.params.kv_heads);
        let parts = all.div_ceil(heads);
        self.pool.run(call.spans.len() * parts, &|task| {
            let span = &call.spans[task / parts];
            let first = task % parts * heads;
            let (rows, kv_heads) =
                (span.first_row..span.first_row + span.rows, first..all.min(first + heads));
            let prepare = PrepareTask { call, rows: rows.clone(), kv_heads: kv_heads.clone() };
            // SAFETY: tasks have disjoint spans or heads, and each row a position of its own.
            unsafe { self.kernels.prepare(&prepare) };
            for kv_head in kv_heads {
                self.attend_head(rows.clone(), kv_head);
            }
        });
    }

    /// Attends with some rows of a span, whose keys and values this thread stored.
    fn attend_head(&self, rows: Range<usize>, kv_head: usize) {
        let group = self.call.params.heads / self.call.params.kv_heads;
        let heads = group.min(MAX_QUERIES);
        let most = MAX_QUERIES / heads;
        for first_row in rows.clone().step_by(most) {
            for offset in (0..group).step_by(heads) {
                let tile = Tile {
                    first_row,
                    rows: most.min(rows.end - first_row),
                    first_head: kv_head * group + offset,
                    heads: heads.min(group - offset),
                };
                // SAFETY: the rows and heads are this thread's alone.
                unsafe { self.kernels.attend(&AttendTask { call: &self.call, tile }) };
            }
        }
    }

    /// Rows are prepared first, and attend after that.
    fn in_two_regions(&self, tiles: &mut Vec<Tile>, macs: usize) {
        let Run { kernels, pool, call } = self;
        let (total, p) = (call.rows.len(), call.params);
        let chunk = if total * (p.heads + p.kv_heads) * p.head_dim < PARALLEL_PREPARE {
            total.max(1)
        } else {
            total.div_ceil(pool.threads() * 2)
        };
        pool.run(total.div_ceil(chunk), &|task| {
            let rows = task * chunk..total.min((task + 1) * chunk);
            let task = PrepareTask { call, rows, kv_heads: 0..p.kv_heads };
            // SAFETY: tasks take disjoint rows; each row has its own position, which is reserved.
            unsafe { kernels.prepare(&task) };
        });
        spans::fill_tiles(tiles, call, pool.threads());
        let tiles = &*tiles;
        let attend = |task: usize| {
            // SAFETY: tiles are disjoint in rows or heads, and the region that stored has ended.
            unsafe { kernels.attend(&AttendTask { call, tile: tiles[task] }) };
        };
        if macs < SERIAL_MACS {
            (0..tiles.len()).for_each(attend);
        } else {
            pool.run(tiles.len(), &attend);
        }
    }
}
