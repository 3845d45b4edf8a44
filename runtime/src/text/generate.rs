//! Generation: prefill a prompt, then sample, stream and step until something ends it.

use std::ops::ControlFlow;

use super::continuation::{Rules, Stream};
use super::shortlist::Found;
use super::{Sampler, SamplerOptions, StopMatcher};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::session::{Sequence, Session, Wanted, Work};
use crate::usage::Usage;

/// Most continuations of one prompt.
const MAX_SAMPLES: usize = 1 << 16;

/// How a continuation is made.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens of a continuation.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampler: SamplerOptions,
    /// Texts that end it; they are not part of it.
    pub stop: Vec<String>,
    /// Token ids that end it beside the student's own.
    pub stop_tokens: Vec<u32>,
    /// Goes on over the student's end-of-text tokens.
    pub ignore_eos: bool,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_tokens: 128,
            sampler: SamplerOptions::default(),
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_eos: false,
        }
    }
}

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// The student ended it, or a stop token did.
    EndOfText,
    /// A stop string.
    StopString,
    /// [`GenerateOptions::max_tokens`].
    MaxTokens,
    /// The session's context is full.
    Context,
    /// The callback asked for it.
    Callback,
}

impl Finish {
    /// Short name, as in reports.
    pub fn name(self) -> &'static str {
        match self {
            Finish::EndOfText => "end_of_text",
            Finish::StopString => "stop_string",
            Finish::MaxTokens => "max_tokens",
            Finish::Context => "context",
            Finish::Callback => "callback",
        }
    }
}

/// One step of the stream.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Which continuation.
    pub sample: usize,
    /// Its newest token; `None` where text that was held back comes at the end.
    pub token: Option<u32>,
    /// The token's log-probability by the student's logits; 0 without a token.
    pub logprob: f32,
    /// Text that became certain with it: valid UTF-8, empty while a character is incomplete.
    pub text: &'a str,
}

/// A finished continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Continuation {
    /// The sequence that holds the prompt and the tokens: all of them after [`Finish::EndOfText`], else all but the
    /// last one, which was not fed back.
    pub sequence: Sequence,
    /// Its tokens; one that ended it (end of text) is not among them.
    pub tokens: Vec<u32>,
    /// The log-probability of each.
    pub logprobs: Vec<f32>,
    /// Its text; empty for a plan without a tokenizer.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// A continuation as far as it is committed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress<'a> {
    /// The sequence that holds the prompt and what was fed back of the tokens, as in [`Continuation`].
    pub sequence: Sequence,
    /// Its tokens.
    pub tokens: &'a [u32],
    /// The log-probability of each.
    pub logprobs: &'a [f32],
    /// Its text that is certain.
    pub text: &'a str,
    /// Why it ended; `None` while it goes on.
    pub finish: Option<Finish>,
}

/// What a generation gave and spent.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The continuations.
    pub continuations: Vec<Continuation>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// What the prompt took.
    pub prefill: Usage,
    /// What the continuations took.
    pub decode: Usage,
}

