//! One session on the device: its buffers, its recordings, its cache, and the run of a call.

use std::sync::Arc;

use limbeck_kernels::{Elements, KvType, TensorArg};
use limbeck_plan::{Dim, Op};

use super::buffers::Slice;
use super::cache::{DeviceCache, HeadLayout};
use super::call::CallLayout;
use super::record::Recording;
use super::sites::{self, MadeLayout};
use super::{Shared, ops};
use crate::backend::lower::{Instruction, Lowered, Output};
use crate::backend::sizes::Sizes;
use crate::backend::slots::{Unit, Value};
use crate::backend::{Bounds, Call, Choices, DeviceUse, Matrix, Sequences, Spent, State};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Holding;
use crate::pace::check_cancelled;

/// Recordings that an entry keeps: one for decoding, a few for longer calls.
const RECORDINGS: usize = 8;

/// Bytes behind each value that tests bind with it, to see whether they are read or written; see [`guards`].
const GUARD: usize = if cfg!(test) { 4096 } else { 0 };

/// Words of a call that there is room for at least.
const CALL_WORDS: usize = 1 << 14;

/// Buffers, recordings and cache of one session.
pub(super) struct WgpuState {
    shared: Arc<Shared>,
    bounds: Bounds,
    cache: DeviceCache,
    /// What buffers take.
    held: Holding,
    pool: Pool,
    recordings: Vec<Kept>,
    /// The capacity of the cache that recordings bind.
    seen: usize,
    words: Vec<u32>,
    /// What the last run wrote, each output in turn.
    results: Vec<f32>,
    choices: Choices,
    /// The entry and sizes of the last run.
    last: Option<(usize, Sizes)>,
    used: DeviceUse,
}

/// A recording and the calls that it is for.
struct Kept {
    entry: usize,
    sizes: Sizes,
    /// The values of the call's symbols.
    bound: Vec<u64>,
    recording: Recording,
}

/// The buffers of a session, which only grow.
#[derive(Default)]
struct Pool {
    /// By entry and slot.
    slots: Vec<Vec<Option<wgpu::Buffer>>>,
    call: Option<wgpu::Buffer>,
    queries: Option<wgpu::Buffer>,
    /// Keys and values of calls that keep none.
    local: Option<wgpu::Buffer>,
    /// Choices.
    made: Option<wgpu::Buffer>,
    /// Of mixtures: routes, what experts have between their linears, and what they give. What other ops have on
    /// their way is in the second too.
    routes: Option<wgpu::Buffer>,
    hidden: Option<wgpu::Buffer>,
    parts: Option<wgpu::Buffer>,
    read: Option<wgpu::Buffer>,
    none: Option<wgpu::Buffer>,
}

/// The buffers of one entry, as recordings bind them.
pub(super) struct Buffers<'a> {
    slots: &'a [Option<wgpu::Buffer>],
    pub call: &'a wgpu::Buffer,
    pub queries: &'a wgpu::Buffer,
    pub none: &'a wgpu::Buffer,
    pub made: &'a wgpu::Buffer,
    pub routes: &'a wgpu::Buffer,
    pub hidden: &'a wgpu::Buffer,
    pub parts: &'a wgpu::Buffer,
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
        let bytes = if GUARD > 0 { whole } else { len.max(1).saturating_mul(4).min(whole) };
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

/// What a call needs of buffers, in bytes.
#[derive(Default)]
struct Needed {
    queries: usize,
    local: usize,
    made: usize,
    routes: usize,
    hidden: usize,
    parts: usize,
    read: usize,
}

impl WgpuState {
    pub fn new(
        shared: Arc<Shared>,
        cache: DeviceCache,
        bounds: Bounds,
        held: Holding,
    ) -> WgpuState {
        let slots = shared.entries.iter().map(|e| vec![None; e.lowered.slots.sizes().len()]);
        WgpuState {
            pool: Pool { slots: slots.collect(), ..Pool::default() },
            shared,
            bounds,
            cache,
            held,
            recordings: Vec::new(),
            seen: 0,
            words: Vec::new(),
            results: Vec::new(),
            choices: Choices::default(),
            last: None,
            used: DeviceUse::default(),
        }
    }

