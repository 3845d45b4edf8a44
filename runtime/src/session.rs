//! A session: sequences of tokens and their cached positions, advanced by steps.

use std::time::Instant;

use limbeck_kernels::{KvType, Rows, SeqId, Span};
use limbeck_plan::Manifest;
use xxhash_rust::xxh3::xxh3_64;

use crate::backend::{Bounds, Call, DeviceUse, State};
use crate::control::Control;
use crate::controller::Status;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Level;
use crate::memory::Account;
use crate::model::Model;
use crate::pace::{self, Pace};
use crate::route::Route;
use crate::text::shortlist::{Found, Need, Pick};
use crate::text::{Sampled, Sampler, SamplerOptions};
use crate::usage::Usage;

/// Most tokens that are computed at a time.
pub const MAX_CHUNK: usize = 1 << 16;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    #[default]
    F16,
    /// 8-bit integers with a scale per position and head.
    Q8,
}

impl KvFormat {
    /// Its name, as it is parsed.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Q8 => "q8",
        }
    }
}

impl std::str::FromStr for KvFormat {
    type Err = Error;

    fn from_str(s: &str) -> Result<KvFormat> {
        match s {
            "f32" => Ok(KvFormat::F32),
            "f16" => Ok(KvFormat::F16),
            "q8" => Ok(KvFormat::Q8),
            _ => {
                let message = format!("KV format {s:?} is none of f32, f16, q8");
                Err(Error::new(ErrorKind::InvalidInput, message))
            }
        }
    }
}

impl From<KvFormat> for KvType {
    fn from(format: KvFormat) -> KvType {
        match format {
            KvFormat::F32 => KvType::F32,
            KvFormat::F16 => KvType::F16,
            KvFormat::Q8 => KvType::Q8,
        }
    }
}

/// Options of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Positions that a sequence may have; 0 takes the student's context length.
    pub context: usize,
    /// Positions that all sequences together may keep, shared ones counted once, in blocks of 32 of one
    /// sequence; 0 takes 8 times the context. Memory is taken as it is used.
    pub cache_tokens: usize,
    /// Tokens that are computed at a time; longer calls are split. The split changes no result.
    pub chunk: usize,
    /// How keys and values are kept.
    pub kv: KvFormat,
    /// Bytes that the cache, buffers and scratch may take; 0 for no limit but the engine's.
    pub memory_limit: usize,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        let kv = KvFormat::default();
        SessionOptions { context: 0, cache_tokens: 0, chunk: 256, kv, memory_limit: 0 }
    }
}

/// Names a sequence of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sequence(SeqId);

impl Sequence {
    /// The name as a number, never 0.
    pub fn to_bits(self) -> u64 {
        self.0.to_bits()
    }

    /// The name that a number stands for. Any number will do: one that names no sequence of a
    /// session is refused there.
    pub fn from_bits(bits: u64) -> Sequence {
        Sequence(SeqId::from_bits(bits))
    }
}

/// Which logits a step gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// None.
    None,
    /// Those after the sequence's last token.
    #[default]
    Last,
    /// Those after each token.
    All,
}

/// Tokens to append to a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The sequence; each may come once in a step.
    pub sequence: Sequence,
    /// At least one token id.
    pub tokens: &'a [u32],
    /// Which logits to give.
    pub wanted: Wanted,
}

/// Where a row of logits belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitsRow {
    /// Index into the step's work.
    pub work: usize,
    /// Index into that work's tokens.
    pub token: usize,
}

/// Sequences over one model, with their own working memory and cache.
pub struct Session {
    model: Model,
    state: Box<dyn State>,
    entry: usize,
    context: usize,
    chunk: usize,
    pace: Pace,
    buffers: Buffers,
    route: Route,
    account: Account,
}

/// Reused by every step.
#[derive(Default)]
struct Buffers {
    ids: Vec<i32>,
    spans: Vec<Span>,
    sequences: Vec<Rows>,
    output_rows: Vec<usize>,
    outputs: Vec<LogitsRow>,
}

/// Snapshots begin with this and a format version; the plan's hash and the checksum of all that follows
/// come next.
const SNAPSHOT_MAGIC: [u8; 8] = *b"LBKSEQ\0\x02";

