//! Attention of a few rows and heads over the stored keys and values of one sequence.
//!
//! Scores have one lane per key and run over the elements of a head in order; results have one
//! lane per element and run over the keys in order. Three queries share each load.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::Call;
use super::spans::{MAX_QUERIES, Tile};
use crate::kv::{Head, KV_BLOCK, KvType};
use crate::math;
use crate::simd::{LANES, Simd};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Queries that share loads.
const SHARE: usize = 3;
/// Elements of a head up to which a block may be converted to f32 as a whole.
const WIDE_HEAD: usize = 256;
/// Vectors of a block's keys, and of the elements that are summed at once.
const VECTORS: usize = KV_BLOCK / LANES;

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

/// Loads 8 elements of the stored type, unscaled.
///
/// # Safety
/// `base` points at elements of type `KIND`, of which `at..at + 8` exist.
#[inline(always)]
unsafe fn load<S: Simd, const KIND: u8>(s: S, base: *const u8, at: usize) -> S::V {
    // SAFETY: the caller's contract.
    unsafe {
        match KIND {
            0 => s.load(base.cast::<f32>().add(at)),
            1 => s.load_f16(base.cast::<u16>().add(at)),
            _ => s.load_i8(base.cast::<i8>().add(at)),
        }
    }
}

/// Positions that row `index` of the span sees.
fn visible(call: &Call<'_>, span: usize, index: usize) -> Range<usize> {
    let (keys, before) = call.keys(span);
    if !call.params.causal {
        return 0..keys;
    }
    let end = before + index + 1;
    let start = call.params.window.map_or(0, |window| end.saturating_sub(window));
    start..end
}

/// # Safety
/// As [`attend_task`]; `KIND` is the layout's type.
#[inline(always)]
unsafe fn attend<S: Simd, const KIND: u8>(s: S, call: &Call<'_>, tile: &Tile) {
    let mut softmax =
        Softmax { max: [f32::NEG_INFINITY; MAX_QUERIES], sum: [[0.0; LANES]; MAX_QUERIES] };
    let queries = Queries::new(call, tile);
    for q in 0..tile.rows * tile.heads {
        // SAFETY: the query's result is this thread's alone.
        unsafe { queries.result(q) }.fill(0.0);
    }
    let start = visible(call, tile.span, tile.first).start;
    let end = visible(call, tile.span, tile.first + tile.rows - 1).end;
    let kv_head = tile.first_head / (call.params.heads / call.params.kv_heads);
    let stride = call.layout.value_stride();
    // Many queries share one conversion of the block; it is exact, so it changes no bits.
    let widen = KIND != 0 && tile.rows * tile.heads > 2 * SHARE && stride <= WIDE_HEAD;
    let mut wide = MaybeUninit::<[f32; 2 * KV_BLOCK * WIDE_HEAD]>::uninit();
    for block in start / KV_BLOCK..end.div_ceil(KV_BLOCK) {
        let first = block * KV_BLOCK;
        // SAFETY: the block holds positions below `end`, which exist, and fits the layout.
        let mut head = unsafe { call.layout.head(call.block(tile.span, block), kv_head) };
        if widen {
            let keys = wide.as_mut_ptr().cast::<f32>();
            // SAFETY: keys and values are whole vectors and fit, `stride` being at least the
            // head's elements.
            unsafe {
                let values = keys.add(KV_BLOCK * stride);
                for at in (0..KV_BLOCK * call.params.head_dim).step_by(LANES) {
                    s.store(keys.add(at), load::<S, KIND>(s, head.keys, at));
                }
                for at in (0..KV_BLOCK * stride).step_by(LANES) {
                    s.store(values.add(at), load::<S, KIND>(s, head.values, at));
                }
                (head.keys, head.values) = (keys.cast(), values.cast());
            }
        }
        let mut row = 0;
        while row < tile.rows {
            // Neighbouring rows that see the same part of the block go together.
            let seen = |row: usize| {
                let all = visible(call, tile.span, tile.first + row);
                let low = all.start.max(first) - first;
                let high = all.end.min(first + KV_BLOCK).saturating_sub(first);
                low.min(KV_BLOCK)..high
            };
            let part = seen(row);
            let mut rows = 1;
            while row + rows < tile.rows && seen(row + rows) == part {
                rows += 1;
            }
            if !part.is_empty() {
                // SAFETY: the block is as above, `part` lies within it, the queries exist.
                unsafe {
                    if widen {
                        steps::<S, 0, VECTORS>(
                            s,
                            &queries,
                            &mut softmax,
                            head,
                            row..row + rows,
                            part,
                        );
                    } else if KIND == 0 {
                        steps::<S, KIND, VECTORS>(
                            s,
                            &queries,
                            &mut softmax,
                            head,
                            row..row + rows,
                            part,
                        );
                    } else {
                        // A conversion takes registers, so sums take fewer.
                        steps::<S, KIND, 2>(s, &queries, &mut softmax, head, row..row + rows, part);
                    }
                }
            }
            row += rows;
        }
    }
    for q in 0..tile.rows * tile.heads {
        let total = s.sum(s.load_some(&softmax.sum[q], 0));
        let inverse = s.splat(if total == 0.0 { 0.0 } else { 1.0 / total });
        // SAFETY: the query's result is this thread's alone.
        let out = unsafe { queries.result(q) };
        for at in (0..out.len()).step_by(LANES) {
            s.store_some(out, at, s.mul(s.load_some(out, at), inverse));
        }
    }
}

