//! One session on the device: its buffers, its recordings, its cache, and the run of a call.

use std::sync::Arc;

use limbeck_kernels::{Elements, TensorArg};

use super::Shared;
use super::cache::DeviceCache;
use super::call::CallLayout;
use super::ops::{self, LOGITS, picked_words};
use super::pool::{Needed, Pool, needed, there};
use super::record::{COUNTER_WORDS, Recording};
use super::sites::{self, MadeLayout};
#[cfg(test)]
use super::tests;
use crate::backend::lower::Output;
use crate::backend::sizes::Sizes;
use crate::backend::{Bounds, Call, Choices, DeviceUse, Matrix, Sequences, Spent, State};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Holding;
use crate::pace::check_cancelled;
use crate::text::shortlist::{Need, Pick, Shortlist};

/// Recordings that an entry keeps: one for decoding, a few for longer calls.
const RECORDINGS: usize = 8;

/// What the words of a counter say, of which the low one comes first.
pub(super) fn counted_units(words: &[f32]) -> usize {
    let all = words.iter().rev().fold(0, |high: u64, word| high << 32 | u64::from(word.to_bits()));
    usize::try_from(all).unwrap_or(usize::MAX)
}

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
    last: Option<Last>,
    /// Of the last run's logits, where it was asked to pick.
    picked: Option<Vec<Shortlist>>,
    used: DeviceUse,
}

/// What the last run was.
struct Last {
    entry: usize,
    sizes: Sizes,
    pick: Pick,
}

impl Last {
    /// Whether the largest of an output took its place.
    fn picks(&self, output: &Output) -> bool {
        self.pick.count > 0 && output.name == LOGITS
    }

    /// Words that came back of an output.
    fn words(&self, output: &Output) -> usize {
        let len = self.sizes.len(output.value);
        let cols = output.value.cols;
        if self.picks(output) { picked_words(len / cols.max(1), cols, self.pick) } else { len }
    }
}

/// A recording and the calls that it is for.
struct Kept {
    entry: usize,
    sizes: Sizes,
    /// The values of the call's symbols.
    bound: Vec<u64>,
    /// How many of the largest logits it ends with, and whether with masses.
    pick: (usize, bool),
    /// Groups that share attention's positions.
    parts: usize,
    recording: Recording,
    /// How often it ran.
    runs: usize,
    /// Its commands, where they are there before they are wanted.
    ready: Option<Commands>,
}

/// What is sent to the device, and how many bytes it brings back.
struct Commands {
    buffer: wgpu::CommandBuffer,
    read: u64,
}

impl WgpuState {
    pub fn new(
        shared: Arc<Shared>,
        cache: DeviceCache,
        bounds: Bounds,
        held: Holding,
    ) -> WgpuState {
        let slots = shared.entries.iter().map(|e| e.lowered.slots.sizes().len());
        WgpuState {
            pool: Pool::new(slots),
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
            picked: None,
            used: DeviceUse::default(),
        }
    }

    /// Makes the buffers of an entry large enough for a call, and lets recordings go that bind others.
    fn make_room(&mut self, index: usize, sizes: &Sizes, needed: &Needed) -> Result<()> {
        let shared = self.shared.clone();
        let slots = shared.entries[index].lowered.slots.sizes();
        let slots = slots.iter().map(|(unit, size)| sizes.units(*unit).saturating_mul(*size));
        let (held, recordings) = (&mut self.held, &mut self.recordings);
        self.pool.fit(&shared.gpu, held, needed, (index, slots), || recordings.clear())?;
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
        let parts = ops::parts_of(call);
        let pick = (call.pick.count, call.pick.temperature != 0.0);
        let fits = |kept: &Kept| {
            let same = (kept.entry, kept.pick, kept.parts) == (index, pick, parts);
            same && kept.sizes == *sizes && kept.bound == bound
        };
        if let Some(found) = self.recordings.iter().position(fits) {
            // The one used last stays longest.
            let kept = self.recordings.remove(found);
            self.recordings.push(kept);
            return Ok(self.recordings.len() - 1);
        }
        let buffers = self.pool.of(index, &self.cache)?;
        let entry = &self.shared.entries[index];
        let recording = Recording::new(&self.shared, entry, sizes, layout, made, call, &buffers)?;
        if self.recordings.len() >= RECORDINGS {
            self.recordings.remove(0);
        }
        self.recordings.push(Kept {
            entry: index,
            sizes: sizes.clone(),
            bound,
            pick,
            parts,
            recording,
            runs: 0,
            ready: None,
        });
        Ok(self.recordings.len() - 1)
    }

