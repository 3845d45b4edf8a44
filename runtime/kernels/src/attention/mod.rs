//! The attention op: norm and rotation of queries and keys, storing of keys and values, and
//! attention over them as stored.
//!
//! A row reads the positions that it sees in blocks of 32 counted from position 0, with an online
//! softmax (Milakov and Gimelshein, 2018) whose order depends on those positions alone.

mod attend;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod prepare;
mod run;
mod spans;
mod steps;

pub(crate) use attend::{AttendTask, attend_task};
#[cfg(target_arch = "x86_64")]
pub(crate) use pairs::{attend_pairs, keep_pairs};
pub(crate) use prepare::{PrepareTask, prepare_task};

use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::kv::{Block, Head, HeadLayout, KV_BLOCK, KvCache, KvLayer, KvType, SeqId};
use crate::pool::Pool;
use crate::simd::WIDE;
use crate::table::Kernels;
use crate::vec_bytes;
use limbeck_plan::Attention;
use prepare::RopeTable;
use run::{Cut, Run};
use spans::{Row, Tile};

/// The most elements of a head that may be pairs of bf16.
const MOST_PAIRED: usize = 128;

/// Whether keys and values of such attention may be pairs of bf16, where there is no cache.
fn may_pair(p: &Attention) -> bool {
    let sizes = p.head_dim <= MOST_PAIRED && p.head_dim.is_multiple_of(2 * WIDE);
    sizes && !p.causal && p.softcap.is_none()
}

/// Queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub enum Qkv<'a> {
    /// `[T, (heads + 2 kv_heads) head_dim]`.
    Fused(&'a [f32]),
    /// Three operands.
    Separate {
        /// `[T, heads head_dim]`.
        q: &'a [f32],
        /// `[T, kv_heads head_dim]`.
        k: &'a [f32],
        /// `[T, kv_heads head_dim]`.
        v: &'a [f32],
    },
}

impl<'a> Qkv<'a> {
    /// Head `head` of row `row`, `[head_dim]`: queries first, then keys, then values.
    #[inline(always)]
    fn head(self, p: &Attention, row: usize, head: usize) -> &'a [f32] {
        let (x, heads, head) = match self {
            Qkv::Fused(x) => (x, p.heads + 2 * p.kv_heads, head),
            Qkv::Separate { q, .. } if head < p.heads => (q, p.heads, head),
            Qkv::Separate { k, .. } if head < p.heads + p.kv_heads => {
                (k, p.kv_heads, head - p.heads)
            }
            Qkv::Separate { v, .. } => (v, p.kv_heads, head - p.heads - p.kv_heads),
        };
        &x[(row * heads + head) * p.head_dim..][..p.head_dim]
    }
}

/// A run of rows of a call that are neighbours in one sequence. Rows that belong to no span get
/// zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First row in the call.
    pub first_row: usize,
    /// Number of rows.
    pub rows: usize,
    /// The cache's sequence; needed with a cache, ignored without.
    pub sequence: Option<SeqId>,
    /// Position of the first row; with a cache, the sequence's committed length.
    pub start: usize,
    /// Without `causal`: how many of the leading rows are keys; the others are padding, which
    /// asks but is not seen. Ignored with `causal`.
    pub keys: usize,
}

/// The operands of [`attention`].
#[derive(Debug)]
pub struct AttentionArgs<'a> {
    /// The op's parameters.
    pub params: &'a Attention,
    /// Queries, keys and values of `T` rows.
    pub qkv: Qkv<'a>,
    /// `[head_dim]`, when the parameters have a `qk_norm_eps`.
    pub q_norm: Option<&'a [f32]>,
    /// `[head_dim]`, when the parameters have a `qk_norm_eps`.
    pub k_norm: Option<&'a [f32]>,
    /// `[rotary_dim / 2]`, when the parameters have a `rope`.
    pub inv_freq: Option<&'a [f32]>,
    /// Which rows belong together; they do not overlap, and no sequence comes twice.
    pub spans: &'a [Span],
    /// The cache and the layer's index in it. Positions must be reserved and are not committed
    /// here. Without a cache rows attend within their span.
    pub cache: Option<(&'a mut KvCache, usize)>,
    /// Queries, keys and values are no better than 8-bit activations made them: bf16 may stand in for
    /// them and for softmax weights where the CPU multiplies it and there is no cache. What is larger than
    /// the largest bf16 is then infinite.
    pub rough: bool,
    /// `[T, heads head_dim]`.
    pub out: &'a mut [f32],
}