/// [`step`] for all queries of some rows of the tile, which see the same `part`.
///
/// # Safety
/// As [`step`].
#[inline(always)]
unsafe fn steps<S: Simd, const KIND: u8, const N: usize>(
    s: S,
    queries: &Queries<'_>,
    softmax: &mut Softmax,
    head: Head,
    rows: Range<usize>,
    part: Range<usize>,
) {
    let (mut q, last) = (rows.start * queries.heads, rows.end * queries.heads);
    // SAFETY: the caller's contract.
    unsafe {
        while q + SHARE <= last {
            step::<S, KIND, N, SHARE>(s, queries, softmax, head, q, &part);
            q += SHARE;
        }
        match last - q {
            2 => step::<S, KIND, N, 2>(s, queries, softmax, head, q, &part),
            1 => step::<S, KIND, N, 1>(s, queries, softmax, head, q, &part),
            _ => {}
        }
    }
}

/// The tile's queries, row after row, the heads of a row together.
struct Queries<'a> {
    call: &'a Call<'a>,
    first_row: usize,
    first_head: usize,
    heads: usize,
}

impl<'a> Queries<'a> {
    fn new(call: &'a Call<'a>, tile: &Tile) -> Self {
        Self {
            call,
            first_row: call.spans[tile.span].first_row + tile.first,
            first_head: tile.first_head,
            heads: tile.heads,
        }
    }

    /// Row in the call, and head.
    #[inline(always)]
    fn place(&self, q: usize) -> (usize, usize) {
        (self.first_row + q / self.heads, self.first_head + q % self.heads)
    }

    /// The elements of query `q`.
    ///
    /// # Safety
    /// No thread writes it meanwhile.
    #[inline(always)]
    unsafe fn query(&self, q: usize) -> *const f32 {
        let p = self.call.params;
        let (row, head) = self.place(q);
        let at = (row * (p.heads + p.kv_heads) + head) * p.head_dim;
        // SAFETY: the caller's contract.
        unsafe { self.call.queries.part(at, p.head_dim) }.as_ptr()
    }