    /// Sends a call to the device and takes what it gives: its outputs, then its choices, then its counters.
    fn submit(&mut self, last: &Last, recording: usize, made: usize) -> Result<()> {
        let gpu = self.shared.gpu.clone();
        gpu.queue.write_buffer(there(&self.pool.call)?, 0, bytemuck::cast_slice(&self.words));
        let ready = self.recordings[recording].ready.take();
        let again = ready.is_some() || self.recordings[recording].runs > 0;
        let Commands { buffer, read } = match ready {
            Some(commands) => commands,
            None => self.encode(last, recording, made)?,
        };
        let submission = gpu.queue.submit([buffer]);
        self.recordings[recording].runs += 1;
        if again {
            // Those of the next step, while the device is at this one.
            self.recordings[recording].ready = Some(self.encode(last, recording, made)?);
        }
        self.take(submission, read)
    }

    /// The commands of a recording.
    fn encode(&self, last: &Last, recording: usize, made: usize) -> Result<Commands> {
        let mut encoder = self.shared.gpu.device.create_command_encoder(&Default::default());
        let recording = &self.recordings[recording].recording;
        let (choices, counted) = (there(&self.pool.made)?, there(&self.pool.counted)?);
        let counters = recording.counters.len() * COUNTER_WORDS;
        if made > 0 {
            encoder.clear_buffer(choices, 0, None);
        }
        if counters > 0 {
            encoder.clear_buffer(counted, 0, None);
        }
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            recording.replay(&mut pass);
        }
        let read = self.copy_outputs(last, &mut encoder)?;
        let read = self.copy(&mut encoder, choices, made, read)?;
        let read = self.copy(&mut encoder, counted, counters, read)?;
        Ok(Commands { buffer: encoder.finish(), read })
    }

    /// Copies what comes back of each output in turn, and gives how many bytes that is.
    fn copy_outputs(&self, last: &Last, encoder: &mut wgpu::CommandEncoder) -> Result<u64> {
        let mut read = 0;
        for output in &self.shared.entries[last.entry].lowered.outputs {
            let slot = self.pool.slots[last.entry].get(output.value.slot).unwrap_or(&None);
            let source = if last.picks(output) { &self.pool.picked } else { slot };
            read = self.copy(encoder, there(source)?, last.words(output), read)?;
        }
        Ok(read)
    }

    /// Copies words to the bytes from `read` on of what comes back, and gives how many bytes there are then.
    fn copy(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffer: &wgpu::Buffer,
        words: usize,
        read: u64,
    ) -> Result<u64> {
        let bytes = words as u64 * 4;
        if bytes > 0 {
            encoder.copy_buffer_to_buffer(buffer, 0, there(&self.pool.read)?, read, bytes);
        }
        Ok(read + bytes)
    }

    /// Takes so many bytes that a submission brings back.
    fn take(&mut self, submission: wgpu::SubmissionIndex, read: u64) -> Result<()> {
        let gpu = &self.shared.gpu;
        self.results.clear();
        if read == 0 {
            return gpu.wait(submission);
        }
        let results = &mut self.results;
        gpu.read(there(&self.pool.read)?, read as usize, submission, |bytes| {
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

    /// The largest logits of each row that the last run gives in the place of all.
    fn largest_found(&self) -> Option<Vec<Shortlist>> {
        let (words, output) = self.written(LOGITS)?;
        let last = self.last.as_ref().filter(|last| last.picks(output))?;
        let rows = words.chunks_exact(picked_words(1, output.value.cols, last.pick));
        rows.map(|words| ops::shortlist(words, last.pick.count)).collect()
    }

    /// An output of the last run and its words.
    fn written(&self, name: &str) -> Option<(&[f32], &Output)> {
        let last = self.last.as_ref()?;
        let mut start = 0;
        for output in &self.shared.entries.get(last.entry)?.lowered.outputs {
            let len = last.words(output);
            if output.name == name {
                return Some((self.results.get(start..start + len)?, output));
            }
            start += len;
        }
        None
    }
}

impl State for WgpuState {
    fn run(&mut self, call: &Call<'_>) -> Result<Spent> {
        (self.last, self.picked) = (None, None);
        // A step is one submission: it is not cancelled on its way.
        call.control.map_or(Ok(()), check_cancelled)?;
        self.bounds.check(call)?;
        if call.pick.count > Need::MOST {
            let message =
                format!("{} logits are not picked, but {} at most", call.pick.count, Need::MOST);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
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
        let words = self.words.len();
        let needed = needed(&shared, &entry.lowered, &sizes, call, made.words, words)?;
        self.make_room(call.entry, &sizes, &needed)?;
        let recording = self.recording(call.entry, &sizes, &layout, &made, call)?;
        #[cfg(test)]
        tests::guards::poison(&shared.gpu, &self.pool.slots[call.entry]);
        self.take_tensors(call, &sizes)?;
        let last = Last { entry: call.entry, sizes, pick: call.pick };
        self.submit(&last, recording, made.words)?;
        #[cfg(test)]
        tests::guards::check(&shared.gpu, &self.pool.slots[call.entry])?;
        let Recording { weight_bytes, counters, .. } = &self.recordings[recording].recording;
        let counted = self.results.len().saturating_sub(counters.len() * COUNTER_WORDS);
        let read = self.results[counted..].chunks_exact(COUNTER_WORDS).zip(counters);
        let read = read.map(|(words, bytes)| counted_units(words).saturating_mul(*bytes));
        self.used = DeviceUse {
            dispatches: self.recordings[recording].recording.len(),
            submissions: 1,
            weight_bytes_bound: *weight_bytes,
            adaptive_bytes_read: read.fold(0, usize::saturating_add),
            bytes_read_back: self.results.len() * 4,
            weight_bytes_held: shared.weights.bytes,
        };
        let words = counted.saturating_sub(made.words);
        made.take(&entry.told, &entry.lowered, &self.results[words..counted], &mut self.choices)?;
        self.last = Some(last);
        self.picked = self.largest_found();
        Ok(entry.lowered.cost.of(call, &self.choices))
    }

    fn output(&self, name: &str) -> Option<Matrix<'_>> {
        let (values, output) = self.written(name)?;
        if self.last.as_ref()?.picks(output) {
            return None;
        }
        Some(Matrix { values, cols: output.value.cols })
    }

    fn tensor(&self, name: &str) -> Option<TensorArg<'_>> {
        let (values, output) = self.written(name)?;
        let last = self.last.as_ref()?;
        let fact = self.shared.entries.get(last.entry)?.lowered.facts.get(output.operand)?;
        Some(TensorArg {
            shape: last.sizes.shape(output.operand),
            data: Elements::of(fact.dtype, values),
        })
    }

    fn picked(&self) -> Option<&[Shortlist]> {
        self.picked.as_deref()
    }

    fn unpick(&mut self) -> Result<()> {
        let Some(last) = self.last.take() else { return Ok(()) };
        self.picked = None;
        let last = Last { pick: Pick::default(), ..last };
        let mut encoder = self.shared.gpu.device.create_command_encoder(&Default::default());
        let read = self.copy_outputs(&last, &mut encoder)?;
        let submission = self.shared.gpu.queue.submit([encoder.finish()]);
        self.take(submission, read)?;
        self.used.submissions += 1;
        self.used.bytes_read_back += self.results.len() * 4;
        self.last = Some(last);
        Ok(())
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