/// Memory that [`attention`] works in; grows to the largest call and is then reused.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    queries: Vec<f32>,
    rope: RopeTable,
    rows: Vec<Row>,
    tiles: Vec<Tile>,
    /// Keys and values of a call without a cache, `local_blocks` blocks.
    local: Option<Block>,
}

impl AttentionScratch {
    /// Makes room for calls of up to `rows` rows in `spans` spans, so that they do not allocate.
    /// With `cached`, the rows' keys and values go to a cache.
    pub fn reserve(&mut self, params: &Attention, rows: usize, spans: usize, cached: bool) {
        let heads = params.heads.saturating_add(params.kv_heads);
        let want = rows.saturating_mul(heads).saturating_mul(params.head_dim);
        if self.queries.len() < want {
            self.queries.resize(want, 0.0);
        }
        if let Some(rope) = &params.rope {
            self.rope.reserve(rows, rope.rotary_dim / 2);
        }
        self.rows.reserve(rows.saturating_sub(self.rows.len()));
        let tiles = rows.saturating_add(spans).saturating_mul(params.heads);
        self.tiles.reserve(tiles.saturating_sub(self.tiles.len()));
        if !cached && let Ok(layout) = local_layout(params, params.kv_heads, false) {
            // Failing here only means that the call allocates, and reports.
            let _ = self.local_blocks(&layout, (rows / KV_BLOCK).saturating_add(spans));
        }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let local = self.local.as_ref().map_or(0, Block::len);
        let lists = vec_bytes(&self.rows) + vec_bytes(&self.tiles);
        vec_bytes(&self.queries) + self.rope.bytes() + lists + local
    }

    fn local_blocks(&mut self, layout: &HeadLayout, blocks: usize) -> Result<*mut u8, Error> {
        let bytes = blocks.saturating_mul(layout.end());
        if self.local.as_ref().is_none_or(|local| local.len() < bytes) {
            self.local = None;
            self.local = Block::new(bytes);
        }
        let no_memory = || Error::new(crate::ErrorKind::Memory, "no memory for keys and values");
        self.local.as_ref().map(Block::as_ptr).ok_or_else(no_memory)
    }
}

/// Where keys and values lie.
#[derive(Clone, Copy)]
enum Store<'a> {
    Cache(&'a KvCache),
    Local(*mut u8),
}

/// All that the tasks of one call share.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    params: &'a Attention,
    qkv: Qkv<'a>,
    q_norm: Option<&'a [f32]>,
    k_norm: Option<&'a [f32]>,
    rope: Option<&'a RopeTable>,
    spans: &'a [Span],
    rows: &'a [Row],
    store: Store<'a>,
    layout: HeadLayout,
    /// Keys and values are pairs of bf16, in the memory of a layout of f16.
    pairs: bool,
    /// The first key head that blocks hold.
    first_kv_head: usize,
    /// `[T, heads + kv_heads, head_dim]`: queries and keys after norm and rotation; unused without.
    queries: &'a SharedRows<'a>,
    out: &'a SharedRows<'a>,
}

// SAFETY: what keeps it from being Sync is the pointer to local blocks, whose users write to
// disjoint heads and positions, and read only what their own thread wrote or a region that has ended.
unsafe impl Sync for Call<'_> {}

