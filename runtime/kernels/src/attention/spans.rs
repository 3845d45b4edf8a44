//! Which rows of a call belong where, and how its work is cut into tasks.

use super::{AttentionArgs, Call, Span};
use crate::error::{Error, ErrorKind};
use crate::kv::{HeadLayout, KV_BLOCK, KvCache};
use std::ops::Range;

/// Queries that one task holds at once.
pub(super) const MAX_QUERIES: usize = 48;

/// The span of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// `usize::MAX` when the row belongs to none.
    pub span: usize,
    /// Index of the row within it.
    pub index: usize,
    /// First local block of the span, where they all have their own.
    pub first_block: usize,
}

/// One task: some rows of a span, or of spans of one row each, and some of the heads that share
/// one key head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    /// First row in the call.
    pub first_row: usize,
    pub rows: usize,
    pub first_head: usize,
    pub heads: usize,
}

/// Notes each row's span; refuses spans that overlap or reach past the rows.
pub(super) fn fill_rows(rows: &mut Vec<Row>, spans: &[Span], total: usize) -> Result<(), Error> {
    rows.clear();
    let none = Row { span: usize::MAX, index: 0, first_block: 0 };
    rows.resize(total, none);
    for (i, span) in spans.iter().enumerate() {
        let place = span
            .first_row
            .checked_add(span.rows)
            .and_then(|end| rows.get_mut(span.first_row..end))
            .filter(|_| span.keys <= span.rows && span.start.checked_add(span.rows).is_some())
            .ok_or_else(|| {
                Error::range(format!(
                    "span {i} has {} keys in {} rows from row {} of {total}",
                    span.keys, span.rows, span.first_row
                ))
            })?;
        for (index, row) in place.iter_mut().enumerate() {
            if row.span != usize::MAX {
                return Err(Error::range(format!("spans {} and {i} overlap", row.span)));
            }
            row.span = i;
            row.index = index;
        }
    }
    Ok(())
}

/// Local blocks of all spans.
pub(super) fn local_blocks(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.rows.div_ceil(KV_BLOCK)).sum()
}

/// Gives each span its local blocks.
pub(super) fn place_local(rows: &mut [Row], spans: &[Span]) {
    let mut blocks = 0;
    for span in spans {
        for row in &mut rows[span.first_row..span.first_row + span.rows] {
            row.first_block = blocks;
        }
        blocks += span.rows.div_ceil(KV_BLOCK);
    }
}

/// Checks the spans against the cache; returns the layer's layout.
pub(super) fn check_cache(
    args: &AttentionArgs<'_>,
    cache: &KvCache,
    layer: usize,
) -> Result<HeadLayout, Error> {
    let layout = cache.layout(layer)?;
    let p = args.params;
    if (layout.kv_heads, layout.head_dim) != (p.kv_heads, p.head_dim) {
        return Err(Error::shape(format!(
            "layer {layer} of the KV cache has {} heads of {}, attention has {} of {}",
            layout.kv_heads, layout.head_dim, p.kv_heads, p.head_dim
        )));
    }
    for (i, span) in args.spans.iter().enumerate() {
        let seq = span.sequence.ok_or_else(|| {
            Error::new(ErrorKind::Sequence, format!("span {i} names no sequence"))
        })?;
        if args.spans[..i].iter().any(|other| other.sequence == Some(seq)) {
            return Err(Error::range(format!("span {i} names a sequence that another has")));
        }
        let len = cache.len(seq)?;
        if span.start != len {
            return Err(Error::range(format!(
                "span {i} starts at position {}, its sequence has {len}",
                span.start
            )));
        }
        cache.check_writable(seq, span.start, span.rows)?;
    }
    Ok(layout)
}

/// Multiply-adds of a call.
pub(super) fn macs(args: &AttentionArgs<'_>) -> usize {
    let work = args.params.heads.saturating_mul(args.params.head_dim).saturating_mul(2);
    let of_span = |s: &Span| {
        let keys = if args.cache.is_some() { s.start + s.rows } else { s.rows };
        s.rows.saturating_mul(keys).saturating_mul(work)
    };
    args.spans.iter().map(of_span).fold(0, usize::saturating_add)
}

/// Cuts the call into tasks, the longest rows first. Heads that share a key head stay together unless
/// there would be fewer tasks than threads; so do single rows of neighbouring spans whose sequences begin
/// with the same block.
pub(super) fn fill_tiles(tiles: &mut Vec<Tile>, call: &Call<'_>, threads: usize) {
    let p = call.params;
    let group = p.heads / p.kv_heads;
    tiles.clear();
    let plain: usize =
        call.spans.iter().map(|s| p.kv_heads * s.rows.div_ceil((MAX_QUERIES / group).max(1))).sum();
    let parts = if plain == 0 { 1 } else { threads.div_ceil(plain).min(group) };
    let heads = group.div_ceil(parts).min(MAX_QUERIES);
    let mut spans = call.spans;
    while let Some(span) = spans.first() {
        let together = 1 + count_sharing(call, spans);
        let total = span.rows + together - 1;
        let most = MAX_QUERIES / heads;
        let mut push = |kv_heads: Range<usize>, rows: usize| {
            for tile in 0..total.div_ceil(rows) {
                let first = tile * rows;
                let heads_of = |kv_head| (0..group).step_by(heads).map(move |o| (kv_head, o));
                tiles.extend(kv_heads.clone().flat_map(heads_of).map(|(kv_head, offset)| Tile {
                    first_row: span.first_row + first,
                    rows: rows.min(total - first),
                    first_head: kv_head * group + offset,
                    heads: heads.min(group - offset),
                }));
            }
        };
        // Rows that only share loads lose them where they part: only key heads that are too few
        // for the threads are cut.
        let odd = if together == 1 { 0 } else { p.kv_heads % threads };
        push(0..p.kv_heads - odd, most);
        if odd > 0 {
            let parts =
                if threads.is_multiple_of(odd) { threads } else { 2 * threads }.div_ceil(odd);
            push(p.kv_heads - odd..p.kv_heads, most.min(total.div_ceil(parts)));
        }
        spans = &spans[together..];
    }
}

/// How many spans after the first one continue its row by one row each and share its sequence's
/// first block.
fn count_sharing(call: &Call<'_>, spans: &[Span]) -> usize {
    let Some(cache) = call.cache() else { return 0 };
    let first_block = |span: &Span| {
        let table = cache.table(span.sequence.filter(|_| span.rows == 1)?).ok()?;
        table.first().copied()
    };
    let Some(block) = first_block(&spans[0]) else { return 0 };
    let rows = spans[0].first_row + 1..;
    let shares =
        |(span, row): &(&Span, usize)| span.first_row == *row && first_block(span) == Some(block);
    spans[1..].iter().zip(rows).take_while(shares).count()
}
