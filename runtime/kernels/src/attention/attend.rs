//! Attention of a few rows and heads over the stored keys and values of one sequence.
//!
//! Scores have one lane per key and run over the elements of a head in order; results have one
//! lane per element and run over the keys in order. Three queries share each load.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::Call;
use super::spans::{MAX_QUERIES, Row, Tile};
use crate::kv::{Head, KV_BLOCK, KvType};
use crate::math;
use crate::simd::{LANES, Lanes, Simd, WIDE, WideV, Work};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Queries that share loads; twice as many where there are registers for them.
const SHARE: usize = 3;
/// Elements of a head up to which a block may be converted to f32 as a whole.
const WIDE_HEAD: usize = 256;
/// Wide vectors of a block's keys, and of the elements that are summed at once.
const VECTORS: usize = KV_BLOCK / WIDE;

/// One tile of a call.
pub(crate) struct AttendTask<'a> {
    pub call: &'a Call<'a>,
    pub tile: Tile,
}

/// The running softmax of the tile's queries.
struct Softmax {
    max: [f32; MAX_QUERIES],
    sum: [[f32; LANES]; MAX_QUERIES],
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

/// Loads 16 elements of the stored type, unscaled.
///
/// # Safety
/// `base` points at elements of type `KIND`, of which `at..at + 16` exist.
#[inline(always)]
unsafe fn load_wide<S: Simd, const KIND: u8>(s: S, base: *const u8, at: usize) -> WideV<S> {
    // SAFETY: the caller's contract.
    unsafe {
        match KIND {
            0 => s.wide().load(base.cast::<f32>().add(at)),
            1 => s.wide().load_f16(base.cast::<u16>().add(at)),
            _ => s.wide().load_i8(base.cast::<i8>().add(at)),
        }
    }
}

/// Asks for the cache line of element `at` of stored type `KIND`; memory that holds no elements
/// is only not there.
#[inline(always)]
fn prefetch<S: Simd, const KIND: u8>(s: S, base: Option<*mut u8>, at: usize) {
    if let Some(base) = base {
        s.prefetch(base.wrapping_add(at * [4, 2, 1][usize::from(KIND)]));
    }
}

/// A head of the block at hand, and of the one that comes next.
#[derive(Clone, Copy)]
struct Blocks {
    head: Head,
    ahead: Option<Head>,
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
    rows: [(usize, usize); MAX_QUERIES],
}

impl Seen {
    fn new(call: &Call<'_>, tile: &Tile) -> Self {
        let mut seen = Seen { first_row: tile.first_row, rows: [(0, 0); MAX_QUERIES] };
        for (i, row) in seen.rows.iter_mut().enumerate().take(tile.rows) {
            let Range { start, end } = visible(call, tile.first_row + i);
            *row = (start, end);
        }
        seen
    }

