//! Attention of a few rows and heads over the stored keys and values of one sequence, some blocks of
//! them at a time.

use super::Call;
use super::spans::{MAX_QUERIES, Row, Tile};
use super::steps::{Blocks, GROUP, Queries, SHARE, Softmax, Steps, VECTORS, load_wide, prefetch};
use crate::kv::{KV_BLOCK, KvType};
use crate::simd::{LANES, Lanes, Simd, WIDE};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Elements of the heads of a group up to which blocks may be converted to f32 as a whole.
const WIDE_HEAD: usize = 256;
/// Elements of the heads of a group, where that is more than one: keys and values that many queries
/// meet stay in the first cache.
const GROUP_WIDTH: usize = 128;

/// One tile of a call.
pub(crate) struct AttendTask<'a> {
    pub call: &'a Call<'a>,
    pub tile: Tile,
}

/// Computes the tile's results.
///
/// # Safety
/// The tile's rows and heads are this thread's alone in the call's result, and keys and values
/// are not written meanwhile.
#[inline(always)]
pub(crate) unsafe fn attend_task<S: Simd>(s: S, task: &AttendTask<'_>) {
    // SAFETY: the caller's contract.
    unsafe {
        match task.call.layout.kind {
            KvType::F32 => attend::<S, 0>(s, task.call, &task.tile),
            KvType::F16 => attend::<S, 1>(s, task.call, &task.tile),
            KvType::Q8 => attend::<S, 2>(s, task.call, &task.tile),
        }
    }
}

/// Blocks that a query takes at once, as the size of its heads says and nothing else: its bits follow.
pub(super) fn group_of(call: &Call<'_>) -> usize {
    (GROUP_WIDTH / call.layout.value_stride()).clamp(1, GROUP)
}

/// Positions that a row of the call sees.
fn visible(call: &Call<'_>, row: usize) -> Range<usize> {
    let Row { span, index, .. } = call.rows[row];
    let (keys, before) = call.keys(span);
    if !call.params.causal {
        return 0..keys;
    }
    let end = before + index + 1;
    let window = call.params.window.unwrap_or(usize::MAX);
    end.saturating_sub(window)..end
}

/// What each row of a tile sees: the first position, and the one after the last.
struct Seen {
    first_row: usize,
    /// Blocks of a group, and its positions.
    blocks: usize,
    size: usize,
    rows: [(usize, usize); MAX_QUERIES],
    /// All rows are of one span and see the same.
    alike: bool,
}

impl Seen {
    fn new(call: &Call<'_>, tile: &Tile) -> Self {
        let blocks = group_of(call);
        let (size, rows) = (blocks * KV_BLOCK, [(0, 0); MAX_QUERIES]);
        let mut seen = Seen { first_row: tile.first_row, blocks, size, rows, alike: false };
        if !call.params.causal && call.cache().is_none() {
            // Tiles of such calls are of one span.
            let Range { start, end } = visible(call, tile.first_row);
            seen.rows[..tile.rows].fill((start, end));
            seen.alike = true;
            return seen;
        }
        for (i, row) in seen.rows.iter_mut().enumerate().take(tile.rows) {
            let Range { start, end } = visible(call, tile.first_row + i);
            *row = (start, end);
        }
        seen
    }

    /// Whether a row sees any key.
    fn any(&self, row: usize) -> bool {
        let (start, end) = self.rows[row - self.first_row];
        start < end
    }

    /// The part of a group that a row sees.
    fn part(&self, row: usize, group: usize) -> Range<usize> {
        let ((start, end), first) = (self.rows[row - self.first_row], group * self.size);
        let low = start.max(first) - first;
        let high = end.min(first + self.size).saturating_sub(first);
        low.min(self.size)..high
    }

    /// The blocks of a group that a row sees any of.
    fn blocks(&self, row: usize, group: usize) -> Range<usize> {
        let part = self.part(row, group);
        let first = group * self.blocks;
        first + part.start / KV_BLOCK..first + part.end.div_ceil(KV_BLOCK)
    }
}

/// Memory for the blocks of a group in f32, each one's keys before its values.
type Wide = MaybeUninit<[f32; 2 * KV_BLOCK * WIDE_HEAD]>;

