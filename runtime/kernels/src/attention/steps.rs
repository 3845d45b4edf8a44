//! The inner loops of attention: a few queries that see the same positions of a group of blocks.
//!
//! Scores have one lane per key and run over the elements of a head in order; results have one
//! lane per element and run over the keys in order. Three queries share each load. Scores and maxima
//! are kept times log2 e, so that weights are powers of two.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::Call;
use super::spans::{MAX_QUERIES, Tile};
use crate::kv::{Head, KV_BLOCK, KvType};
use crate::math;
use crate::simd::{self, LANES, Lanes, Simd, WIDE, WideV, Work};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Queries that share loads; twice as many where there are registers for them.
pub(super) const SHARE: usize = 3;
/// Wide vectors of a block's keys, and of the elements that are summed at once.
pub(super) const VECTORS: usize = KV_BLOCK / WIDE;
/// The most blocks of a group, whose scores a query turns into weights at once.
pub(super) const GROUP: usize = 4;

/// The running softmax of some queries.
pub(super) struct Softmax<const QUERIES: usize = MAX_QUERIES> {
    max: [f32; QUERIES],
    sum: [[f32; WIDE]; QUERIES],
}

impl<const QUERIES: usize> Softmax<QUERIES> {
    pub(super) fn new() -> Self {
        Softmax { max: [f32::NEG_INFINITY; QUERIES], sum: [[0.0; WIDE]; QUERIES] }
    }

    /// The sum of a query's weights.
    #[inline(always)]
    pub(super) fn total<S: Simd>(&self, s: S, query: usize) -> f32 {
        let sum = &self.sum[query];
        s.sum(s.add(s.load_some(sum, 0), s.load_some(sum, LANES)))
    }
}