impl Call<'_> {
    /// Whether keys and values are pairs of bf16.
    pub(crate) fn has_pairs(&self) -> bool {
        self.pairs
    }

    fn cache(&self) -> Option<&KvCache> {
        match self.store {
            Store::Cache(cache) => Some(cache),
            Store::Local(_) => None,
        }
    }

    /// The memory of block `block` of span `span`, which exists.
    #[inline(always)]
    fn block(&self, span: usize, block: usize) -> *mut u8 {
        match self.store {
            Store::Cache(cache) => {
                let sequence = self.spans[span].sequence;
                let table = sequence.and_then(|seq| cache.table(seq).ok()).unwrap_or(&[]);
                cache.block(table[block])
            }
            Store::Local(start) => {
                let first = self.rows[self.spans[span].first_row].first_block;
                // Within the call's local blocks, which hold every span's.
                start.wrapping_add((first + block) * self.layout.end())
            }
        }
    }

    /// A key head of a block.
    ///
    /// # Safety
    /// The block is one of [`Call::block`], and holds the head.
    #[inline(always)]
    unsafe fn kv_head(&self, block: *mut u8, head: usize) -> Head<'_> {
        // SAFETY: the caller's contract.
        unsafe { self.layout.head(block, head - self.first_kv_head) }
    }

    /// The call with local blocks from the `block`-th on, which hold key heads from `head` on.
    fn in_place(&self, block: usize, head: usize) -> Self {
        let Store::Local(start) = self.store else { return *self };
        let start = start.wrapping_add(block * self.layout.end());
        Call { store: Store::Local(start), first_kv_head: head, ..*self }
    }

    /// How many rows from `row` on are of its span and have positions in the same block: one at
    /// least, and as many as there are that have no span.
    fn rows_of_block(&self, row: usize) -> usize {
        let Row { span, index, .. } = self.rows[row];
        let like = self.rows[row..].iter().take_while(|other| other.span == span);
        if span == usize::MAX {
            return like.count();
        }
        let (_, before) = self.keys(span);
        like.take(KV_BLOCK - (before + index) % KV_BLOCK).count()
    }

    /// Whether queries and keys are normalised or turned.
    fn changes(&self) -> bool {
        self.q_norm.is_some() || self.k_norm.is_some() || self.rope.is_some()
    }

    /// Head `head` of row `row`'s queries and keys, after norm and rotation.
    ///
    /// # Safety
    /// No thread writes it meanwhile.
    #[inline(always)]
    unsafe fn asked(&self, row: usize, head: usize) -> &[f32] {
        let p = self.params;
        if !self.changes() {
            return self.qkv.head(p, row, head);
        }
        let at = (row * (p.heads + p.kv_heads) + head) * p.head_dim;
        // SAFETY: the caller's contract.
        unsafe { self.queries.read(at, p.head_dim) }
    }

    /// Positions of span `span` that exist as keys, and the position of its first row among them.
    fn keys(&self, span: usize) -> (usize, usize) {
        let s = &self.spans[span];
        let before = if self.cache().is_some() { s.start } else { 0 };
        (before + if self.params.causal { s.rows } else { s.keys }, before)
    }
}

/// Checks the spans of a call of `total` rows against it and its cache.
pub(crate) fn check_spans(args: &AttentionArgs<'_>, total: usize) -> Result<(), Error> {
    spans::fill_rows(&mut Vec::new(), args.spans, total)?;
    if let Some((cache, layer)) = &args.cache {
        spans::check_cache(args, cache, *layer)?;
    }
    Ok(())
}

fn local_layout(params: &Attention, kv_heads: usize, pairs: bool) -> Result<HeadLayout, Error> {
    let layer = KvLayer { kv_heads, head_dim: params.head_dim };
    let kind = if pairs { KvType::F16 } else { KvType::F32 };
    HeadLayout::new(kind, layer, 0).ok_or_else(|| Error::shape("heads are too large"))
}