    /// The result of query `q`.
    ///
    /// # Safety
    /// No other reference to it exists.
    #[allow(clippy::mut_from_ref, reason = "results are disjoint, as the contract says")]
    #[inline(always)]
    unsafe fn result(&self, q: usize) -> &mut [f32] {
        let p = self.call.params;
        let (row, head) = self.place(q);
        // SAFETY: the caller's contract.
        unsafe { self.call.out.part((row * p.heads + head) * p.head_dim, p.head_dim) }
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
    head: Head,
    first: usize,
    part: &Range<usize>,
) {
    let dim = queries.call.params.head_dim;
    let mut weights = [[0.0f32; KV_BLOCK]; Q];
    let mut decays = [0.0f32; Q];
    // SAFETY: keys are `[dim][32]`, values `[32][value_stride]`, scales `[32]`; queries have
    // `dim` elements; all in the caller's contract.
    unsafe {
        for v in (0..VECTORS).step_by(N) {
            products::<S, KIND, N, Q>(s, queries, head, first, v, &mut weights);
        }
        for q in 0..Q {
            let state = first + q;
            decays[q] = soften(
                s,
                queries.call,
                head,
                &mut weights[q],
                part,
                &mut softmax.max[state],
                &mut softmax.sum[state],
            );
        }
        let mut at = 0;
        while at + N * LANES <= dim {
            add_values::<S, KIND, N, Q>(s, queries, head, first, at, part, &weights, &decays);
            at += N * LANES;
        }
        while at < dim {
            add_values::<S, KIND, 1, Q>(s, queries, head, first, at, part, &weights, &decays);
            at += LANES;
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
    head: Head,
    first: usize,
    vector: usize,
    out: &mut [[f32; KV_BLOCK]; Q],
) {
    // SAFETY: the caller's contract: keys are `[dim][32]`, queries have `dim` elements.
    unsafe {
        let mut pointers = [std::ptr::null(); Q];
        for (q, pointer) in pointers.iter_mut().enumerate() {
            *pointer = queries.query(first + q);
        }
        let mut sums = [[s.splat(0.0); N]; Q];
        for d in 0..queries.call.params.head_dim {
            let mut x = [s.splat(0.0); Q];
            for q in 0..Q {
                x[q] = s.splat(*pointers[q].add(d));
            }
            for v in 0..N {
                let keys = load::<S, KIND>(s, head.keys, d * KV_BLOCK + (vector + v) * LANES);
                for q in 0..Q {
                    sums[q][v] = s.fma(keys, x[q], sums[q][v]);
                }
            }
        }
        for q in 0..Q {
            for v in 0..N {
                s.store(out[q].as_mut_ptr().add((vector + v) * LANES), sums[q][v]);
            }
        }
    }
}

/// Turns a query's products with a block's keys into softmax weights relative to the running
/// maximum, times the values' scales; returns the factor for what was summed before.
///
/// # Safety
/// As [`step`].
#[inline(always)]
unsafe fn soften<S: Simd>(
    s: S,
    call: &Call<'_>,
    head: Head,
    products: &mut [f32; KV_BLOCK],
    part: &Range<usize>,
    max: &mut f32,
    sum: &mut [f32; LANES],
) -> f32 {
    let scale = s.splat(call.params.scale);
    let scaled = call.layout.kind == KvType::Q8;
    let mut largest = s.splat(f32::NEG_INFINITY);
    let whole = part.len() == KV_BLOCK;
    for at in (0..KV_BLOCK).step_by(LANES) {
        let mut score = s.mul(s.load_some(products, at), scale);
        if scaled {
            // SAFETY: an 8-bit head has 32 scales.
            score = s.mul(score, unsafe { s.load(head.key_scales.add(at)) });
        }
        if let Some(cap) = call.params.softcap {
            score = math::soft_cap(s, cap, score);
        }
        s.store_some(products, at, score);
        largest = s.max(largest, score);
    }
    if !whole {
        products[..part.start].fill(f32::NEG_INFINITY);
        products[part.end..].fill(f32::NEG_INFINITY);
        largest = s.splat(f32::NEG_INFINITY);
        for at in (0..KV_BLOCK).step_by(LANES) {
            largest = s.max(largest, s.load_some(products, at));
        }
    }
    let largest = s.max_lane(largest);
    let new = if largest > *max { largest } else { *max };
    // With nothing but -inf so far, 0 stands in, so that no -inf is subtracted from another.
    let base = s.splat(if new == f32::NEG_INFINITY { 0.0 } else { new });
    let mut decay = [0.0; LANES];
    s.store_some(&mut decay, 0, math::exp(s, s.sub(s.splat(*max), base)));
    let mut total = s.mul(s.load_some(sum, 0), s.splat(decay[0]));
    for at in (0..KV_BLOCK).step_by(LANES) {
        let mut weight = math::exp(s, s.sub(s.load_some(products, at), base));
        total = s.add(total, weight);
        if scaled {
            // SAFETY: an 8-bit head has 32 scales.
            weight = s.mul(weight, unsafe { s.load(head.value_scales.add(at)) });
        }
        s.store_some(products, at, weight);
    }
    s.store_some(sum, 0, total);
    *max = new;
    decay[0]
}

/// `result = result * decay + weights values` for `N` vectors of elements from `at` on.
///
/// # Safety
/// As [`step`]; `at` is below the head's elements, and whole vectors of them are stored.
#[allow(clippy::too_many_arguments, reason = "the inner loop of `step`, cut in two widths")]
#[inline(always)]
unsafe fn add_values<S: Simd, const KIND: u8, const N: usize, const Q: usize>(
    s: S,
    queries: &Queries<'_>,
    head: Head,
    first: usize,
    at: usize,
    part: &Range<usize>,
    weights: &[[f32; KV_BLOCK]; Q],
    decays: &[f32; Q],
) {
    let stride = queries.call.layout.value_stride();
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[s.splat(0.0); N]; Q];
        for q in 0..Q {
            let out = queries.result(first + q);
            for n in 0..N {
                sums[q][n] = s.mul(s.load_some(out, at + n * LANES), s.splat(decays[q]));
            }
        }
        for j in part.clone() {
            let mut p = [s.splat(0.0); Q];
            for q in 0..Q {
                p[q] = s.splat(weights[q][j]);
            }
            for n in 0..N {
                let values = load::<S, KIND>(s, head.values, j * stride + at + n * LANES);
                for q in 0..Q {
                    sums[q][n] = s.fma(values, p[q], sums[q][n]);
                }
            }
        }
        for q in 0..Q {
            let out = queries.result(first + q);
            for n in 0..N {
                s.store_some(out, at + n * LANES, sums[q][n]);
            }
        }
    }
}
