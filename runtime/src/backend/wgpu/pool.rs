//! The buffers of a session, beside its cache.

use limbeck_kernels::KvType;
use limbeck_plan::Op;

use super::buffers::Slice;
use super::cache::{DeviceCache, HeadLayout};
use super::call::CallLayout;
use super::device::Gpu;
use super::record::COUNTER_WORDS;
use super::{Shared, ops};
use crate::backend::Call;
use crate::backend::lower::{Instruction, Lowered};
use crate::backend::sizes::Sizes;
use crate::backend::slots::{Unit, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Holding;

/// Words of a call that there is room for at least.
const CALL_WORDS: usize = 1 << 14;

/// Of the counters of an op that follows choices, which has two weights.
const COUNTER_BYTES: usize = 2 * COUNTER_WORDS * 4;

/// Bytes behind each value that tests bind with it, to see whether they are read or written; see `tests/guards.rs`.
pub(super) const GUARD: usize = if cfg!(test) { 4096 } else { 0 };

/// The buffers of a session, which only grow.
#[derive(Default)]
pub(super) struct Pool {
    /// By entry and slot.
    pub slots: Vec<Vec<Option<wgpu::Buffer>>>,
    pub call: Option<wgpu::Buffer>,
    queries: Option<wgpu::Buffer>,
    /// Keys and values of calls that keep none.
    local: Option<wgpu::Buffer>,
    /// Choices.
    pub made: Option<wgpu::Buffer>,
    /// What is read of weights that choices bound.
    pub counted: Option<wgpu::Buffer>,
    /// The largest logits.
    pub picked: Option<wgpu::Buffer>,
    /// Of mixtures: routes, what experts have between their linears, and what they give. What other ops have on
    /// their way is in the second too, and what groups find of parts of attention's positions in the third.
    routes: Option<wgpu::Buffer>,
    hidden: Option<wgpu::Buffer>,
    parts: Option<wgpu::Buffer>,
    /// What norms make of linears' inputs, and what these are in bytes.
    normed: Option<wgpu::Buffer>,
    rounded: Option<wgpu::Buffer>,
    /// Rows in the order of their choices.
    ordered: Option<wgpu::Buffer>,
    /// The largest logits of slices.
    slices: Option<wgpu::Buffer>,
    pub read: Option<wgpu::Buffer>,
    none: Option<wgpu::Buffer>,
}

impl Pool {
    /// No buffers yet, for entries with so many slots each.
    pub fn new(slots: impl Iterator<Item = usize>) -> Pool {
        Pool { slots: slots.map(|count| vec![None; count]).collect(), ..Pool::default() }
    }

    /// Makes the buffers of an entry large enough; `elements` are those of its slots, `replaced` is told when one
    /// takes the place of another.
    ///
    /// # Errors
    /// `Memory`, of the session or of the device.
    pub fn fit(
        &mut self,
        gpu: &Gpu,
        held: &mut Holding,
        needed: &Needed,
        (entry, elements): (usize, impl Iterator<Item = usize>),
        mut replaced: impl FnMut(),
    ) -> Result<()> {
        use wgpu::BufferUsages as Usage;
        let storage = Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC;
        let mut wanted: Vec<(&mut Option<wgpu::Buffer>, &str, usize, Usage)> = vec![
            (&mut self.call, "the call", needed.call, storage),
            (&mut self.queries, "queries", needed.queries, storage),
            (&mut self.local, "keys and values", needed.local, storage),
            (&mut self.made, "choices", needed.made, storage),
            (&mut self.counted, "counters", needed.counted, storage),
            (&mut self.picked, "the largest logits", needed.picked, storage),
            (&mut self.routes, "routes", needed.routes, storage),
            (&mut self.hidden, "hidden units", needed.hidden, storage),
            (&mut self.parts, "experts' results", needed.parts, storage),
            (&mut self.normed, "normalised inputs", needed.normed, storage),
            (&mut self.rounded, "rounded inputs", needed.rounded, storage),
            (&mut self.ordered, "the order of rows", needed.ordered, storage),
            (&mut self.slices, "the largest logits of slices", needed.slices, storage),
            (&mut self.none, "nothing", 16, storage),
            (&mut self.read, "results", needed.read, Usage::COPY_DST | Usage::MAP_READ),
        ];
        for (buffer, elements) in self.slots[entry].iter_mut().zip(elements) {
            let bytes = elements.saturating_mul(4).saturating_add(GUARD);
            wanted.push((buffer, "a value", bytes, storage));
        }
        for (buffer, label, bytes, usage) in wanted {
            let have = buffer.as_ref().map_or(0, |b| b.size() as usize);
            if buffer.is_some() && have >= bytes {
                continue;
            }
            let bytes = bytes.max(16).next_multiple_of(16);
            let others = held.bytes() - have;
            held.set(others.saturating_add(bytes))?;
            // The old one goes first, and at once the recordings that bind it: one after it may fail.
            *buffer = None;
            replaced();
            let made = gpu.buffer(label, bytes, usage).inspect_err(|_| {
                // Less than before always fits.
                let _ = held.set(others);
            })?;
            *buffer = Some(made);
        }
        Ok(())
    }

    /// The buffers of an entry.
    ///
    /// # Errors
    /// One that was not made.
    pub fn of<'a>(&'a self, entry: usize, cache: &'a DeviceCache) -> Result<Buffers<'a>> {
        Ok(Buffers {
            slots: &self.slots[entry],
            call: there(&self.call)?,
            queries: there(&self.queries)?,
            none: there(&self.none)?,
            made: there(&self.made)?,
            counted: there(&self.counted)?,
            picked: there(&self.picked)?,
            routes: there(&self.routes)?,
            hidden: there(&self.hidden)?,
            parts: there(&self.parts)?,
            normed: there(&self.normed)?,
            rounded: there(&self.rounded)?,
            ordered: there(&self.ordered)?,
            slices: there(&self.slices)?,
            local: there(&self.local)?,
            cache,
        })
    }
}

/// The buffers of one entry, as recordings bind them.
pub(super) struct Buffers<'a> {
    slots: &'a [Option<wgpu::Buffer>],
    pub call: &'a wgpu::Buffer,
    pub queries: &'a wgpu::Buffer,
    pub none: &'a wgpu::Buffer,
    pub made: &'a wgpu::Buffer,
    pub counted: &'a wgpu::Buffer,
    pub picked: &'a wgpu::Buffer,
    pub routes: &'a wgpu::Buffer,
    pub hidden: &'a wgpu::Buffer,
    pub parts: &'a wgpu::Buffer,
    pub normed: &'a wgpu::Buffer,
    pub rounded: &'a wgpu::Buffer,
    pub ordered: &'a wgpu::Buffer,
    pub slices: &'a wgpu::Buffer,
    local: &'a wgpu::Buffer,
    cache: &'a DeviceCache,
}