impl Session {
    pub(crate) fn new(model: Model, options: SessionOptions) -> Result<Session> {
        let entry = model.entry(Manifest::TEXT_ENTRY)?;
        let most = model.manifest().context_length;
        let context = if options.context == 0 { most } else { options.context };
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidInput, message));
        if context > most {
            return invalid(format!("a context of {context} is beyond the student's {most}"));
        }
        if options.chunk == 0 || options.chunk > MAX_CHUNK {
            return invalid(format!("a chunk of {} tokens is out of range", options.chunk));
        }
        let bounds = Bounds {
            tokens: options.chunk,
            cache_tokens: match options.cache_tokens {
                0 => context.saturating_mul(8),
                n => n,
            },
            kv: options.kv.into(),
        };
        let account = model.account("session", options.memory_limit);
        let state = model.state(&bounds, &account)?;
        let pace = Pace::new(model.curve(), model.logger());
        let cached = bounds.cache_tokens;
        model.logger().tell(Level::Debug, || {
            format!("session: a context of {context} tokens, a cache of {cached}")
        });
        Ok(Session {
            route: Route::new(model.plan().program().sites.len()),
            model,
            state,
            entry,
            context,
            chunk: options.chunk,
            pace,
            buffers: Buffers::default(),
            account,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Positions that a sequence may have.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The handle that cancels this session's steps and sets its budget, from any thread. A new
    /// session has the budget `full`.
    pub fn control(&self) -> Control {
        self.pace.control().clone()
    }

    /// How the budget fares.
    pub fn status(&self) -> Status {
        self.pace.status()
    }

    /// Runs `body` as one call for a budget of a deadline, with this many tokens expected in all of
    /// its steps. A step on its own is a call, and a call within another is a part of it.
    pub fn call<T>(
        &mut self,
        expected_tokens: usize,
        body: impl FnOnce(&mut Session) -> Result<T>,
    ) -> Result<T> {
        pace::call(self, |session| &mut session.pace, expected_tokens, body)
    }

    /// Forces choices on the next step: `[sites, tokens]`, the tokens of all its work in turn; -1
    /// leaves a choice to its gate. The step refuses choices that a site has not.
    pub fn force_route(&mut self, choices: Vec<i32>) {
        self.route.force(choices);
    }

    /// The choices of the last step, `[sites, tokens]`; -1 where it did not come to one.
    pub fn route(&self) -> &[i32] {
        self.route.made()
    }

    /// Bytes of cached keys and values, shared ones counted once.
    pub fn cache_bytes(&self) -> usize {
        self.state.sequences().bytes()
    }

    /// Bytes that the cache, buffers and scratch take now, freed blocks of the cache included.
    pub fn memory_bytes(&self) -> usize {
        self.account.used()
    }

    /// What the last chunk of the last step took of a device; `None` on a backend that has none.
    pub fn device_use(&self) -> Option<DeviceUse> {
        self.state.device_use()
    }

    /// A new, empty sequence.
    pub fn sequence(&mut self) -> Sequence {
        Sequence(self.state.sequences_mut().create())
    }

    /// A sequence with the same tokens; the cached positions are shared until one of the two
    /// writes.
    ///
    /// # Errors
    /// A sequence that has ended.
    pub fn fork(&mut self, sequence: Sequence) -> Result<Sequence> {
        Ok(Sequence(self.state.sequences_mut().fork(sequence.0)?))
    }

    /// Ends a sequence and frees what only it used.
    ///
    /// # Errors
    /// A sequence that has ended already.
    pub fn free(&mut self, sequence: Sequence) -> Result<()> {
        self.state.sequences_mut().free(sequence.0)
    }

    /// Tokens that a sequence has.
    ///
    /// # Errors
    /// A sequence that has ended.
    pub fn position(&self, sequence: Sequence) -> Result<usize> {
        self.state.sequences().len(sequence.0)
    }

    /// Forgets all tokens from `position` on.
    ///
    /// # Errors
    /// A position beyond the sequence's.
    pub fn rewind(&mut self, sequence: Sequence, position: usize) -> Result<()> {
        let len = self.state.sequences().len(sequence.0)?;
        if position > len {
            let message = format!("position {position} is beyond the sequence's {len}");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.state.sequences_mut().truncate(sequence.0, position)
    }

    /// A sequence as bytes, for [`Session::restore`] in any session over the same plan.
    ///
    /// # Errors
    /// A sequence that has ended.
    pub fn snapshot(&self, sequence: Sequence) -> Result<Vec<u8>> {
        let mut bytes = SNAPSHOT_MAGIC.to_vec();
        bytes.extend(self.model.plan().hash().to_le_bytes());
        let start = bytes.len() + size_of::<u64>();
        bytes.resize(start, 0);
        self.state.sequences().save(sequence.0, &mut bytes)?;
        if let Some((head, body)) = bytes.split_at_mut_checked(start)
            && let Some(checksum) = head.last_chunk_mut()
        {
            *checksum = xxh3_64(body).to_le_bytes();
        }
        Ok(bytes)
    }

    /// A new sequence from a snapshot. Its checksum finds damage, not intent: bytes that somebody made up may
    /// hold any keys and values, and do no other harm.
    ///
    /// # Errors
    /// Bytes that are no snapshot or a damaged one, or one of another plan, KV format or a longer context.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<Sequence> {
        let invalid = |message: &str| Err(Error::new(ErrorKind::InvalidInput, message));
        let Some(rest) = bytes.strip_prefix(&SNAPSHOT_MAGIC) else {
            return invalid("this is not a snapshot of a sequence");
        };
        let (hash, rest) = rest.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let Some((checksum, body)) = rest.split_first_chunk::<8>() else {
            return invalid("the snapshot is cut off");
        };
        if u64::from_le_bytes(*hash) != self.model.plan().hash() {
            return invalid("the snapshot is of another plan");
        }
        if u64::from_le_bytes(*checksum) != xxh3_64(body) {
            return invalid("the snapshot is damaged: its checksum does not match");
        }
        let sequence = Sequence(self.state.sequences_mut().load(body)?);
        if self.position(sequence)? > self.context {
            self.free(sequence)?;
            return invalid("the snapshot is longer than the session's context");
        }
        Ok(sequence)
    }

    /// Appends tokens to sequences, all in one batch, and gives the logits that were asked for to
    /// `sink`, in the order of the work, each `[vocab]`.
    ///
    /// Work beyond the session's chunk is split; a chunk commits as a whole. After an error the
    /// chunks before it stand: [`Session::position`] tells how far each sequence came.
    ///
    /// # Errors
    /// An empty work, a token outside the vocabulary, a sequence given twice or grown beyond the
    /// context (`Capacity`; nothing is computed then), a limit on memory (`Memory`), cancellation.
    pub fn step(
        &mut self,
        work: &[Work<'_>],
        sink: impl FnMut(LogitsRow, &[f32]),
    ) -> Result<Usage> {
        let mut usage = Usage { fraction: 1.0, ..Usage::default() };
        self.step_onto(&mut usage, work, sink)?;
        Ok(usage)
    }

    /// [`Session::step`] that adds what it spends to `usage`, also where it fails on the way. A
    /// decode step takes no memory then, once `usage` knows the sites.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn step_onto(
        &mut self,
        usage: &mut Usage,
        work: &[Work<'_>],
        mut sink: impl FnMut(LogitsRow, &[f32]),
    ) -> Result<()> {
        self.step_found(usage, work, Need::Logits, &mut |row, found| {
            if let Found::Logits(logits) = found {
                sink(row, logits);
            }
            Ok(true)
        })
    }

    /// [`Session::step_onto`] that gives the most likely token in the place of logits, the lowest of those that
    /// are equally likely. A device then keeps the logits to itself.
    ///
    /// # Errors
    /// As [`Session::step`]; logits that no token can be chosen by, as [`crate::text::Sampler::sample`] refuses
    /// them, when the step is done.
    pub fn step_greedy(
        &mut self,
        usage: &mut Usage,
        work: &[Work<'_>],
        mut sink: impl FnMut(LogitsRow, Sampled),
    ) -> Result<()> {
        let mut sampler = Sampler::new(SamplerOptions::default())?;
        self.step_found(usage, work, sampler.need(), &mut |row, found| {
            let chosen = sampler.choose(found, &[])?;
            chosen.into_iter().for_each(|sampled| sink(row, sampled));
            Ok(chosen.is_some())
        })
    }

    /// [`Session::step_onto`] that gives what the need asks for to `sink`, whose first error is that of the step. A
    /// device gives shortlists of logits. Where one is not enough, of which `sink` says false, it and those after it
    /// are followed by all logits.
    pub(crate) fn step_found(
        &mut self,
        usage: &mut Usage,
        work: &[Work<'_>],
        need: Need,
        sink: &mut dyn FnMut(LogitsRow, Found<'_>) -> Result<bool>,
    ) -> Result<()> {
        let mut failure = None;
        let mut sink = |row, found: Found<'_>| {
            sink(row, found).unwrap_or_else(|e| {
                failure.get_or_insert(e);
                true
            })
        };
        let tokens = work.iter().map(|w| w.tokens.len()).sum();
        self.route.begin(tokens)?;
        self.check(work)?;
        let start = Instant::now();
        let result = self.call(tokens, |session| session.run(usage, work, need, &mut sink));
        usage.ms += start.elapsed().as_secs_f64() * 1e3;
        usage.unmet = self.pace.status().unmet;
        result.and(failure.map_or(Ok(()), Err))
    }

    fn run(
        &mut self,
        usage: &mut Usage,
        work: &[Work<'_>],
        need: Need,
        sink: &mut dyn FnMut(LogitsRow, Found<'_>) -> bool,
    ) -> Result<()> {
        let pick = need.pick(self.model.manifest().vocab_size);
        let (mut item, mut done) = (0, 0);
        while item < work.len() {
            (item, done) = self.fill(work, item, done)?;
            let tokens = self.buffers.ids.len();
            let steps = self.buffers.spans.iter().map(|s| s.rows).max().unwrap_or(0);
            let price = self.pace.next(tokens, steps)?;
            let spent = self.run_chunk(price, pick).inspect_err(|_| self.give_up_chunk())?;
            self.pace.observe(spent);
            let sites = &self.model.plan().program().sites;
            usage.count(tokens, spent, sites, self.state.choices());
            let outputs = self.buffers.outputs.iter();
            let mut taken = 0;
            if let Some(lists) = self.state.picked() {
                let lists = outputs.clone().zip(lists);
                let lists = lists.take_while(|(o, list)| sink(**o, Found::Shortlist(list)));
                taken = lists.count();
                if taken < outputs.len() {
                    self.state.unpick()?;
                }
            }
            if let Some(logits) = self.state.output("logits") {
                let rows = outputs.zip(logits.values.chunks_exact(logits.cols));
                for (o, row) in rows.skip(taken) {
                    sink(*o, Found::Logits(row));
                }
            }
        }
        Ok(())
    }

    fn check(&self, work: &[Work<'_>]) -> Result<()> {
        let fail = |kind, message: String| Err(Error::new(kind, message));
        let vocab = self.model.manifest().vocab_size;
        for (i, item) in work.iter().enumerate() {
            if item.tokens.is_empty() {
                return fail(ErrorKind::InvalidInput, "a step needs at least one token".into());
            }
            if let Some(id) = item.tokens.iter().find(|id| **id as usize >= vocab) {
                let message = format!("token {id} is outside the vocabulary of {vocab}");
                return fail(ErrorKind::InvalidInput, message);
            }
            if work[..i].iter().any(|other| other.sequence == item.sequence) {
                return fail(ErrorKind::InvalidInput, "a sequence comes twice in a step".into());
            }
            let have = self.position(item.sequence)?;
            if have + item.tokens.len() > self.context {
                let message = format!(
                    "{have} tokens and {} more are beyond the context of {}",
                    item.tokens.len(),
                    self.context
                );
                return fail(ErrorKind::Capacity, message);
            }
        }
        Ok(())
    }

    /// Fills the buffers with the next chunk, from token `done` of work `item` on, and gives where
    /// the chunk after it begins.
    fn fill(&mut self, work: &[Work<'_>], item: usize, done: usize) -> Result<(usize, usize)> {
        let b = &mut self.buffers;
        b.ids.clear();
        b.spans.clear();
        b.sequences.clear();
        b.output_rows.clear();
        b.outputs.clear();
        let (mut item, mut done) = (item, done);
        while item < work.len() && b.ids.len() < self.chunk {
            let w = &work[item];
            let rows = (w.tokens.len() - done).min(self.chunk - b.ids.len());
            let first_row = b.ids.len();
            let start = self.state.sequences().len(w.sequence.0)?;
            let sequence = Some(w.sequence.0);
            b.spans.push(Span { first_row, rows, sequence, start, keys: rows });
            b.sequences.push(Rows { first: first_row, count: rows });
            b.ids.extend(w.tokens[done..done + rows].iter().map(|id| *id as i32));
            for token in done..done + rows {
                let last = token + 1 == w.tokens.len();
                if w.wanted == Wanted::All || (w.wanted == Wanted::Last && last) {
                    b.output_rows.push(first_row + token - done);
                    b.outputs.push(LogitsRow { work: item, token });
                }
            }
            done += rows;
            if done == w.tokens.len() {
                (item, done) = (item + 1, 0);
            }
        }
        Ok((item, done))
    }

    /// Gives back what was reserved for the buffered chunk.
    fn give_up_chunk(&mut self) {
        let sequences = self.state.sequences_mut();
        for sequence in self.buffers.spans.iter().filter_map(|span| span.sequence) {
            // A sequence that is not there has nothing reserved.
            let _ = sequences.len(sequence).and_then(|len| sequences.truncate(sequence, len));
        }
    }

    /// Runs the buffered chunk at this price and commits its positions.
    fn run_chunk(&mut self, price: f32, pick: Pick) -> Result<crate::backend::Spent> {
        let b = &self.buffers;
        for span in &b.spans {
            if let Some(sequence) = span.sequence {
                self.state.sequences_mut().reserve(sequence, span.rows)?;
            }
        }
        let call = Call {
            entry: self.entry,
            inputs: &[("input_ids", &b.ids)],
            floats: &[],
            tensors: &[],
            sizes: &[],
            tokens: b.ids.len(),
            spans: &b.spans,
            sequences: &b.sequences,
            output_rows: &b.output_rows,
            price,
            forced: self.route.part(b.ids.len()),
            control: None,
            pick,
        };
        let spent = self.state.run(&call)?;
        self.route.record(self.state.choices(), b.ids.len());
        for span in &b.spans {
            if let Some(sequence) = span.sequence {
                self.state.sequences_mut().commit(sequence, span.rows)?;
            }
        }
        Ok(spent)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:?}, context {})", self.model, self.context)
    }
}