/// # Safety
/// As [`attend_task`]; `KIND` is the layout's type.
#[inline(always)]
unsafe fn attend<S: Simd, const KIND: u8>(s: S, call: &Call<'_>, tile: &Tile) {
    let mut softmax = Softmax::new();
    // SAFETY: the caller's contract.
    let mut queries = unsafe { Queries::new(call, tile) };
    let mut wide = Wide::uninit();
    let mut walk = Walk::new(call, tile);
    // Where all rows begin together their first part is all that there is, not added to anything.
    queries.fresh = walk.seen.alike && walk.next.is_some();
    if !queries.fresh {
        for q in 0..queries.count() {
            let out = queries.result(q);
            for at in (0..out.len()).step_by(LANES) {
                s.store_some(out, at, s.splat(0.0));
            }
        }
    }
    while let Some((part, mut blocks)) = walk.next() {
        let seen = &walk.seen;
        // SAFETY: the rows are the tile's and see the group, whose heads these are.
        unsafe {
            let wide = &mut wide;
            attend_group::<S, KIND>(s, &queries, seen, &mut softmax, wide, part, &mut blocks);
        }
        queries.fresh = false;
    }
    for q in 0..queries.count() {
        // Weights that are all 0, of scores of -inf, are not a distribution: the result is NaN.
        let sees = walk.seen.any(tile.first_row + q / tile.heads);
        let inverse = s.splat(if sees { 1.0 / softmax.total(s, q) } else { 0.0 });
        let out = queries.result(q);
        for at in (0..out.len()).step_by(LANES) {
            s.store_some(out, at, s.mul(s.load_some(out, at), inverse));
        }
    }
}

/// A group of blocks and neighbouring rows that see it, for all of which it is the same memory.
struct Part {
    group: usize,
    rows: Range<usize>,
    /// The blocks of the group that some of the rows see.
    blocks: Range<usize>,
}

/// The parts of a tile, one after the other. Nothing here depends on an instruction set.
struct Walk<'a> {
    call: &'a Call<'a>,
    tile: &'a Tile,
    seen: Seen,
    rows: Range<usize>,
    /// The group after the last that a row sees.
    end: usize,
    /// Group and first row of the next part.
    next: Option<(usize, usize)>,
}

impl<'a> Walk<'a> {
    #[inline(never)]
    fn new(call: &'a Call<'a>, tile: &'a Tile) -> Self {
        let rows = tile.first_row..tile.first_row + tile.rows;
        let seen = Seen::new(call, tile);
        let start = seen.rows[..tile.rows].iter().map(|row| row.0).min().unwrap_or(0);
        let end = seen.rows[..tile.rows].iter().map(|row| row.1).max().unwrap_or(0);
        let (start, end) = (start / seen.size, end.div_ceil(seen.size));
        let mut walk = Walk { call, tile, seen, rows, end, next: None };
        walk.next = walk.from(start, walk.rows.start);
        walk
    }

    /// The first group and row, from `row` of `group` on, of which the row sees the group.
    fn from(&self, group: usize, row: usize) -> Option<(usize, usize)> {
        (group..self.end).find_map(|g| {
            let from = if g == group { row } else { self.rows.start };
            (from..self.rows.end).find(|row| self.sees(*row, g)).map(|row| (g, row))
        })
    }

    fn sees(&self, row: usize, group: usize) -> bool {
        !self.seen.part(row, group).is_empty()
    }

    /// The next part, and the heads of its blocks.
    #[inline(never)]
    fn next(&mut self) -> Option<(Part, Blocks<'a>)> {
        let (group, row) = self.next?;
        let (call, seen) = (self.call, &self.seen);
        // Rows of one span, or of sequences that share the blocks.
        let (span, blocks) = (call.rows[row].span, seen.blocks(row, group));
        let like = |other: &usize| {
            let there = call.rows[*other].span;
            let shares = || blocks.clone().all(|b| call.block(there, b) == call.block(span, b));
            self.sees(*other, group)
                && (there == span || (seen.blocks(*other, group) == blocks && shares()))
        };
        let (rows, first, end) = if seen.alike {
            (row..self.rows.end, blocks.start, blocks.end)
        } else {
            let rows = row..row + (row..self.rows.end).take_while(like).count();
            let first = rows.clone().map(|row| seen.blocks(row, group).start).min()?;
            let end = rows.clone().map(|row| seen.blocks(row, group).end).max()?;
            (rows, first, end)
        };
        self.next = self.from(group, rows.end);
        let part = Part { group, rows, blocks: first..end };
        let heads = self.heads(span, &part.blocks);
        Some((part, heads))
    }