    /// Makes the buffers of an entry large enough for a call.
    fn make_room(&mut self, index: usize, sizes: &Sizes, needed: &Needed) -> Result<()> {
        use wgpu::BufferUsages as Usage;
        let shared = self.shared.clone();
        let storage = Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC;
        // Block tables grow as sequences do.
        let words = self.words.len().next_power_of_two().max(CALL_WORDS);
        let mut wanted: Vec<(&mut Option<wgpu::Buffer>, &str, usize, Usage)> = vec![
            (&mut self.pool.call, "the call", words * 4, storage),
            (&mut self.pool.queries, "queries", needed.queries, storage),
            (&mut self.pool.local, "keys and values", needed.local, storage),
            (&mut self.pool.made, "choices", needed.made, storage),
            (&mut self.pool.routes, "routes", needed.routes, storage),
            (&mut self.pool.hidden, "hidden units", needed.hidden, storage),
            (&mut self.pool.parts, "experts' results", needed.parts, storage),
            (&mut self.pool.none, "nothing", 16, storage),
            (&mut self.pool.read, "results", needed.read, Usage::COPY_DST | Usage::MAP_READ),
        ];
        let slots = shared.entries[index].lowered.slots.sizes();
        for (buffer, (unit, size)) in self.pool.slots[index].iter_mut().zip(slots) {
            let bytes = sizes.units(*unit).saturating_mul(*size).saturating_mul(4);
            let bytes = bytes.saturating_add(GUARD);
            wanted.push((buffer, "a value", bytes, storage));
        }
        for (buffer, label, bytes, usage) in wanted {
            let have = buffer.as_ref().map_or(0, |b| b.size() as usize);
            if buffer.is_some() && have >= bytes {
                continue;
            }
            let bytes = bytes.max(16).next_multiple_of(16);
            let others = self.held.bytes() - have;
            self.held.set(others.saturating_add(bytes))?;
            // The old one goes first, and at once the recordings that bind it: one after it may fail.
            *buffer = None;
            self.recordings.clear();
            let made = shared.gpu.buffer(label, bytes, usage).inspect_err(|_| {
                // Less than before always fits.
                let _ = self.held.set(others);
            })?;
            *buffer = Some(made);
        }
        if self.seen != self.cache.capacity() {
            self.recordings.clear();
            self.seen = self.cache.capacity();
        }
        Ok(())
    }

    /// The index of the recording for a call, which is made where there is none.
    fn recording(
        &mut self,
        index: usize,
        sizes: &Sizes,
        layout: &CallLayout,
        made: &MadeLayout,
        call: &Call<'_>,
    ) -> Result<usize> {
        let bound: Vec<u64> = call.sizes.iter().map(|(_, value)| *value).collect();
        let fits = |kept: &Kept| kept.entry == index && kept.sizes == *sizes && kept.bound == bound;
        if let Some(found) = self.recordings.iter().position(fits) {
            // The one used last stays longest.
            let kept = self.recordings.remove(found);
            self.recordings.push(kept);
            return Ok(self.recordings.len() - 1);
        }
        let pool = &self.pool;
        let buffers = Buffers {
            slots: &pool.slots[index],
            call: there(&pool.call)?,
            queries: there(&pool.queries)?,
            none: there(&pool.none)?,
            made: there(&pool.made)?,
            routes: there(&pool.routes)?,
            hidden: there(&pool.hidden)?,
            parts: there(&pool.parts)?,
            local: there(&pool.local)?,
            cache: &self.cache,
        };
        let entry = &self.shared.entries[index];
        let size = |dim: &Dim| call.size(dim).and_then(|n| usize::try_from(n).ok());
        let recording = Recording::new(&self.shared, entry, sizes, layout, made, &size, &buffers)?;
        if self.recordings.len() >= RECORDINGS {
            self.recordings.remove(0);
        }
        self.recordings.push(Kept { entry: index, sizes: sizes.clone(), bound, recording });
        Ok(self.recordings.len() - 1)
    }

