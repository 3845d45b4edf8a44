//! Attention in pairs of bf16, which one instruction multiplies and adds, twice as many products as in
//! f32: for calls without a cache whose rows all see the same keys, where queries, keys and values come
//! from products of 8-bit activations and are rougher than bf16 is.
//!
//! A block's keys are `[head_dim / 2][32]` pairs of neighbouring elements, its values `[16][head_dim]`
//! pairs of neighbouring positions. Sums, maxima and results are f32.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::attend::{AttendTask, group_of};
use super::prepare::{PrepareTask, runs};
use super::steps::{Blocks, GROUP, Queries, SHARE, Softmax, soften};
use super::{Call, MOST_PAIRED, Tile};
use crate::isa::Avx512Bf16;
use crate::kv::{Head, KV_BLOCK};
use crate::simd::{LANES, Lanes, Simd, WIDE};
use std::arch::x86_64::*;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Queries that share loads.
const TOGETHER: usize = 2 * SHARE;
/// Positions of a group.
const POSITIONS: usize = GROUP * KV_BLOCK;

/// 32 f32 as bf16, in order.
///
/// # Safety
/// The CPU has the token's features; `x` is valid for reading 32 f32.
#[inline(always)]
unsafe fn rounded(x: *const f32) -> __m512i {
    // SAFETY: the caller's contract; the types have the same bits.
    unsafe {
        let pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x.add(WIDE)), _mm512_loadu_ps(x));
        std::mem::transmute::<__m512bh, __m512i>(pairs)
    }
}

/// The bits of 16 f32 as bf16, each in the lower half of a lane.
///
/// # Safety
/// The CPU has the token's features.
#[inline(always)]
unsafe fn widened(x: &[f32]) -> __m512i {
    assert_eq!(x.len(), WIDE);
    // SAFETY: there are 16 elements; the types have the same bits; the rest is the caller's contract.
    unsafe {
        let half = _mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr()));
        _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(half))
    }
}

/// `sum + a[0] b[0] + a[1] b[1]` in each lane.
///
/// # Safety
/// The CPU has the token's features.
#[inline(always)]
unsafe fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: the caller's contract; the types have the same bits.
    unsafe {
        let pairs = std::mem::transmute::<__m512i, __m512bh>;
        _mm512_dpbf16_ps(sum, pairs(a), pairs(b))
    }
}

/// Stores the task's keys and values, as [`prepare_task`](super::prepare_task) does in other forms.
///
/// # Safety
/// As there; the call has pairs.
#[inline(always)]
pub(crate) unsafe fn keep_pairs(token: Avx512Bf16, task: &PrepareTask<'_>) {
    for rows in runs(task) {
        for head in task.kv_heads.clone() {
            // SAFETY: the caller's contract.
            unsafe { keep_head(token, task.call, rows.clone(), head) };
        }
    }
}

/// # Safety
/// As [`keep_pairs`]; the rows are of one span and block.
#[inline(always)]
unsafe fn keep_head(token: Avx512Bf16, call: &Call<'_>, rows: Range<usize>, head: usize) {
    let (p, s) = (call.params, token.base());
    let Some(kept) = call.kept(&rows) else { return };
    // Tasks have whole spans, whose blocks begin with an even position.
    debug_assert!(kept.at.is_multiple_of(2));
    // SAFETY: the caller's contract; a block has 32 positions, of which `kept.count` from `kept.at` on
    // are these rows'. Heads have whole vectors of 32 elements.
    unsafe {
        let stored = call.kv_head(kept.block, head);
        let (keys, values) = (stored.keys.cast::<u32>(), stored.values.cast::<u32>());
        for at in (0..p.head_dim).step_by(WIDE) {
            for first in (0..kept.count).step_by(LANES) {
                let count = LANES.min(kept.count - first);
                // Eight pairs of elements of each of eight rows, and then those of a pair together.
                let mut pairs = [s.splat(0.0); LANES];
                for i in 0..count {
                    let key = call.asked(rows.start + first + i, p.heads + head);
                    let half = _mm512_cvtneps_pbh(_mm512_loadu_ps(key[at..at + WIDE].as_ptr()));
                    pairs[i] = std::mem::transmute::<__m256bh, __m256>(half);
                }
                let columns = s.transpose(pairs);
                let some = u8::MAX >> (LANES - count);
                for j in 0..LANES {
                    let to = keys.add((at / 2 + j) * KV_BLOCK + kept.at + first);
                    _mm256_mask_storeu_ps(to.cast(), some, columns[j]);
                }
            }
        }
        for i in (0..kept.count).step_by(2) {
            let value = |i| call.qkv.head(p, rows.start + i, p.heads + p.kv_heads + head);
            // The last one of an odd count has zeros beside it.
            let (first, second) = (value(i), (i + 1 < kept.count).then(|| value(i + 1)));
            for at in (0..p.head_dim).step_by(WIDE) {
                let mut both = widened(&first[at..at + WIDE]);
                if let Some(second) = second {
                    let high = _mm512_slli_epi32::<16>(widened(&second[at..at + WIDE]));
                    both = _mm512_or_si512(both, high);
                }
                let to = values.add((kept.at + i) / 2 * p.head_dim + at);
                _mm512_storeu_si512(to.cast(), both);
            }
        }
    }
}