/// How keys and values lie in calls that keep none.
const LOCAL: KvType = KvType::F32;

impl Buffers<'_> {
    /// Where a value of so many elements lives.
    pub fn value(&self, value: Value, len: usize) -> Result<Slice> {
        let buffer = self.slots.get(value.slot).and_then(Option::as_ref);
        let buffer = buffer.ok_or_else(|| Error::new(ErrorKind::Backend, "a buffer is missing"))?;
        let whole = buffer.size() as usize;
        let bytes = if GUARD != 0 { whole } else { len.max(1).saturating_mul(4).min(whole) };
        Ok(Slice { buffer: buffer.clone(), offset: 0, bytes })
    }

    /// Where attention of these heads finds keys and values, and how they lie there.
    pub fn keys_and_values(
        &self,
        state: Option<usize>,
        kv_heads: usize,
        dim: usize,
    ) -> Result<(HeadLayout, Slice)> {
        let missing = || Error::new(ErrorKind::Backend, "no positions were reserved");
        match state {
            Some(layer) => {
                let (layout, buffer) = self.cache.layer(layer).ok_or_else(missing)?;
                Ok((layout, Slice::whole(buffer)))
            }
            None => Ok((HeadLayout::new(LOCAL, kv_heads, dim), Slice::whole(self.local))),
        }
    }
}

/// What a call needs of buffers beside its values, in bytes.
#[derive(Default)]
pub(super) struct Needed {
    call: usize,
    queries: usize,
    local: usize,
    made: usize,
    counted: usize,
    picked: usize,
    routes: usize,
    hidden: usize,
    parts: usize,
    normed: usize,
    rounded: usize,
    ordered: usize,
    slices: usize,
    read: usize,
}

/// A buffer that was made.
pub(super) fn there(buffer: &Option<wgpu::Buffer>) -> Result<&wgpu::Buffer> {
    buffer.as_ref().ok_or_else(|| Error::new(ErrorKind::Backend, "a buffer is missing"))
}