    /// Sends a call to the device and takes what it gives: its outputs, then its choices.
    fn submit(&mut self, index: usize, sizes: &Sizes, recording: usize, made: usize) -> Result<()> {
        let gpu = &self.shared.gpu;
        let (call, target) = (there(&self.pool.call)?, there(&self.pool.read)?);
        gpu.queue.write_buffer(call, 0, bytemuck::cast_slice(&self.words));
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let choices = there(&self.pool.made)?;
        if made > 0 {
            encoder.clear_buffer(choices, 0, None);
        }
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.recordings[recording].recording.replay(&mut pass);
        }
        let mut read = 0;
        let mut copy = |buffer: &wgpu::Buffer, words: usize| {
            let bytes = words as u64 * 4;
            if bytes > 0 {
                encoder.copy_buffer_to_buffer(buffer, 0, target, read, bytes);
            }
            read += bytes;
        };
        for output in &self.shared.entries[index].lowered.outputs {
            let slot = self.pool.slots[index].get(output.value.slot).unwrap_or(&None);
            copy(there(slot)?, sizes.len(output.value));
        }
        copy(choices, made);
        let submission = gpu.queue.submit([encoder.finish()]);
        self.results.clear();
        if read == 0 {
            return gpu.wait(submission);
        }
        let results = &mut self.results;
        gpu.read(target, read as usize, submission, |bytes| {
            let words = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            results.extend(words);
        })
    }

    /// Copies the tensors that the caller gives to where they live.
    fn take_tensors(&self, call: &Call<'_>, sizes: &Sizes) -> Result<()> {
        for Output { name, operand, value } in &self.shared.entries[call.entry].lowered.tensors {
            let given = call.tensor(name)?;
            let words = given.data.buffer();
            if given.shape != sizes.shape(*operand) || words.len() != sizes.len(*value) {
                let message = format!("tensor {name:?} of {:?} does not fit", given.shape);
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
            let slot = self.pool.slots[call.entry].get(value.slot).unwrap_or(&None);
            let bytes = bytemuck::cast_slice(words);
            self.shared.gpu.queue.write_buffer(there(slot)?, 0, bytes);
        }
        Ok(())
    }

    /// An output of the last run and its words.
    fn written(&self, name: &str) -> Option<(&[f32], &Output)> {
        let (entry, sizes) = self.last.as_ref()?;
        let mut start = 0;
        for output in &self.shared.entries.get(*entry)?.lowered.outputs {
            let len = sizes.len(output.value);
            if output.name == name {
                return Some((self.results.get(start..start + len)?, output));
            }
            start += len;
        }
        None
    }
}

/// A buffer that was made.
fn there(buffer: &Option<wgpu::Buffer>) -> Result<&wgpu::Buffer> {
    buffer.as_ref().ok_or_else(|| Error::new(ErrorKind::Backend, "a buffer is missing"))
}

/// What a call needs of buffers.
fn needed(
    shared: &Shared,
    lowered: &Lowered,
    sizes: &Sizes,
    call: &Call<'_>,
    made: usize,
) -> Result<Needed> {
    let tokens = sizes.units(Unit::Tokens);
    let mut needed = Needed { made: made * 4, ..Needed::default() };
    let larger =
        |have: &mut usize, elements: usize| *have = (*have).max(elements.saturating_mul(4));
    for named in &lowered.instructions {
        match &named.instruction {
            Instruction::Attention { params, .. } => {
                larger(&mut needed.queries, tokens * params.heads * params.head_dim);
                if params.state.is_none() {
                    let layout = HeadLayout::new(LOCAL, params.kv_heads, params.head_dim);
                    let blocks = CallLayout::local_blocks(call.spans);
                    larger(&mut needed.local, blocks.saturating_mul(layout.block_bytes() / 4));
                }
            }
            Instruction::AdaptiveMlp { w2, .. } => {
                let units = shared.weights.get(*w2)?.cols;
                larger(&mut needed.hidden, tokens.saturating_mul(units));
            }
            Instruction::SparseLinear { x, .. } => larger(&mut needed.hidden, sizes.len(*x)),
            Instruction::Tensor { op: Op::Map(p), out, .. } => {
                let gathered = ops::gathered(p.inputs).saturating_mul(sizes.len(*out));
                larger(&mut needed.hidden, gathered);
            }
            Instruction::MoeMlp { params, w2, out, .. } => {
                let pairs = tokens.saturating_mul(params.top_k);
                larger(&mut needed.routes, 2 * pairs + tokens);
                let units = shared.weights.get(*w2)?.cols;
                larger(&mut needed.hidden, pairs.saturating_mul(units));
                larger(&mut needed.parts, pairs.saturating_mul(out.cols));
            }
            _ => {}
        }
    }
    let outputs = lowered.outputs.iter().map(|output| sizes.len(output.value));
    let words = outputs.fold(made, usize::saturating_add);
    needed.read = words.saturating_mul(4);
    Ok(needed)
}