    /// The part of a block that a row sees.
    fn part(&self, row: usize, block: usize) -> Range<usize> {
        let ((start, end), first) = (self.rows[row - self.first_row], block * KV_BLOCK);
        let low = start.max(first) - first;
        let high = end.min(first + KV_BLOCK).saturating_sub(first);
        low.min(KV_BLOCK)..high
    }
}

/// Memory for a block in f32, keys before values.
type Wide = MaybeUninit<[f32; 2 * KV_BLOCK * WIDE_HEAD]>;

/// # Safety
/// As [`attend_task`]; `KIND` is the layout's type.
#[inline(always)]
unsafe fn attend<S: Simd, const KIND: u8>(s: S, call: &Call<'_>, tile: &Tile) {
    let mut softmax =
        Softmax { max: [f32::NEG_INFINITY; MAX_QUERIES], sum: [[0.0; LANES]; MAX_QUERIES] };
    // SAFETY: the caller's contract.
    let mut queries = unsafe { Queries::new(call, tile) };
    for q in 0..queries.count() {
        queries.result(q).fill(0.0);
    }
    let rows = tile.first_row..tile.first_row + tile.rows;
    let seen = Seen::new(call, tile);
    let start = seen.rows[..tile.rows].iter().map(|row| row.0).min().unwrap_or(0);
    let end = seen.rows[..tile.rows].iter().map(|row| row.1).max().unwrap_or(0);
    let mut wide = Wide::uninit();
    let sees = |row: usize, block: usize| !seen.part(row, block).is_empty();
    let mut next = part_from(start / KV_BLOCK, end.div_ceil(KV_BLOCK), &rows, rows.start, sees);
    while let Some((block, row)) = next {
        // Rows of one span, or of sequences that share the block.
        let (span, here) = (call.rows[row].span, call.block(call.rows[row].span, block));
        let like = |row: &usize| {
            let other = call.rows[*row].span;
            sees(*row, block) && (other == span || call.block(other, block) == here)
        };
        let count = (row..rows.end).take_while(like).count();
        next = part_from(block, end.div_ceil(KV_BLOCK), &rows, row + count, sees);
        let part = Part { block, first_row: row, rows: count, ahead: next };
        // SAFETY: these rows are the tile's and see the block; so does the row of the part ahead.
        unsafe { attend_block::<S, KIND>(s, &queries, &seen, &mut softmax, &mut wide, part) };
    }
    for q in 0..queries.count() {
        let total = s.sum(s.load_some(&softmax.sum[q], 0));
        let inverse = s.splat(if total == 0.0 { 0.0 } else { 1.0 / total });
        let out = queries.result(q);
        for at in (0..out.len()).step_by(LANES) {
            s.store_some(out, at, s.mul(s.load_some(out, at), inverse));
        }
    }
}

/// The first block and row, from `row` of `block` on, of which the row sees the block.
fn part_from(
    block: usize,
    end: usize,
    rows: &Range<usize>,
    row: usize,
    sees: impl Fn(usize, usize) -> bool,
) -> Option<(usize, usize)> {
    (block..end).find_map(|b| {
        let from = if b == block { row } else { rows.start };
        (from..rows.end).find(|row| sees(*row, b)).map(|row| (b, row))
    })
}

/// A block and neighbouring rows that see it, for all of which it is the same memory.
#[derive(Clone, Copy)]
struct Part {
    block: usize,
    first_row: usize,
    rows: usize,
    /// Block and row of the part after it.
    ahead: Option<(usize, usize)>,
}

/// Adds a part's block to the queries of its rows.
///
/// # Safety
/// As [`attend_task`]; the rows are the tile's and see the block, and so it is ahead.
#[inline(always)]
unsafe fn attend_block<S: Simd, const KIND: u8>(
    s: S,
    queries: &Queries<'_>,
    seen: &Seen,
    softmax: &mut Softmax,
    wide: &mut Wide,
    part: Part,
) {
    let Queries { call, tile, .. } = *queries;
    let Part { block, first_row, rows: count, ahead } = part;
    let kv_head = tile.first_head / (call.params.heads / call.params.kv_heads);
    // SAFETY: the rows see positions of their blocks, which hence exist and fit the layout.
    let (head, ahead) = unsafe {
        let head =
            |block, row: usize| call.layout.head(call.block(call.rows[row].span, block), kv_head);
        (head(block, first_row), ahead.map(|(block, row)| head(block, row)))
    };
    let stride = call.layout.value_stride();
    // Many queries share one conversion of the block; it is exact, so it changes no bits.
    let few = if S::FALLBACK { 1 } else { 2 * SHARE };
    let widen = KIND != 0 && count * tile.heads > few && stride <= WIDE_HEAD;
    let blocks = if widen {
        // SAFETY: a block of this stride fits.
        let head = unsafe { widen_block::<S, KIND>(s, call, head, ahead, wide) };
        Blocks { head, ahead: None }
    } else {
        Blocks { head, ahead }
    };
    let (mut row, end) = (first_row, first_row + count);
    while row < end {
        let part = seen.part(row, block);
        let same = (row..end).take_while(|&row| seen.part(row, block) == part).count();
        let q = (row - tile.first_row) * tile.heads;
        let q = q..q + same * tile.heads;
        // SAFETY: the block is as above, `part` lies within it, the queries exist.
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

/// Converts a block to f32 and asks for the next one.
///
/// # Safety
/// As [`attend_task`]; the block's value stride is at most [`WIDE_HEAD`].
#[inline(always)]
unsafe fn widen_block<S: Simd, const KIND: u8>(
    s: S,
    call: &Call<'_>,
    mut head: Head,
    ahead: Option<Head>,
    wide: &mut Wide,
) -> Head {
    let stride = call.layout.value_stride();
    let keys = wide.as_mut_ptr().cast::<f32>();
    // SAFETY: keys and values are whole vectors and fit, `stride` being at least the head's
    // elements.
    unsafe {
        let values = keys.add(KV_BLOCK * stride);
        for at in (0..KV_BLOCK * call.params.head_dim).step_by(WIDE) {
            prefetch::<S, KIND>(s, ahead.map(|head| head.keys), at);
            s.wide().store(keys.add(at), load_wide::<S, KIND>(s, head.keys, at));
        }
        for at in (0..KV_BLOCK * stride).step_by(WIDE) {
            prefetch::<S, KIND>(s, ahead.map(|head| head.values), at);
            s.wide().store(values.add(at), load_wide::<S, KIND>(s, head.values, at));
        }
        (head.keys, head.values) = (keys.cast(), values.cast());
    }
    head
}

/// [`step`] for the tile's queries `q`, which see the same `part`.
struct Steps<'a, 'b, const KIND: u8, const N: usize> {
    queries: &'a Queries<'b>,
    softmax: &'a mut Softmax,
    blocks: Blocks,
    q: Range<usize>,
    part: Range<usize>,
}

impl<S: Simd, const KIND: u8, const N: usize> Work<S> for Steps<'_, '_, KIND, N> {
    #[inline(always)]
    unsafe fn run(self, s: S) {
        // SAFETY: the caller's contract.
        unsafe { steps(s, self) }
    }
}

/// # Safety
/// As [`step`].
#[inline(always)]
unsafe fn steps<S: Simd, const KIND: u8, const N: usize>(s: S, work: Steps<'_, '_, KIND, N>) {
    let Steps { queries, softmax, mut blocks, q: Range { start: mut q, end: last }, part } = work;
    // SAFETY: the caller's contract.
    unsafe {
        // Plain registers hold one query's sums.
        while S::FALLBACK && q < last {
            step::<S, KIND, N, 1>(s, queries, softmax, blocks, q, &part);
            blocks.ahead = None;
            q += 1;
        }
        while S::REGISTERS > 16 && q + 2 * SHARE <= last {
            step::<S, KIND, N, { 2 * SHARE }>(s, queries, softmax, blocks, q, &part);
            blocks.ahead = None;
            q += 2 * SHARE;
        }
        while !S::FALLBACK && q + SHARE <= last {
            step::<S, KIND, N, SHARE>(s, queries, softmax, blocks, q, &part);
            // The first queries have asked for all of it.
            blocks.ahead = None;
            q += SHARE;
        }
        match last - q {
            2 if !S::FALLBACK => step::<S, KIND, N, 2>(s, queries, softmax, blocks, q, &part),
            1 if !S::FALLBACK => step::<S, KIND, N, 1>(s, queries, softmax, blocks, q, &part),
            _ => {}
        }
    }
}

/// The tile's queries, row after row, the heads of a row together.
struct Queries<'a> {
    call: &'a Call<'a>,
    tile: &'a Tile,
    /// The elements of each query.
    asks: [*const f32; MAX_QUERIES],
    /// The result of each.
    results: [*mut f32; MAX_QUERIES],
}

impl<'a> Queries<'a> {
    /// # Safety
    /// The tile's results are this thread's alone while the value lives, and no thread writes its
    /// queries.
    #[inline(always)]
    unsafe fn new(call: &'a Call<'a>, tile: &'a Tile) -> Self {
        let (asks, results) =
            ([std::ptr::null(); MAX_QUERIES], [std::ptr::null_mut(); MAX_QUERIES]);
        let mut queries = Queries { call, tile, asks, results };
        let (heads, dim) = (call.params.heads, call.params.head_dim);
        for q in 0..queries.count() {
            let (row, head) = (tile.first_row + q / tile.heads, tile.first_head + q % tile.heads);
            // SAFETY: the caller's contract.
            unsafe {
                queries.asks[q] = call.asked(row, head).as_ptr();
                queries.results[q] = call.out.part((row * heads + head) * dim, dim).as_mut_ptr();
            }
        }
        queries
    }

    fn count(&self) -> usize {
        self.tile.rows * self.tile.heads
    }

    /// The result of query `q`, which is the tile's.
    #[inline(always)]
    fn result(&mut self, q: usize) -> &mut [f32] {
        assert!(q < self.count());
        // SAFETY: results of the tile's queries have `head_dim` elements and are this thread's alone,
        // as who made this vouched for.
        unsafe { std::slice::from_raw_parts_mut(self.results[q], self.call.params.head_dim) }
    }
}

/// Adds the positions `part` of one block to queries `first..first + Q`, `N` vectors at once.
///
/// # Safety
/// As [`attend_task`]; `head` is a head of a block with these positions; the queries exist.
#[inline(always)]
unsafe fn step<S: Simd, const KIND: u8, const N: usize, const Q: usize>(
    s: S,
    queries: &Queries<'_>,
    softmax: &mut Softmax,
    blocks: Blocks,
    first: usize,
    part: &Range<usize>,
) {
    let dim = queries.call.params.head_dim;
    let mut weights = [[0.0f32; KV_BLOCK]; Q];
    // SAFETY: keys are `[dim][32]`, values `[32][value_stride]`, scales `[32]`; queries have
    // `dim` elements; all in the caller's contract.
    unsafe {
        for v in (0..VECTORS).step_by(N) {
            products::<S, KIND, N, Q>(s, queries, blocks, first, v, &mut weights);
        }
        let decays = soften(s, queries.call, blocks.head, &mut weights, part, softmax, first);
        let mut results = [std::ptr::null_mut(); Q];
        results.copy_from_slice(&queries.results[first..first + Q]);
        let of = |at: usize| results.map(|result: *mut f32| result.wrapping_add(at));
        let mut at = 0;
        while at + N * WIDE <= dim {
            add_values::<S, KIND, N, Q>(s, queries, blocks, at, of(at), part, &weights, &decays);
            at += N * WIDE;
        }
        while at < dim {
            let (mut out, mut padded) = (of(at), [[0.0f32; WIDE]; Q]);
            let rest = dim - at;
            if rest < WIDE {
                for q in 0..Q {
                    std::ptr::copy(results[q].add(at), padded[q].as_mut_ptr(), rest);
                    out[q] = padded[q].as_mut_ptr();
                }
            }
            add_values::<S, KIND, 1, Q>(s, queries, blocks, at, out, part, &weights, &decays);
            if rest < WIDE {
                for q in 0..Q {
                    std::ptr::copy(padded[q].as_ptr(), results[q].add(at), rest);
                }
            }
            at += WIDE;
        }
    }
}

/// The products of queries `first..first + Q` with `N` vectors of a block's keys from the
/// `vector`-th on.
///
/// # Safety
/// As [`step`].
#[inline(always)]
unsafe fn products<S: Simd, const KIND: u8, const N: usize, const Q: usize>(
    s: S,
    queries: &Queries<'_>,
    blocks: Blocks,
    first: usize,
    vector: usize,
    out: &mut [[f32; KV_BLOCK]; Q],
) {
    // SAFETY: the caller's contract: keys are `[dim][32]`, queries have `dim` elements.
    unsafe {
        let (keys, ahead) = (blocks.head.keys, blocks.ahead.map(|head| head.keys));
        let mut pointers = [std::ptr::null(); Q];
        pointers.copy_from_slice(&queries.asks[first..first + Q]);
        let mut sums = [[s.wide().splat(0.0); N]; Q];
        for d in 0..queries.call.params.head_dim {
            let mut x = [s.wide().splat(0.0); Q];
            for q in 0..Q {
                x[q] = s.wide().splat(*pointers[q].add(d));
            }
            prefetch::<S, KIND>(s, ahead, d * KV_BLOCK + vector * WIDE);
            for v in 0..N {
                let keys = load_wide::<S, KIND>(s, keys, d * KV_BLOCK + (vector + v) * WIDE);
                for q in 0..Q {
                    sums[q][v] = s.wide().fma(keys, x[q], sums[q][v]);
                }
            }
        }
        for q in 0..Q {
            for v in 0..N {
                s.wide().store(out[q].as_mut_ptr().add((vector + v) * WIDE), sums[q][v]);
            }
        }
    }
}

/// Turns the products of queries `first..first + Q` with a block's keys into softmax weights relative
/// to the running maximum, times the values' scales; returns the factors for what was summed before.
///
/// # Safety
/// As [`step`].
#[inline(always)]
unsafe fn soften<S: Simd, const Q: usize>(
    s: S,
    call: &Call<'_>,
    head: Head,
    products: &mut [[f32; KV_BLOCK]; Q],
    part: &Range<usize>,
    softmax: &mut Softmax,
    first: usize,
) -> [f32; Q] {
    let scaled = call.layout.kind == KvType::Q8;
    let mut bases = [0.0; Q];
    let mut shifts = [0.0; LANES];
    for q in 0..Q {
        // SAFETY: the caller's contract.
        let largest = unsafe { scores(s, call, head, &mut products[q], part) };
        let max = &mut softmax.max[first + q];
        let new = if largest > *max { largest } else { *max };
        // With nothing but -inf so far, 0 stands in, so that no -inf is subtracted from another.
        bases[q] = if new == f32::NEG_INFINITY { 0.0 } else { new };
        shifts[q] = *max - bases[q];
        *max = new;
    }
    // One vector for all queries, of which there are no more than lanes.
    const { assert!(Q <= LANES) };
    let mut all = [0.0; LANES];
    s.store_some(&mut all, 0, math::exp(s, s.load_some(&shifts, 0)));
    let mut decays = [0.0; Q];
    decays.copy_from_slice(&all[..Q]);
    for q in 0..Q {
        let sum = &mut softmax.sum[first + q];
        let base = s.wide().splat(bases[q]);
        let mut total = s.mul(s.load_some(sum, 0), s.splat(decays[q]));
        for v in 0..VECTORS {
            // SAFETY: a query has 32 products; an 8-bit head has 32 scales.
            unsafe {
                let products = products[q].as_mut_ptr().add(v * WIDE);
                let score = s.wide().load(products);
                let mut weight = math::exp(s.wide(), s.wide().sub(score, base));
                for half in s.halves(weight) {
                    total = s.add(total, half);
                }
                if scaled {
                    weight = s.wide().mul(weight, s.wide().load(head.value_scales.add(v * WIDE)));
                }
                s.wide().store(products, weight);
            }
        }
        s.store_some(sum, 0, total);
    }
    decays
}

/// Turns a query's products with a block's keys into scores, `-inf` outside of `part`, and gives the
/// largest.
///
/// # Safety
/// As [`step`].
#[inline(always)]
unsafe fn scores<S: Simd>(
    s: S,
    call: &Call<'_>,
    head: Head,
    products: &mut [f32; KV_BLOCK],
    part: &Range<usize>,
) -> f32 {
    let wide = s.wide();
    let scale = wide.splat(call.params.scale);
    for v in 0..VECTORS {
        // SAFETY: an 8-bit head has 32 scales; there are 32 products.
        unsafe {
            let mut score = wide.mul(wide.load(products.as_ptr().add(v * WIDE)), scale);
            if call.layout.kind == KvType::Q8 {
                score = wide.mul(score, wide.load(head.key_scales.add(v * WIDE)));
            }
            if let Some(cap) = call.params.softcap {
                score = math::soft_cap(wide, cap, score);
            }
            wide.store(products.as_mut_ptr().add(v * WIDE), score);
        }
    }
    if part.len() < KV_BLOCK {
        products[..part.start].fill(f32::NEG_INFINITY);
        products[part.end..].fill(f32::NEG_INFINITY);
    }
    let mut largest = wide.splat(f32::NEG_INFINITY);
    for v in 0..VECTORS {
        // SAFETY: there are 32 products.
        largest = wide.max(largest, unsafe { wide.load(products.as_ptr().add(v * WIDE)) });
    }
    let [low, high] = s.halves(largest);
    s.max_lane(s.max(low, high))
}

/// `result = result * decay + weights values` for `N` vectors of elements from `at` on, which
/// `results` point at.
///
/// # Safety
/// As [`step`]; `at` is below the head's elements, whole vectors of them are stored, and the
/// results have as many elements.
#[allow(clippy::too_many_arguments, reason = "the inner loop of `step`, cut in two widths")]
#[inline(always)]
unsafe fn add_values<S: Simd, const KIND: u8, const N: usize, const Q: usize>(
    s: S,
    queries: &Queries<'_>,
    blocks: Blocks,
    at: usize,
    results: [*mut f32; Q],
    part: &Range<usize>,
    weights: &[[f32; KV_BLOCK]; Q],
    decays: &[f32; Q],
) {
    let stride = queries.call.layout.value_stride();
    let (values, ahead) = (blocks.head.values, blocks.ahead.map(|head| head.values));
    // SAFETY: the caller's contract.
    unsafe {
        let mut pointers = [std::ptr::null(); Q];
        let mut sums = [[s.wide().splat(0.0); N]; Q];
        for q in 0..Q {
            pointers[q] = weights[q].as_ptr();
            let decay = s.wide().splat(decays[q]);
            for n in 0..N {
                sums[q][n] = s.wide().mul(s.wide().load(results[q].add(n * WIDE)), decay);
            }
        }
        for j in part.clone() {
            let mut p = [s.wide().splat(0.0); Q];
            for q in 0..Q {
                p[q] = s.wide().splat(*pointers[q].add(j));
            }
            prefetch::<S, KIND>(s, ahead, j * stride + at);
            for n in 0..N {
                let values = load_wide::<S, KIND>(s, values, j * stride + at + n * WIDE);
                for q in 0..Q {
                    sums[q][n] = s.wide().fma(values, p[q], sums[q][n]);
                }
            }
        }
        for q in 0..Q {
            for n in 0..N {
                s.wide().store(results[q].add(n * WIDE), sums[q][n]);
            }
        }
    }
}