/// Computes the tile's results, as [`attend_task`](super::attend_task) does in other forms.
///
/// # Safety
/// As there; [`keep_pairs`] stored the keys and values.
#[inline(always)]
pub(crate) unsafe fn attend_pairs(token: Avx512Bf16, task: &AttendTask<'_>) {
    let AttendTask { call, tile } = task;
    // SAFETY: the caller's contract.
    unsafe {
        let queries = Queries::new(call, tile);
        for first in (0..queries.count()).step_by(TOGETHER) {
            attend_some(token, call, tile, &queries, first);
        }
    }
}

/// The results of up to [`TOGETHER`] queries. Where there are fewer, the last one is asked again in the
/// place of those that are not there, and what comes of it is left.
///
/// # Safety
/// As [`attend_pairs`].
#[inline(always)]
unsafe fn attend_some(
    token: Avx512Bf16,
    call: &Call<'_>,
    tile: &Tile,
    queries: &Queries<'_>,
    first: usize,
) {
    let (s, dim) = (token.base(), call.params.head_dim);
    let count = TOGETHER.min(queries.count() - first);
    let span = call.rows[tile.first_row].span;
    let (keys, _) = call.keys(span);
    let head = tile.first_head / (call.params.heads / call.params.kv_heads);
    // A compiler that knew how few blocks and queries there are would repeat loops for each number.
    let (blocks, all) = (black_box(group_of(call)), black_box(TOGETHER));
    let size = blocks * KV_BLOCK;
    let mut softmax = Softmax::<TOGETHER>::new();
    let mut asks = [[0u32; MOST_PAIRED / 2]; TOGETHER];
    let mut left = [0.0; MOST_PAIRED];
    let mut results = [left.as_mut_ptr(); TOGETHER];
    let mut weights = MaybeUninit::<[[f32; POSITIONS]; TOGETHER]>::uninit();
    let mut scores = [weights.as_mut_ptr().cast::<f32>(); TOGETHER];
    // SAFETY: the caller's contract: queries and results have `dim` elements, which are whole vectors of
    // 32; blocks hold the head's keys and values of the span.
    unsafe {
        for q in 0..all {
            scores[q] = scores[0].add(q * POSITIONS);
            let (ask, result) = queries.at(first + q.min(count - 1));
            if q < count {
                results[q] = result;
            }
            for at in (0..dim).step_by(2 * WIDE) {
                _mm512_storeu_si512(asks[q].as_mut_ptr().add(at / 2).cast(), rounded(ask.add(at)));
            }
        }
        for start in (0..keys).step_by(size) {
            let part = 0..size.min(keys - start);
            let first_block = start / KV_BLOCK;
            let mut heads = [call.kv_head(call.block(span, first_block), head); GROUP];
            for i in 1..part.end.div_ceil(KV_BLOCK) {
                heads[i] = call.kv_head(call.block(span, first_block + i), head);
            }
            let blocks = Blocks { heads, ahead: [None; GROUP] };
            products(dim / 2, &asks, heads.as_ptr(), part.end, scores);
            let asked = &scores[..count];
            let decays = soften::<_, true, _>(s, call, &blocks, asked, &part, &mut softmax, 0);
            let decays = (start > 0).then_some(decays);
            pair_up(&scores[..all], part.end);
            for at in (0..dim).step_by(2 * WIDE) {
                add_values(dim, at, heads.as_ptr(), part.end, scores, results, decays.as_ref());
            }
        }
        for q in 0..count {
            let inverse = s.wide().splat(1.0 / softmax.total(s, q));
            for at in (0..dim).step_by(WIDE) {
                let out = results[q].add(at);
                let mean = if keys == 0 {
                    s.wide().splat(0.0)
                } else {
                    s.wide().mul(s.wide().load(out), inverse)
                };
                s.wide().store(out, mean);
            }
        }
    }
}