/// The blocks of a group.
pub(super) struct Blocks<'a> {
    /// A head of each block that some query sees, by its place in the group.
    pub heads: [Head<'a>; GROUP],
    /// Those of the group that comes next, which are asked for while these are used.
    pub ahead: [Option<Head<'a>>; GROUP],
}

/// Loads 16 elements of the stored type, unscaled.
///
/// # Safety
/// `base` points at elements of type `KIND`, of which `at..at + 16` exist.
#[inline(always)]
pub(super) unsafe fn load_wide<S: Simd, const KIND: u8>(
    s: S,
    base: *const u8,
    at: usize,
) -> WideV<S> {
    // SAFETY: the caller's contract.
    unsafe {
        match KIND {
            0 => s.wide().load(base.cast::<f32>().add(at)),
            1 => s.wide().load_f16(base.cast::<u16>().add(at)),
            _ => s.wide().load_i8(base.cast::<i8>().add(at)),
        }
    }
}

/// Adds the products of 16 elements of the stored type with each `x` to its sum.
///
/// # Safety
/// As [`load_wide`].
#[inline(always)]
unsafe fn add_multiples<S: Simd, const KIND: u8, const Q: usize>(
    s: S,
    base: *const u8,
    at: usize,
    x: [WideV<S>; Q],
    sums: &mut [WideV<S>; Q],
) {
    // SAFETY: the caller's contract.
    unsafe {
        if KIND == 0 {
            return s.wide().add_multiples(base.cast::<f32>().add(at), x, sums);
        }
        simd::add_multiples(s.wide(), load_wide::<S, KIND>(s, base, at), x, sums);
    }
}

/// Asks for the cache line of element `at` of stored type `KIND`; memory that holds no elements
/// is only not there.
#[inline(always)]
pub(super) fn prefetch<const KIND: u8>(base: Option<*mut u8>, at: usize) {
    if let Some(base) = base {
        simd::prefetch(base.wrapping_add(at * [4, 2, 1][usize::from(KIND)]));
    }
}

/// [`step`] for the tile's queries `q`, which see the same `part` of the group.
pub(super) struct Steps<'a, 'b, const KIND: u8, const N: usize> {
    pub queries: &'a Queries<'b>,
    pub softmax: &'a mut Softmax,
    pub blocks: &'a mut Blocks<'b>,
    pub q: Range<usize>,
    pub part: Range<usize>,
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
    let Steps { queries, softmax, blocks, q: Range { start: mut q, end: last }, part } = work;
    // SAFETY: the caller's contract.
    unsafe {
        // Plain registers hold one query's sums.
        while S::FALLBACK && q < last {
            step::<S, KIND, N, 1>(s, queries, softmax, blocks, q, &part);
            q += 1;
        }
        while S::REGISTERS > 16 && q + 2 * SHARE <= last {
            step::<S, KIND, N, { 2 * SHARE }>(s, queries, softmax, blocks, q, &part);
            q += 2 * SHARE;
        }
        while !S::FALLBACK && q + SHARE <= last {
            step::<S, KIND, N, SHARE>(s, queries, softmax, blocks, q, &part);
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
pub(super) struct Queries<'a> {
    pub call: &'a Call<'a>,
    pub tile: &'a Tile,
    /// The elements of each query.
    asks: [*const f32; MAX_QUERIES],
    /// The result of each.
    results: [*mut f32; MAX_QUERIES],
    /// Nothing has been added to the results yet, nor are they zero.
    pub fresh: bool,
}

impl<'a> Queries<'a> {
    /// # Safety
    /// The tile's results are this thread's alone while the value lives, and no thread writes its
    /// queries.
    #[inline(always)]
    pub(super) unsafe fn new(call: &'a Call<'a>, tile: &'a Tile) -> Self {
        let (asks, results) =
            ([std::ptr::null(); MAX_QUERIES], [std::ptr::null_mut(); MAX_QUERIES]);
        let mut queries = Queries { call, tile, asks, results, fresh: false };
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

    /// The elements of query `q`, and its result.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn at(&self, q: usize) -> (*const f32, *mut f32) {
        (self.asks[q], self.results[q])
    }

    pub(super) fn count(&self) -> usize {
        self.tile.rows * self.tile.heads
    }

    /// The result of query `q`, which is the tile's.
    #[inline(always)]
    pub(super) fn result(&mut self, q: usize) -> &mut [f32] {
        assert!(q < self.count());
        // SAFETY: results of the tile's queries have `head_dim` elements and are this thread's alone,
        // as who made this vouched for.
        unsafe { std::slice::from_raw_parts_mut(self.results[q], self.call.params.head_dim) }
    }
}

/// Adds the positions `part` of a group to queries `first..first + Q`, `N` vectors at once; the
/// first queries ask for the blocks that come next.
///
/// # Safety
/// As [`attend_task`](super::attend::attend_task); `blocks` has heads of all blocks of `part`; the
/// queries exist.
#[inline(always)]
unsafe fn step<S: Simd, const KIND: u8, const N: usize, const Q: usize>(
    s: S,
    queries: &Queries<'_>,
    softmax: &mut Softmax,
    blocks: &mut Blocks<'_>,
    first: usize,
    part: &Range<usize>,
) {
    let dim = queries.call.params.head_dim;
    let mut weights = MaybeUninit::<[[f32; GROUP * KV_BLOCK]; Q]>::uninit();
    let start: *mut f32 = weights.as_mut_ptr().cast();
    let mut pointers = [start; Q];
    for (q, pointer) in pointers.iter_mut().enumerate() {
        *pointer = start.wrapping_add(q * GROUP * KV_BLOCK);
    }
    let weights = pointers;
    // SAFETY: keys are `[dim][32]`, values `[32][value_stride]`, scales `[32]`; queries have
    // `dim` elements; all in the caller's contract.
    unsafe {
        for block in part.start / KV_BLOCK..part.end.div_ceil(KV_BLOCK) {
            let (mut low, mut high) = (0, VECTORS);
            if KIND == 0 && Q > SHARE {
                // Those vectors of the block that hold a position of the part. (It is code again, which few
                // queries or what is stored in fewer bits do not earn.)
                let at = block * KV_BLOCK;
                low = (part.start.max(at) - at) / WIDE;
                high = (part.end.min(at + KV_BLOCK) - at).div_ceil(WIDE);
                if high - low < N {
                    products::<S, KIND, 1, Q>(s, queries, blocks, block, first, low, weights);
                    continue;
                }
            }
            for v in (low..high).step_by(N) {
                products::<S, KIND, N, Q>(s, queries, blocks, block, first, v, weights);
            }
        }
        const { assert!(Q <= LANES) };
        let decays = soften::<S, false, _>(s, queries.call, blocks, &weights, part, softmax, first);
        let mut results = [std::ptr::null_mut(); Q];
        results.copy_from_slice(&queries.results[first..first + Q]);
        let of = |at: usize| results.map(|result: *mut f32| result.wrapping_add(at));
        let mut at = 0;
        while at + N * WIDE <= dim {
            add_values::<S, KIND, N, Q>(s, queries, blocks, at, of(at), part, weights, &decays);
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
            add_values::<S, KIND, 1, Q>(s, queries, blocks, at, out, part, weights, &decays);
            if rest < WIDE {
                for q in 0..Q {
                    std::ptr::copy(padded[q].as_ptr(), results[q].add(at), rest);
                }
            }
            at += WIDE;
        }
    }
    blocks.ahead = [None; GROUP];
}

/// The products of queries `first..first + Q` with `N` vectors of a block's keys from the
/// `vector`-th on.
///
/// # Safety
/// As [`step`]; the weights have room for a group's positions.
#[inline(always)]
unsafe fn products<S: Simd, const KIND: u8, const N: usize, const Q: usize>(
    s: S,
    queries: &Queries<'_>,
    blocks: &Blocks<'_>,
    block: usize,
    first: usize,
    vector: usize,
    weights: [*mut f32; Q],
) {
    // SAFETY: the caller's contract: keys are `[dim][32]`, queries have `dim` elements.
    unsafe {
        let ahead = blocks.ahead[block].map(|head| head.keys);
        let keys = blocks.heads[block].keys;
        let mut pointers = [std::ptr::null(); Q];
        pointers.copy_from_slice(&queries.asks[first..first + Q]);
        let mut sums = [[s.wide().splat(0.0); Q]; N];
        for d in 0..queries.call.params.head_dim {
            let mut x = [s.wide().splat(0.0); Q];
            for q in 0..Q {
                x[q] = s.wide().splat(*pointers[q].add(d));
            }
            prefetch::<KIND>(ahead, d * KV_BLOCK + vector * WIDE);
            for v in 0..N {
                let at = d * KV_BLOCK + (vector + v) * WIDE;
                add_multiples::<S, KIND, Q>(s, keys, at, x, &mut sums[v]);
            }
        }
        for q in 0..Q {
            for v in 0..N {
                let at = block * KV_BLOCK + (vector + v) * WIDE;
                s.wide().store(weights[q].add(at), sums[v][q]);
            }
        }
    }
}

/// Turns the products of up to eight queries from the `first`-th on with a group's keys into softmax
/// weights relative to the running maximum, times the values' scales; returns the factors for what was
/// summed before.
///
/// # Safety
/// As [`step`]; there are products for all vectors of `part`. With `PLAIN` keys and values have no scales
/// and there is no cap.
#[inline(always)]
pub(super) unsafe fn soften<S: Simd, const PLAIN: bool, const QUERIES: usize>(
    s: S,
    call: &Call<'_>,
    blocks: &Blocks<'_>,
    products: &[*mut f32],
    part: &Range<usize>,
    softmax: &mut Softmax<QUERIES>,
    first: usize,
) -> [f32; LANES] {
    let scaled = !PLAIN && call.layout.kind == KvType::Q8;
    let (mut bases, mut shifts) = ([0.0; LANES], [0.0; LANES]);
    for q in 0..products.len() {
        // SAFETY: the caller's contract.
        let largest = unsafe { scores::<S, PLAIN>(s, call, blocks, products[q], part) };
        let max = &mut softmax.max[first + q];
        let new = if largest > *max { largest } else { *max };
        // With nothing but -inf so far, 0 stands in, so that no -inf is subtracted from another.
        bases[q] = if new == f32::NEG_INFINITY { 0.0 } else { new };
        shifts[q] = *max - bases[q];
        *max = new;
    }
    // One vector for all queries, of which there are no more than lanes.
    let mut decays = [0.0; LANES];
    s.store_some(&mut decays, 0, s.exp2(s.load_some(&shifts, 0)));
    let wide = s.wide();
    for q in 0..products.len() {
        let sum = softmax.sum[first + q].as_mut_ptr();
        let base = wide.splat(bases[q]);
        // SAFETY: a sum has 16 lanes; the rest is the caller's contract.
        unsafe {
            let mut total = wide.mul(wide.load(sum), wide.splat(decays[q]));
            for at in vectors(part) {
                let product = products[q].add(at);
                let mut weight = wide.exp2(wide.sub(wide.load(product), base));
                total = wide.add(total, weight);
                if scaled {
                    let scales = blocks.heads[at / KV_BLOCK].value_scales.add(at % KV_BLOCK);
                    weight = wide.mul(weight, wide.load(scales));
                }
                wide.store(product, weight);
            }
            wide.store(sum, total);
        }
    }
    decays
}

/// The first position of each wide vector that holds a position of `part`.
fn vectors(part: &Range<usize>) -> impl Iterator<Item = usize> {
    (part.start / WIDE * WIDE..part.end.next_multiple_of(WIDE)).step_by(WIDE)
}

/// Turns a query's products with a group's keys into scores times log2 e, `-inf` outside of `part`,
/// and gives the largest.
///
/// # Safety
/// As [`soften`].
#[inline(always)]
unsafe fn scores<S: Simd, const PLAIN: bool>(
    s: S,
    call: &Call<'_>,
    blocks: &Blocks<'_>,
    products: *mut f32,
    part: &Range<usize>,
) -> f32 {
    let wide = s.wide();
    let log2_e = wide.splat(std::f32::consts::LOG2_E);
    let scale = wide.mul(wide.splat(call.params.scale), log2_e);
    let plain = PLAIN || (call.layout.kind != KvType::Q8 && call.params.softcap.is_none());
    let mut largest = wide.splat(f32::NEG_INFINITY);
    for at in vectors(part) {
        // SAFETY: an 8-bit head has 32 scales; the rest is the caller's contract.
        unsafe {
            let product = wide.load(products.add(at));
            let score = if plain {
                wide.mul(product, scale)
            } else {
                let mut score = wide.mul(product, wide.splat(call.params.scale));
                if call.layout.kind == KvType::Q8 {
                    let scales = blocks.heads[at / KV_BLOCK].key_scales.add(at % KV_BLOCK);
                    score = wide.mul(score, wide.load(scales));
                }
                if let Some(cap) = call.params.softcap {
                    score = math::soft_cap(wide, cap, score);
                }
                wide.mul(score, log2_e)
            };
            wide.store(products.add(at), score);
            largest = wide.max(largest, score);
        }
    }
    let (start, end) = (part.start % WIDE, part.end.next_multiple_of(WIDE) - part.end);
    if start + end > 0 {
        // SAFETY: as above.
        unsafe {
            let fill = |from: usize, count: usize| {
                std::slice::from_raw_parts_mut(products.add(from), count).fill(f32::NEG_INFINITY);
            };
            fill(part.start - start, start);
            fill(part.end, end);
            largest = wide.splat(f32::NEG_INFINITY);
            for at in vectors(part) {
                largest = wide.max(largest, wide.load(products.add(at)));
            }
        }
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
    blocks: &Blocks<'_>,
    at: usize,
    results: [*mut f32; Q],
    part: &Range<usize>,
    weights: [*mut f32; Q],
    decays: &[f32; LANES],
) {
    let stride = queries.call.layout.value_stride();
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[s.wide().splat(0.0); Q]; N];
        if !queries.fresh {
            for q in 0..Q {
                let decay = s.wide().splat(decays[q]);
                for n in 0..N {
                    sums[n][q] = s.wide().mul(s.wide().load(results[q].add(n * WIDE)), decay);
                }
            }
        }
        for block in part.start / KV_BLOCK..part.end.div_ceil(KV_BLOCK) {
            let ahead = blocks.ahead[block].map(|head| head.values);
            let values = blocks.heads[block].values;
            let first = block * KV_BLOCK;
            for j in part.start.max(first) - first..part.end.min(first + KV_BLOCK) - first {
                let mut p = [s.wide().splat(0.0); Q];
                for q in 0..Q {
                    p[q] = s.wide().splat(*weights[q].add(first + j));
                }
                prefetch::<KIND>(ahead, j * stride + at);
                for n in 0..N {
                    let at = j * stride + at + n * WIDE;
                    add_multiples::<S, KIND, Q>(s, values, at, p, &mut sums[n]);
                }
            }
        }
        for q in 0..Q {
            for n in 0..N {
                s.wide().store(results[q].add(n * WIDE), sums[n][q]);
            }
        }
    }
}
