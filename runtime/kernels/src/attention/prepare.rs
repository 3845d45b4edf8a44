//! Before attending: norm and rotation of queries and keys, storing of keys and values.

use super::{Call, Span};
use crate::kv::KV_BLOCK;
use crate::norm::{NormArgs, norm_row};
use crate::simd::{LANES, Simd};
use crate::vec_bytes;
use limbeck_plan::{NormKind, RopeStyle};
use std::ops::Range;

/// Cosines and sines of a call's rows, kept between calls with the same positions (the layers of
/// one step).
#[derive(Debug, Default)]
pub(super) struct RopeTable {
    positions: Vec<usize>,
    inv_freq: Vec<f32>,
    factor: f32,
    /// `[T, inv_freq]` cosines, each row followed by its sines.
    turns: Vec<f32>,
}

impl RopeTable {
    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        vec_bytes(&self.positions) + vec_bytes(&self.inv_freq) + vec_bytes(&self.turns)
    }

    pub(super) fn reserve(&mut self, rows: usize, pairs: usize) {
        self.positions.reserve(rows.saturating_sub(self.positions.len()));
        self.inv_freq.reserve(pairs.saturating_sub(self.inv_freq.len()));
        let turns = rows.saturating_mul(pairs).saturating_mul(2);
        self.turns.reserve(turns.saturating_sub(self.turns.len()));
    }

    /// Computes the table unless it is there. Rows of no span get position 0.
    pub(super) fn fill(&mut self, spans: &[Span], total: usize, inv_freq: &[f32], factor: f32) {
        let same_rows = self.positions.len() == total
            && spans.iter().all(|s| {
                let rows = self.positions[s.first_row..s.first_row + s.rows].iter();
                rows.zip(s.start..).all(|(have, want)| *have == want)
            });
        let bits = |x: &[f32], y: &[f32]| {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits())
        };
        if same_rows && bits(&self.inv_freq, inv_freq) && bits(&[self.factor], &[factor]) {
            return;
        }
        self.positions.clear();
        self.positions.resize(total, 0);
        for s in spans {
            let rows = self.positions[s.first_row..s.first_row + s.rows].iter_mut();
            rows.zip(s.start..).for_each(|(row, position)| *row = position);
        }
        self.inv_freq.clear();
        self.inv_freq.extend_from_slice(inv_freq);
        self.factor = factor;
        self.turns.clear();
        for position in &self.positions {
            let angle = |f: &f32| f64::from(*position as f32 * f);
            let cosines = inv_freq.iter().map(|f| angle(f).cos() as f32 * factor);
            self.turns.extend(cosines);
            self.turns.extend(inv_freq.iter().map(|f| angle(f).sin() as f32 * factor));
        }
    }

    fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let pairs = self.inv_freq.len();
        self.turns[row * 2 * pairs..][..2 * pairs].split_at(pairs)
    }
}

/// Some rows of a call and some of their key heads, with the heads that ask those.
pub(crate) struct PrepareTask<'a> {
    pub call: &'a Call<'a>,
    pub rows: Range<usize>,
    pub kv_heads: Range<usize>,
}

/// Fills the rows' queries and keys in the call's buffer, where they are changed, and stores keys and
/// values, unless as pairs; rows of no span get a zero result.
///
/// # Safety
/// The heads of the task's rows are this thread's alone, and the positions of their spans have blocks
/// that no other row writes to at the same position.
#[inline(always)]
pub(crate) unsafe fn prepare_task<S: Simd>(s: S, task: &PrepareTask<'_>) {
    let call = task.call;
    for together in runs(task) {
        // SAFETY: the caller's contract.
        unsafe {
            if call.rows[together.start].span == usize::MAX {
                let heads = asking(call, &task.kv_heads);
                let (from, width) = (heads.start, call.params.head_dim);
                together.for_each(|row| {
                    let at = (row * call.params.heads + from) * width;
                    call.out.part(at, heads.len() * width).fill(0.0);
                });
                continue;
            }
            if call.changes() {
                together.clone().for_each(|row| change(s, call, row, &task.kv_heads));
            }
            if !call.pairs {
                keep(s, call, together, &task.kv_heads);
            }
        }
    }
}

/// The task's rows, those together that are of one block, or of no span.
pub(super) fn runs(task: &PrepareTask<'_>) -> impl Iterator<Item = Range<usize>> {
    let (call, Range { start: mut row, end }) = (task.call, task.rows.clone());
    std::iter::from_fn(move || {
        (row < end).then(|| {
            let together = row..end.min(row + call.rows_of_block(row));
            row = together.end;
            together
        })
    })
}