/// Computes attention; see [`AttentionArgs`] and [`Attention`].
///
/// Positions turn by `position * inv_freq[i]` in f32. Keys and values are rounded to the cache's
/// type and read as stored, the row's own included. On an error nothing was written.
///
/// # Errors
/// `Shape` when operands do not fit the parameters or each other, `Range` when spans overlap, lie
/// outside the rows, or their positions are not reserved, `Sequence` for an unknown or missing
/// sequence, `Memory` when there is none.
pub fn attention(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut AttentionScratch,
    args: AttentionArgs<'_>,
) -> Result<(), Error> {
    let params = args.params;
    let total = args.check()?;
    spans::fill_rows(&mut scratch.rows, args.spans, total)?;
    let blocks = spans::local_blocks(args.spans);
    let cut = Cut::new(&args, total, blocks, pool.threads());
    let pairs = args.rough && args.cache.is_none() && may_pair(params) && kernels.has_pairs();
    let (layout, local) = match &args.cache {
        Some((cache, layer)) => (spans::check_cache(&args, cache, *layer)?, std::ptr::null_mut()),
        None => {
            let (heads, blocks) = match cut {
                Cut::Heads { heads, blocks } => (heads, blocks * pool.threads()),
                Cut::Rows => (params.kv_heads, blocks),
            };
            let layout = local_layout(params, heads, pairs)?;
            (layout, scratch.local_blocks(&layout, blocks)?)
        }
    };
    if matches!(cut, Cut::Rows) {
        spans::place_local(&mut scratch.rows, args.spans);
    }
    let macs = spans::macs(&args);
    if let (Some(rope), Some(inv_freq)) = (&params.rope, args.inv_freq) {
        scratch.rope.fill(args.spans, total, inv_freq, rope.factor);
    }
    let width = (params.heads + params.kv_heads) * params.head_dim;
    if scratch.queries.len() < total * width {
        scratch.queries.resize(total * width, 0.0);
    }
    let call = Call {
        params,
        qkv: args.qkv,
        q_norm: args.q_norm,
        k_norm: args.k_norm,
        rope: params.rope.as_ref().map(|_| &scratch.rope),
        spans: args.spans,
        rows: &scratch.rows,
        store: match &args.cache {
            Some((cache, _)) => Store::Cache(cache),
            None => Store::Local(local),
        },
        layout,
        pairs,
        first_kv_head: 0,
        queries: &SharedRows::new(&mut scratch.queries[..total * width]),
        out: &SharedRows::new(args.out),
    };
    let run = Run { kernels, pool, call };
    match cut {
        Cut::Heads { heads, blocks } => run.by_heads(heads, blocks),
        Cut::Rows => run.by_rows(&mut scratch.tiles, macs),
    }
    Ok(())
}

impl AttentionArgs<'_> {
    /// Checks operands against the parameters; returns the number of rows.
    pub(crate) fn check(&self) -> Result<usize, Error> {
        let p = self.params;
        if p.heads == 0 || p.kv_heads == 0 || p.head_dim == 0 || !p.heads.is_multiple_of(p.kv_heads)
        {
            return Err(Error::shape(format!(
                "attention has {} heads, {} key heads, {} elements per head",
                p.heads, p.kv_heads, p.head_dim
            )));
        }
        let too_large = || Error::shape("attention's heads are too large");
        let kv = p.kv_heads.checked_mul(p.head_dim).ok_or_else(too_large)?;
        let q = p.heads.checked_mul(p.head_dim).ok_or_else(too_large)?;
        let fused = kv.checked_mul(2).and_then(|kv| kv.checked_add(q)).ok_or_else(too_large)?;
        let total = self.out.len() / q;
        check_len("attention's result", self.out.len(), total * q)?;
        match self.qkv {
            Qkv::Fused(qkv) => check_len("queries, keys and values", qkv.len(), total * fused)?,
            Qkv::Separate { q: queries, k, v } => {
                check_len("the queries", queries.len(), total * q)?;
                check_len("the keys", k.len(), total * kv)?;
                check_len("the values", v.len(), total * kv)?;
            }
        }
        if p.qk_norm_eps.is_some() {
            for (what, weight) in [("q_norm", self.q_norm), ("k_norm", self.k_norm)] {
                check_len(what, weight.map_or(0, <[f32]>::len), p.head_dim)?;
            }
        }
        if let Some(rope) = &p.rope {
            if rope.rotary_dim > p.head_dim || !rope.rotary_dim.is_multiple_of(2) {
                let dim = rope.rotary_dim;
                return Err(Error::shape(format!("{dim} of {} elements cannot turn", p.head_dim)));
            }
            check_len("inv_freq", self.inv_freq.map_or(0, <[f32]>::len), rope.rotary_dim / 2)?;
        }
        Ok(total)
    }
}