    /// The heads of some blocks of a span, and of those that come next.
    fn heads(&self, span: usize, blocks: &Range<usize>) -> Blocks<'a> {
        let Walk { call, tile, seen, .. } = self;
        let kv_head = tile.first_head / (call.params.heads / call.params.kv_heads);
        // SAFETY: some row sees positions of these blocks, which hence exist and fit the layout.
        let head = |span, block| unsafe { call.kv_head(call.block(span, block), kv_head) };
        let first = head(span, blocks.start);
        let mut found = Blocks { heads: [first; GROUP], ahead: [None; GROUP] };
        for block in blocks.clone() {
            found.heads[block % seen.blocks] = head(span, block);
        }
        if let Some((group, row)) = self.next {
            for block in seen.blocks(row, group) {
                found.ahead[block % seen.blocks] = Some(head(call.rows[row].span, block));
            }
        }
        found
    }
}

/// Adds a part's blocks to the queries of its rows.
///
/// # Safety
/// As [`attend_task`]; the rows are the tile's and see the group, of whose blocks these are the heads.
#[inline(always)]
unsafe fn attend_group<'a, S: Simd, const KIND: u8>(
    s: S,
    queries: &Queries<'a>,
    seen: &Seen,
    softmax: &mut Softmax,
    wide: &mut Wide,
    part: Part,
    blocks: &mut Blocks<'a>,
) {
    let Queries { call, tile, .. } = *queries;
    let Part { group, rows, blocks: of_group } = part;
    // Many queries share one conversion of the blocks; it is exact, so it changes no bits.
    let few = if S::FALLBACK { 1 } else { 2 * SHARE };
    let fits = seen.blocks * call.layout.value_stride() <= WIDE_HEAD;
    let widen = KIND != 0 && rows.len() * tile.heads > few && fits;
    if widen {
        for block in of_group {
            // SAFETY: a group of this stride fits.
            unsafe { widen_block::<S, KIND>(s, call, blocks, block % seen.blocks, wide) };
        }
        blocks.ahead = [None; GROUP];
    }
    let mut row = rows.start;
    while row < rows.end {
        let part = seen.part(row, group);
        let like = |row: &usize| seen.alike || seen.part(*row, group) == part;
        let same = (row..rows.end).take_while(like).count();
        let q = (row - tile.first_row) * tile.heads;
        let q = q..q + same * tile.heads;
        // SAFETY: the blocks are as above, `part` lies within them, the queries exist.
        unsafe {
            if widen {
                s.apart(Steps::<0, VECTORS> { queries, softmax, blocks, q, part });
            } else if KIND == 0 || S::REGISTERS > 16 {
                s.apart(Steps::<KIND, VECTORS> { queries, softmax, blocks, q, part });
            } else {
                // A conversion takes registers, so sums take fewer.
                s.apart(Steps::<KIND, 1> { queries, softmax, blocks, q, part });
            }
        }
        row += same;
    }
}

/// Converts a block of the group to f32 and asks for the one in its place in the next group.
///
/// # Safety
/// As [`attend_task`]; the value strides of the group's blocks are at most [`WIDE_HEAD`] together.
#[inline(always)]
unsafe fn widen_block<S: Simd, const KIND: u8>(
    s: S,
    call: &Call<'_>,
    blocks: &mut Blocks<'_>,
    block: usize,
    wide: &mut Wide,
) {
    let stride = call.layout.value_stride();
    let (ahead, head) = (blocks.ahead[block], &mut blocks.heads[block]);
    // SAFETY: keys and values are whole vectors and fit, `stride` being at least the head's
    // elements.
    unsafe {
        let keys = wide.as_mut_ptr().cast::<f32>().add(2 * KV_BLOCK * stride * block);
        let values = keys.add(KV_BLOCK * stride);
        for at in (0..KV_BLOCK * call.params.head_dim).step_by(WIDE) {
            prefetch::<KIND>(ahead.map(|head| head.keys), at);
            s.wide().store(keys.add(at), load_wide::<S, KIND>(s, head.keys, at));
        }
        for at in (0..KV_BLOCK * stride).step_by(WIDE) {
            prefetch::<KIND>(ahead.map(|head| head.values), at);
            s.wide().store(values.add(at), load_wide::<S, KIND>(s, head.values, at));
        }
        (head.keys, head.values) = (keys.cast(), values.cast());
    }
}