/// The products of the queries with the first `end` positions of a group, at least.
///
/// # Safety
/// The CPU has the token's features; there are `pairs` pairs of each query and position, and room for the
/// scores of whole blocks.
#[inline(always)]
unsafe fn products(
    pairs: usize,
    asks: &[[u32; MOST_PAIRED / 2]; TOGETHER],
    heads: *const Head<'_>,
    end: usize,
    scores: [*mut f32; TOGETHER],
) {
    const VECTORS: usize = KV_BLOCK / WIDE;
    for at in (0..end).step_by(KV_BLOCK) {
        // SAFETY: the caller's contract.
        unsafe {
            let keys = (*heads.add(at / KV_BLOCK)).keys.cast::<u32>();
            let mut sums = [[_mm512_setzero_ps(); VECTORS]; TOGETHER];
            for pair in 0..pairs {
                let mut key = [_mm512_setzero_si512(); VECTORS];
                for v in 0..VECTORS {
                    key[v] = _mm512_loadu_si512(keys.add(pair * KV_BLOCK + v * WIDE).cast());
                }
                for q in 0..TOGETHER {
                    let x = _mm512_set1_epi32(asks[q][pair].cast_signed());
                    for v in 0..VECTORS {
                        sums[q][v] = dot(sums[q][v], key[v], x);
                    }
                }
            }
            for q in 0..TOGETHER {
                for v in 0..VECTORS {
                    _mm512_storeu_ps(scores[q].add(at + v * WIDE), sums[q][v]);
                }
            }
        }
    }
}

/// Turns the weights of the first `end` positions into pairs, in place, and what there is instead of
/// weights for the rest of their last block.
///
/// # Safety
/// The CPU has the token's features; there are numbers for whole blocks of positions.
#[inline(always)]
unsafe fn pair_up(weights: &[*mut f32], end: usize) {
    for weights in weights {
        for at in (0..end).step_by(2 * WIDE) {
            // SAFETY: the caller's contract. Pairs lie where weights were read before.
            unsafe {
                let pairs = rounded(weights.add(at));
                _mm512_storeu_si512(weights.add(at / 2).cast(), pairs);
            }
        }
    }
}

/// `result = result * decay + weights values` for 32 elements from `at` on, of `dim`; without decays
/// there were no results.
///
/// # Safety
/// The CPU has the token's features; values and pairs of weights of `end` positions are there, and the
/// elements of the results.
#[inline(always)]
unsafe fn add_values(
    dim: usize,
    at: usize,
    heads: *const Head<'_>,
    end: usize,
    weights: [*mut f32; TOGETHER],
    results: [*mut f32; TOGETHER],
    decays: Option<&[f32; LANES]>,
) {
    const VECTORS: usize = 2;
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; TOGETHER];
        if let Some(decays) = decays {
            for q in 0..TOGETHER {
                for v in 0..VECTORS {
                    let result = _mm512_loadu_ps(results[q].add(at + v * WIDE));
                    sums[q][v] = _mm512_mul_ps(result, _mm512_set1_ps(decays[q]));
                }
            }
        }
        for first in (0..end).step_by(KV_BLOCK) {
            let values = (*heads.add(first / KV_BLOCK)).values.cast::<u32>();
            for pair in 0..KV_BLOCK.min(end - first).div_ceil(2) {
                let mut value = [_mm512_setzero_si512(); VECTORS];
                for v in 0..VECTORS {
                    value[v] = _mm512_loadu_si512(values.add(pair * dim + at + v * WIDE).cast());
                }
                for q in 0..TOGETHER {
                    let weight = weights[q].cast::<i32>().add(first / 2 + pair);
                    let weight = _mm512_set1_epi32(*weight);
                    for v in 0..VECTORS {
                        sums[q][v] = dot(sums[q][v], value[v], weight);
                    }
                }
            }
        }
        for q in 0..TOGETHER {
            for v in 0..VECTORS {
                _mm512_storeu_ps(results[q].add(at + v * WIDE), sums[q][v]);
            }
        }
    }
}
