//! How a call's work is spread over threads.

use super::spans::{self, MAX_QUERIES, Tile};
use super::{AttendTask, AttentionArgs, Call, PrepareTask};
use crate::kv::KV_BLOCK;
use crate::pool::{Pool, SERIAL_MACS};
use crate::table::Kernels;
use std::ops::Range;

/// Elements of queries, keys and values from which their preparation is a parallel region.
const PARALLEL_PREPARE: usize = 4 * 1024;
/// Tasks for each thread, where there are heads enough.
const TASKS: usize = 4;
/// Heads for each thread from which it does not matter that threads have one more or less.
const MANY_HEADS: usize = 8;

/// How a call is cut.
#[derive(Clone, Copy)]
pub(super) enum Cut {
    /// Tasks of so many key heads of a span, which they prepare and then attend to. Keys and values are
    /// this thread's alone: `blocks` of them suffice for any span.
    Heads { heads: usize, blocks: usize },
    /// All rows are prepared before any of them attends.
    Rows,
}

impl Cut {
    /// Chooses: heads where nothing but the span's own rows is read, threads get about as much to do as
    /// one another, and it takes no more memory than rows would. `blocks` are all spans' together.
    pub fn new(args: &AttentionArgs<'_>, total: usize, blocks: usize, threads: usize) -> Cut {
        let (spans, all) = (args.spans.len(), args.params.kv_heads);
        let rows: usize = args.spans.iter().map(|span| span.rows).sum();
        let longest = args.spans.iter().map(|span| span.rows.div_ceil(KV_BLOCK)).max();
        let (Some(longest), None, true) = (longest, &args.cache, rows == total) else {
            return Cut::Rows;
        };
        let even = (spans * all).is_multiple_of(threads) || spans * all >= MANY_HEADS * threads;
        let heads = all.div_ceil((threads * TASKS).div_ceil(spans).min(all));
        let fits = threads * longest * heads <= blocks * all;
        if even && fits && spans::macs(args) >= SERIAL_MACS {
            Cut::Heads { heads, blocks: longest }
        } else {
            Cut::Rows
        }
    }
}

/// A call and what computes it.
pub(super) struct Run<'a> {
    pub kernels: &'a Kernels,
    pub pool: &'a Pool,
    pub call: Call<'a>,
}

impl Run<'_> {
    /// Each task prepares some heads of a span, then attends to them. There is local memory of `blocks`
    /// blocks for each thread.
    pub fn by_heads(&self, heads: usize, blocks: usize) {
        let all = self.call.params.kv_heads;
        let parts = all.div_ceil(heads);
        self.pool.run_numbered(self.call.spans.len() * parts, &|task, thread| {
            let span = &self.call.spans[task / parts];
            let first = task % parts * heads;
            let kv_heads = first..all.min(first + heads);
            let call = self.call.in_place(thread * blocks, first);
            let rows = span.first_row..span.first_row + span.rows;
            let task = PrepareTask { call: &call, rows: rows.clone(), kv_heads: kv_heads.clone() };
            // SAFETY: tasks have disjoint spans or heads; the thread's blocks are its alone.
            unsafe { self.kernels.prepare(&task) };
            if call.pairs {
                // SAFETY: as above.
                unsafe { self.kernels.keep_pairs(&task) };
            }
            for kv_head in kv_heads {
                self.attend_head(&call, rows.clone(), kv_head);
            }
        });
    }

    /// Attends with some rows of a span, whose keys and values this thread stored.
    fn attend_head(&self, call: &Call<'_>, rows: Range<usize>, kv_head: usize) {
        let group = call.params.heads / call.params.kv_heads;
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
                unsafe { self.kernels.attend(&AttendTask { call, tile }) };
            }
        }
    }

    /// Rows are prepared first, and attend after that. Tiles are memory to work in.
    pub fn by_rows(&self, tiles: &mut Vec<Tile>, macs: usize) {
        let Run { kernels, pool, call } = self;
        let (total, p) = (call.rows.len(), call.params);
        let few = total * (p.heads + p.kv_heads) * p.head_dim < PARALLEL_PREPARE;
        let chunk = if few { total.max(1) } else { total.div_ceil(pool.threads() * 2) };
        pool.run(total.div_ceil(chunk), &|task| {
            let rows = task * chunk..total.min((task + 1) * chunk);
            let task = PrepareTask { call, rows, kv_heads: 0..p.kv_heads };
            // SAFETY: tasks take disjoint rows; each row has its own position, which is reserved.
            unsafe { kernels.prepare(&task) };
        });
        if call.pairs {
            // Neighbours may be of two tasks above, but a pair is written as one.
            let parts = if few { 1 } else { p.kv_heads };
            pool.run(call.spans.len() * parts, &|task| {
                let (span, part) = (&call.spans[task / parts], task % parts);
                let rows = span.first_row..span.first_row + span.rows;
                let kv_heads = if few { 0..p.kv_heads } else { part..part + 1 };
                let task = PrepareTask { call, rows, kv_heads };
                // SAFETY: tasks take disjoint spans or heads.
                unsafe { kernels.keep_pairs(&task) };
            });
        }
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