/// Continues a sequence by `prompt` and what the student says to it, `samples` times.
///
/// The continuations share the prompt's cached positions and are decoded as one batch; the first
/// goes on in `sequence` itself, the others in forks. `on_piece` hears each token, with the text
/// that it made certain, on the calling thread; `Break` ends that token's continuation. A sampled
/// token is fed back only if another is wanted: the last token of a continuation is not yet in its
/// sequence and belongs before the next prompt.
///
/// # Errors
/// An empty prompt, options out of range, or those of [`Session::step`]. What was done until then
/// is lost: a [`Generator`] keeps it.
pub fn generate(
    session: &mut Session,
    sequence: Sequence,
    prompt: &[u32],
    samples: usize,
    options: &GenerateOptions,
    on_piece: impl FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Generation> {
    let mut generator = Generator::new(session, sequence, prompt, samples, options)?;
    generator.run(session, on_piece)?;
    Ok(generator.finish())
}

/// A generation in progress, which stands where it was when a call failed or was cancelled.
///
/// A token is committed when the callback that heard it has returned. [`Generator::run`] after a
/// failure goes on from there, and gives what it would have given without the failure.
pub struct Generator {
    control: Control,
    sequence: Sequence,
    /// The sequence's tokens before the prompt.
    base: usize,
    prompt: Vec<u32>,
    samples: usize,
    sampler: Sampler,
    stop: StopMatcher,
    rules: Rules,
    /// None until the prompt is computed.
    streams: Vec<Stream>,
    prefill: Usage,
    decode: Usage,
    running: bool,
}

impl Generator {
    /// A generation that [`generate`] with the same values would make; nothing is computed yet.
    ///
    /// # Errors
    /// An empty prompt, options out of range, a sequence that has ended.
    pub fn new(
        session: &Session,
        sequence: Sequence,
        prompt: &[u32],
        samples: usize,
        options: &GenerateOptions,
    ) -> Result<Generator> {
        if prompt.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "the prompt is empty"));
        }
        if samples == 0 || samples > MAX_SAMPLES {
            let message = format!("{samples} continuations are not in 1..={MAX_SAMPLES}");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let usage = Usage { fraction: 1.0, ..Usage::default() };
        Ok(Generator {
            control: session.control(),
            sequence,
            base: session.position(sequence)?,
            prompt: prompt.to_vec(),
            samples,
            sampler: Sampler::new(options.sampler.clone())?,
            stop: StopMatcher::new(&options.stop)?,
            rules: Rules { ends: end_tokens(session, options), max_tokens: options.max_tokens },
            streams: Vec::new(),
            prefill: usage.clone(),
            decode: usage,
            running: false,
        })
    }

    /// Computes until every continuation has ended; `on_piece` is that of [`generate`]. Once all
    /// have ended it does nothing.
    ///
    /// # Errors
    /// Those of [`Session::step`]; another session than the generation was made with; sequences
    /// that were changed in between; a run before that did not return. The tokens that are
    /// committed then stay so, and the next run goes on after them.
    pub fn run(
        &mut self,
        session: &mut Session,
        mut on_piece: impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let invalid = |message: &str| Err(Error::new(ErrorKind::InvalidInput, message));
        if !session.control().is(&self.control) {
            return invalid("the generation belongs to another session");
        }
        if self.running {
            return invalid("a call of this generation did not return: make another one");
        }
        self.running = true;
        // The last token of a continuation is not fed back.
        let decoded = self.rules.max_tokens.saturating_sub(1).min(session.context());
        let prompt = if self.streams.is_empty() { self.prompt.len() } else { 0 };
        let expected = prompt.saturating_add(self.samples.saturating_mul(decoded));
        let left = expected.saturating_sub(self.committed()).max(1);
        let result = session.call(left, |session| {
            self.prefill(session, &mut on_piece)?;
            while self.decode(session, &mut on_piece)? {}
            Ok(())
        });
        self.running = false;
        result
    }

    /// Tokens of all continuations that are committed.
    pub fn committed(&self) -> usize {
        self.streams.iter().map(|s| s.tokens().len()).sum()
    }

    /// How far a continuation has come; `None` until the prompt is computed.
    pub fn progress(&self, sample: usize) -> Option<Progress<'_>> {
        self.streams.get(sample).map(Stream::progress)
    }

    /// What the prompt took.
    pub fn prefill_usage(&self) -> &Usage {
        &self.prefill
    }

    /// What the continuations took.
    pub fn decode_usage(&self) -> &Usage {
        &self.decode
    }

    /// What it gave and spent.
    fn finish(self) -> Generation {
        Generation {
            continuations: self.streams.into_iter().map(Stream::into_continuation).collect(),
            prompt_tokens: self.prompt.len(),
            prefill: self.prefill,
            decode: self.decode,
        }
    }

    /// Computes what is left of the prompt, and takes the first token of each continuation.
    fn prefill(
        &mut self,
        session: &mut Session,
        on_piece: &mut impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        if !self.streams.is_empty() {
            return Ok(());
        }
        let tokens = unfed(session, self.sequence, self.base, &self.prompt)?;
        let (mut logits, mut list) = (Vec::new(), None);
        let work = [Work { sequence: self.sequence, tokens, wanted: Wanted::Last }];
        let forks = (1..self.samples).map(|i| self.sampler.fork(i as u64));
        let samplers: Vec<Sampler> = [self.sampler.clone()].into_iter().chain(forks).collect();
        session.step_found(&mut self.prefill, &work, self.sampler.need(), &mut |_, found| {
            let decided = samplers.iter().all(|sampler| sampler.decides(found));
            match found {
                Found::Logits(row) => logits = row.to_vec(),
                Found::Shortlist(found) => list = decided.then(|| found.clone()),
            }
            Ok(decided)
        })?;
        let tokenizer = session.model().tokenizer().ok().cloned();
        for (i, sampler) in samplers.into_iter().enumerate() {
            let sequence = if i == 0 { self.sequence } else { session.fork(self.sequence)? };
            let (stop, tokenizer) = (self.stop.clone(), tokenizer.clone());
            self.streams.push(Stream::new(i, sequence, sampler, stop, tokenizer, &self.prompt));
        }
        let rules = &self.rules;
        let found = list.as_ref().map_or(Found::Logits(&logits), Found::Shortlist);
        let results = self.streams.iter_mut().map(|s| s.choose(found, rules, on_piece));
        // Each of them, whatever becomes of those before it.
        results.collect::<Vec<_>>().into_iter().try_for_each(|result| result.map(|_| ()))
    }

    /// Feeds each continuation that goes on its last token, and takes the next one: whether any
    /// goes on.
    fn decode(
        &mut self,
        session: &mut Session,
        on_piece: &mut impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<bool> {
        let room = session.context();
        for stream in self.streams.iter_mut().filter(|s| s.finish.is_none()) {
            let full = self.base.saturating_add(stream.history.len()) > room;
            if full && session.position(stream.sequence)? >= room {
                stream.end(Finish::Context, on_piece)?;
            }
        }
        let mut live: Vec<&mut Stream> =
            self.streams.iter_mut().filter(|s| s.finish.is_none()).collect();
        if live.is_empty() {
            return Ok(false);
        }
        let mut tokens: Vec<Vec<u32>> = Vec::with_capacity(live.len());
        for stream in &live {
            let unfed = unfed(session, stream.sequence, self.base, &stream.history)?;
            tokens.push(unfed.to_vec());
        }
        let work = live.iter().zip(&tokens);
        let work: Vec<Work<'_>> = work
            .map(|(s, tokens)| Work { sequence: s.sequence, tokens, wanted: Wanted::Last })
            .collect();
        let rules = &self.rules;
        session.step_found(&mut self.decode, &work, self.sampler.need(), &mut |row, found| {
            let stream = live.get_mut(row.work);
            stream.map_or(Ok(true), |s| s.choose(found, rules, on_piece))
        })?;
        Ok(true)
    }
}

/// The tokens that a sequence has not yet, of those that follow its first `base`. Where it has them
/// all, but what came of the last one was lost by a failure, that one is taken back.
fn unfed<'a>(
    session: &mut Session,
    sequence: Sequence,
    base: usize,
    tokens: &'a [u32],
) -> Result<&'a [u32]> {
    let position = session.position(sequence)?;
    let fed = position.checked_sub(base).filter(|fed| *fed <= tokens.len());
    let Some(fed) = fed else {
        let message = "the sequence was changed since the generation began";
        return Err(Error::new(ErrorKind::InvalidInput, message));
    };
    let from = fed.min(tokens.len().saturating_sub(1));
    if from < fed {
        session.rewind(sequence, base + from)?;
    }
    Ok(tokens.get(from..).unwrap_or_default())
}

fn end_tokens(session: &Session, options: &GenerateOptions) -> Vec<u32> {
    let own = &session.model().manifest().special.eos;
    let own = own.iter().filter(|_| !options.ignore_eos);
    own.chain(&options.stop_tokens).copied().collect()
}