impl State for WgpuState {
    fn run(&mut self, call: &Call<'_>) -> Result<Spent> {
        self.last = None;
        // A step is one submission: it is not cancelled on its way.
        call.control.map_or(Ok(()), check_cancelled)?;
        self.bounds.check(call)?;
        let shared = self.shared.clone();
        let entry = shared.entries.get(call.entry).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("entry {} does not exist", call.entry))
        })?;
        let sizes = Sizes::of(&entry.lowered, call)?;
        self.choices.begin(&shared.data.plan.program().sites, call)?;
        let sites = &shared.data.plan.program().sites;
        let layout = CallLayout::new(entry, sites, &sizes);
        let made = MadeLayout::new(&entry.told, call.tokens);
        let table = entry.keeps.then(|| self.cache.table());
        layout.fill(entry, call, table, &mut self.words)?;
        sites::fill(&layout, &entry.told.choosers, sites, call, &mut self.words);
        entry.told.level(&layout, sites, call, &mut self.choices, &mut self.words)?;
        let needed = needed(&shared, &entry.lowered, &sizes, call, made.words)?;
        self.make_room(call.entry, &sizes, &needed)?;
        let recording = self.recording(call.entry, &sizes, &layout, &made, call)?;
        #[cfg(test)]
        guards::poison(&shared.gpu, &self.pool.slots[call.entry]);
        self.take_tensors(call, &sizes)?;
        self.submit(call.entry, &sizes, recording, made.words)?;
        #[cfg(test)]
        guards::check(&shared.gpu, &self.pool.slots[call.entry])?;
        let Recording { weight_bytes, .. } = self.recordings[recording].recording;
        self.used = DeviceUse {
            dispatches: self.recordings[recording].recording.len(),
            submissions: 1,
            weight_bytes_bound: weight_bytes,
            bytes_read_back: self.results.len() * 4,
            weight_bytes_held: shared.weights.bytes,
        };
        let words = self.results.len().saturating_sub(made.words);
        made.take(&entry.told, &entry.lowered, &self.results[words..], &mut self.choices)?;
        self.last = Some((call.entry, sizes));
        Ok(entry.lowered.cost.of(call, &self.choices))
    }

    fn output(&self, name: &str) -> Option<Matrix<'_>> {
        let (values, output) = self.written(name)?;
        Some(Matrix { values, cols: output.value.cols })
    }

    fn tensor(&self, name: &str) -> Option<TensorArg<'_>> {
        let (values, output) = self.written(name)?;
        let (entry, sizes) = self.last.as_ref()?;
        let fact = self.shared.entries.get(*entry)?.lowered.facts.get(output.operand)?;
        Some(TensorArg {
            shape: sizes.shape(output.operand),
            data: Elements::of(fact.dtype, values),
        })
    }

    fn choices(&self) -> &[i32] {
        self.choices.all()
    }

    fn device_use(&self) -> Option<DeviceUse> {
        Some(self.used)
    }

    fn sequences(&self) -> &dyn Sequences {
        &self.cache
    }

    fn sequences_mut(&mut self) -> &mut dyn Sequences {
        &mut self.cache
    }
}

/// What tests put into values before a run, and find behind them after it: NaN, so that what a kernel does not write
/// shows, and what it should not read.
#[cfg(test)]
mod guards {
    use super::super::device::Gpu;
    use super::GUARD;
    use crate::error::Result;

    pub fn poison(gpu: &Gpu, slots: &[Option<wgpu::Buffer>]) {
        for buffer in slots.iter().flatten() {
            let nans = vec![f32::NAN; buffer.size() as usize / 4];
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&nans));
        }
    }

    pub fn check(gpu: &Gpu, slots: &[Option<wgpu::Buffer>]) -> Result<()> {
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let ends = gpu.buffer("guards", slots.len() * GUARD, usage)?;
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let (mut at, bytes) = (0, GUARD as u64);
        for buffer in slots.iter().flatten() {
            encoder.copy_buffer_to_buffer(buffer, buffer.size() - bytes, &ends, at, bytes);
            at += bytes;
        }
        let submission = gpu.queue.submit([encoder.finish()]);
        gpu.read(&ends, at as usize, submission, |bytes| {
            let whole = bytes.chunks_exact(4).all(|word| word == f32::NAN.to_le_bytes());
            assert!(whole, "a kernel wrote behind a value");
        })
    }
}