/// The heads that ask some key heads.
fn asking(call: &Call<'_>, kv_heads: &Range<usize>) -> Range<usize> {
    let group = call.params.heads / call.params.kv_heads;
    kv_heads.start * group..kv_heads.end * group
}

/// Norm and rotation of some of a row's keys, and of what asks them.
///
/// # Safety
/// These heads of the row are this thread's alone.
#[inline(always)]
unsafe fn change<S: Simd>(s: S, call: &Call<'_>, row: usize, kv_heads: &Range<usize>) {
    let p = call.params;
    let keys = p.heads + kv_heads.start..p.heads + kv_heads.end;
    for h in asking(call, kv_heads).chain(keys) {
        let at = (row * (p.heads + p.kv_heads) + h) * p.head_dim;
        // SAFETY: the caller's contract.
        let y = unsafe { call.queries.part(at, p.head_dim) };
        let x = call.qkv.head(p, row, h);
        let weight = if h < p.heads { call.q_norm } else { call.k_norm };
        match (p.qk_norm_eps, weight) {
            (Some(eps), Some(weight)) => {
                let norm = NormArgs { kind: NormKind::Rms, weight, bias: None, eps };
                norm_row(s, &norm, x, y);
            }
            _ => y.copy_from_slice(x),
        }
        if let (Some(rope), Some(table)) = (&p.rope, call.rope) {
            let (cos, sin) = table.row(row);
            turn(rope.style, &mut y[..rope.rotary_dim], cos, sin);
        }
    }
}

/// Where keys and values of neighbouring rows belong: so many positions of a block from one on.
pub(super) struct Kept {
    pub block: *mut u8,
    pub at: usize,
    pub count: usize,
}

impl Call<'_> {
    /// Of rows of one block, those that are keys; `None` of rows of no span.
    pub(super) fn kept(&self, rows: &Range<usize>) -> Option<Kept> {
        let place = self.rows[rows.start];
        let span = self.spans.get(place.span)?;
        let (_, before) = self.keys(place.span);
        let first = before + place.index;
        let keys = if self.params.causal { usize::MAX } else { span.keys };
        Some(Kept {
            block: self.block(place.span, first / KV_BLOCK),
            at: first % KV_BLOCK,
            count: rows.len().min(keys.saturating_sub(place.index)),
        })
    }
}

/// Stores the keys and values of rows of one block, those of them that are keys, head by head: a head
/// of a block fits the first cache.
///
/// # Safety
/// The rows are this thread's alone and of one span and block; no others have their positions.
#[inline(always)]
unsafe fn keep<S: Simd>(s: S, call: &Call<'_>, rows: Range<usize>, kv_heads: &Range<usize>) {
    let p = call.params;
    let Some(Kept { block, at, count }) = call.kept(&rows) else { return };
    for head in kv_heads.clone() {
        // SAFETY: the caller's contract; the block fits the layout, and has `count` positions from `at`.
        unsafe {
            let stored = call.kv_head(block, head);
            let key = |i| call.asked(rows.start + i, p.heads + head);
            let mut i = 0;
            while i < count {
                let eight = !S::FALLBACK && count - i >= LANES && {
                    let mut keys = [&[][..]; LANES];
                    keys.iter_mut().enumerate().for_each(|(j, to)| *to = key(i + j));
                    stored.store_keys(s, at + i, keys)
                };
                if !eight {
                    stored.store_key(s, at + i, key(i));
                }
                i += if eight { LANES } else { 1 };
            }
            for i in 0..count {
                let value = call.qkv.head(p, rows.start + i, p.heads + p.kv_heads + head);
                stored.store_value(s, at + i, value);
            }
        }
    }
}

/// Turns pairs of `x [2 pairs]` by the angles whose cosines and sines are given.
#[inline(always)]
fn turn(style: RopeStyle, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    match style {
        RopeStyle::Half => {
            let (first, second) = x.split_at_mut(cos.len());
            let pairs = first.iter_mut().zip(second);
            for ((a, b), (c, s)) in pairs.zip(cos.iter().zip(sin)) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
        RopeStyle::Interleaved => {
            let (pairs, _) = x.as_chunks_mut::<2>();
            for ([a, b], (c, s)) in pairs.iter_mut().zip(cos.iter().zip(sin)) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    }
}