/// What a call of so many words needs of buffers, beside its values.
pub(super) fn needed(
    shared: &Shared,
    lowered: &Lowered,
    sizes: &Sizes,
    call: &Call<'_>,
    made: usize,
    words: usize,
) -> Result<Needed> {
    let tokens = sizes.units(Unit::Tokens);
    // Block tables grow as sequences do.
    let words = words.next_power_of_two().max(CALL_WORDS);
    let mut needed = Needed { call: words * 4, made: made * 4, ..Needed::default() };
    let larger =
        |have: &mut usize, elements: usize| *have = (*have).max(elements.saturating_mul(4));
    let rounded = |weight: usize, elements: usize, precise: bool| -> Result<usize> {
        let weight = shared.weights.get(weight)?;
        let rows = elements / weight.cols.max(1);
        Ok(ops::rounded_words(weight.format, [rows, weight.cols], precise))
    };
    for named in &lowered.instructions {
        match &named.instruction {
            Instruction::Linear { params, x, norm, weight, .. } => {
                larger(&mut needed.rounded, rounded(*weight, sizes.len(*x), params.precise)?);
                let quantised = shared.weights.get(*weight)?.format.values.is_quantised();
                if norm.is_some() && !quantised {
                    larger(&mut needed.normed, sizes.len(*x));
                }
            }
            Instruction::Attention { params, .. } => {
                larger(&mut needed.queries, tokens * params.heads * params.head_dim);
                larger(&mut needed.parts, ops::found_words(params, tokens, ops::parts_of(call)));
                if params.state.is_none() {
                    let layout = HeadLayout::new(LOCAL, params.kv_heads, params.head_dim);
                    let blocks = CallLayout::local_blocks(call.spans);
                    larger(&mut needed.local, blocks.saturating_mul(layout.block_bytes() / 4));
                }
            }
            Instruction::AdaptiveMlp { params, x, w1, w2, .. } => {
                let kinds = params.learners + 1;
                larger(&mut needed.ordered, ops::ordered_words(tokens, kinds));
                let units = tokens.saturating_mul(shared.weights.get(*w2)?.cols);
                larger(&mut needed.hidden, units);
                larger(&mut needed.rounded, rounded(*w1, sizes.len(*x), false)?);
                larger(&mut needed.rounded, rounded(*w2, units, false)?);
                needed.counted += COUNTER_BYTES;
            }
            Instruction::SparseLinear { params, x, norm, weight, .. } => {
                larger(&mut needed.hidden, sizes.len(*x));
                larger(
                    &mut needed.rounded,
                    rounded(*weight, sizes.len(*x), params.linear.precise)?,
                );
                if norm.is_some() {
                    larger(&mut needed.normed, sizes.len(*x));
                }
            }
            Instruction::Tensor { op: Op::Map(p), out, .. } => {
                let gathered = ops::gathered(p.inputs).saturating_mul(sizes.len(*out));
                larger(&mut needed.hidden, gathered);
            }
            Instruction::MoeMlp { params, x, w1, w2, out, .. } => {
                let pairs = tokens.saturating_mul(params.top_k);
                larger(&mut needed.ordered, ops::ordered_words(pairs, params.experts));
                larger(&mut needed.rounded, rounded(*w1, sizes.len(*x), false)?);
                larger(&mut needed.routes, 2 * pairs + tokens);
                let units = pairs.saturating_mul(shared.weights.get(*w2)?.cols);
                larger(&mut needed.hidden, units);
                larger(&mut needed.rounded, rounded(*w2, units, false)?);
                larger(&mut needed.parts, pairs.saturating_mul(out.cols));
                needed.counted += COUNTER_BYTES;
            }
            _ => {}
        }
    }
    let rows = sizes.units(Unit::Outputs);
    let mut picked = 0;
    let logits = lowered.outputs.iter().find(|output| output.name == ops::LOGITS);
    if let Some(cols) = logits.map(|logits| logits.value.cols).filter(|_| call.pick.count > 0) {
        picked = ops::picked_words(rows, cols, call.pick);
        larger(&mut needed.picked, picked);
        let slices = cols.div_ceil(ops::SLICE).saturating_mul(rows);
        larger(&mut needed.slices, slices.saturating_mul(2 * call.pick.count + 2));
    }
    let outputs = lowered.outputs.iter().map(|output| sizes.len(output.value).max(picked));
    let words = outputs.fold(made, usize::saturating_add);
    needed.read = words.saturating_mul(4).saturating_add(needed.counted);
    Ok(needed)
}
