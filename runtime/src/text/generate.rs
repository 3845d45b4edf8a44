//! Generation: prefill a prompt, then sample, stream and step until something ends it.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Detokenizer, Sampled, Sampler, SamplerOptions, StopMatcher, Tokenizer};
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
    /// Its newest token.
    pub token: u32,
    /// The token's log-probability by the student's logits.
    pub logprob: f32,
    /// Text that became certain with it: valid UTF-8, empty while a character is incomplete.
    pub text: &'a str,
}

/// A finished continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Continuation {
    /// The sequence that holds the prompt and all tokens but the last one, which was not fed back.
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
/// An empty prompt, options out of range, or those of [`Session::step`].
pub fn generate(
    session: &mut Session,
    sequence: Sequence,
    prompt: &[u32],
    samples: usize,
    options: &GenerateOptions,
    on_piece: impl FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Generation> {
    let invalid = |message: &str| Err(Error::new(ErrorKind::InvalidInput, message));
    if prompt.is_empty() {
        return invalid("the prompt is empty");
    }
    if samples == 0 || samples > MAX_SAMPLES {
        let message = format!("{samples} continuations are not in 1..={MAX_SAMPLES}");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    // The last token of a continuation is not fed back.
    let decoded = options.max_tokens.saturating_sub(1).min(session.context());
    let expected = prompt.len().saturating_add(samples.saturating_mul(decoded));
    session.call(expected, |session| run(session, sequence, prompt, samples, options, on_piece))
}

fn run(
    session: &mut Session,
    sequence: Sequence,
    prompt: &[u32],
    samples: usize,
    options: &GenerateOptions,
    mut on_piece: impl FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Generation> {
    let tokenizer = session.model().tokenizer().ok().cloned();
    let sampler = Sampler::new(options.sampler.clone())?;
    let stop = StopMatcher::new(&options.stop)?;
    let mut logits = Vec::new();
    let work = [Work { sequence, tokens: prompt, wanted: Wanted::Last }];
    let prefill = session.step(&work, |_, row| {
        logits.clear();
        logits.extend_from_slice(row);
    })?;
    let ends = end_tokens(session, options);
    let mut streams = Vec::with_capacity(samples);
    for i in 0..samples {
        let sequence = if i == 0 { sequence } else { session.fork(sequence)? };
        let sampler = if i == 0 { sampler.clone() } else { sampler.fork(i as u64) };
        streams.push(Stream::new(i, sequence, sampler, stop.clone(), tokenizer.clone(), prompt));
    }
    let rules = Rules { ends, max_tokens: options.max_tokens };
    for stream in &mut streams {
        stream.advance(&logits, &rules, &mut on_piece)?;
    }
    let mut decode = Usage { fraction: 1.0, ..Usage::default() };
    loop {
        let room = session.context();
        for stream in streams.iter_mut().filter(|s| s.finish.is_none()) {
            if session.position(stream.sequence)? >= room {
                stream.end(Finish::Context, &mut on_piece)?;
            }
        }
        let live: Vec<usize> = (0..samples).filter(|i| streams[*i].finish.is_none()).collect();
        if live.is_empty() {
            break;
        }
        let last: Vec<[u32; 1]> = live.iter().map(|i| [streams[*i].last()]).collect();
        let work: Vec<Work<'_>> = live
            .iter()
            .zip(&last)
            .map(|(i, tokens)| Work {
                sequence: streams[*i].sequence,
                tokens,
                wanted: Wanted::Last,
            })
            .collect();
        let mut failure = None;
        session.step_onto(&mut decode, &work, |row, logits| {
            let stream = &mut streams[live[row.work]];
            if let Err(e) = stream.advance(logits, &rules, &mut on_piece) {
                failure.get_or_insert(e);
            }
        })?;
        if let Some(e) = failure {
            return Err(e);
        }
    }
    Ok(Generation {
        continuations: streams.into_iter().map(Stream::into_continuation).collect(),
        prompt_tokens: prompt.len(),
        prefill,
        decode,
    })
}

fn end_tokens(session: &Session, options: &GenerateOptions) -> Vec<u32> {
    let own = &session.model().manifest().special.eos;
    let own = own.iter().filter(|_| !options.ignore_eos);
    own.chain(&options.stop_tokens).copied().collect()
}

struct Rules {
    ends: Vec<u32>,
    max_tokens: usize,
}

/// One continuation on its way.
struct Stream {
    index: usize,
    sequence: Sequence,
    sampler: Sampler,
    stop: StopMatcher,
    detokenizer: Option<Detokenizer>,
    /// Prompt and continuation.
    history: Vec<u32>,
    prompt_tokens: usize,
    logprobs: Vec<f32>,
    text: String,
    /// Text of the newest token before and after the stop strings were looked for.
    raw: String,
    piece: String,
    finish: Option<Finish>,
}

impl Stream {
    fn new(
        index: usize,
        sequence: Sequence,
        sampler: Sampler,
        stop: StopMatcher,
        tokenizer: Option<Arc<Tokenizer>>,
        prompt: &[u32],
    ) -> Stream {
        Stream {
            index,
            sequence,
            sampler,
            stop,
            detokenizer: tokenizer.map(|t| Detokenizer::new(t, true)),
            history: prompt.to_vec(),
            prompt_tokens: prompt.len(),
            logprobs: Vec::new(),
            text: String::new(),
            raw: String::new(),
            piece: String::new(),
            finish: None,
        }
    }

    fn last(&self) -> u32 {
        self.history.last().copied().unwrap_or_default()
    }

    /// Takes the next token from logits.
    fn advance(
        &mut self,
        logits: &[f32],
        rules: &Rules,
        on_piece: &mut impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        if rules.max_tokens == 0 {
            return self.end(Finish::MaxTokens, on_piece);
        }
        let Sampled { token, logprob } = self.sampler.sample(logits, &self.history)?;
        if rules.ends.contains(&token) {
            return self.end(Finish::EndOfText, on_piece);
        }
        self.history.push(token);
        self.logprobs.push(logprob);
        self.raw.clear();
        self.piece.clear();
        if let Some(detokenizer) = &mut self.detokenizer {
            detokenizer.push(token, &mut self.raw)?;
        }
        let stopped = self.stop.push(&self.raw, &mut self.piece);
        self.text.push_str(&self.piece);
        let piece = Piece { sample: self.index, token, logprob, text: &self.piece };
        if on_piece(piece).is_break() {
            self.finish = Some(Finish::Callback);
        } else if stopped {
            self.finish = Some(Finish::StopString);
        } else if self.logprobs.len() >= rules.max_tokens {
            return self.end(Finish::MaxTokens, on_piece);
        }
        Ok(())
    }

    /// Ends the text and gives what was held back.
    fn end(
        &mut self,
        finish: Finish,
        on_piece: &mut impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        self.finish = Some(finish);
        self.raw.clear();
        self.piece.clear();
        if let Some(detokenizer) = &mut self.detokenizer {
            detokenizer.finish(&mut self.raw)?;
        }
        if self.stop.push(&self.raw, &mut self.piece) {
            self.finish = Some(Finish::StopString);
        } else {
            self.stop.finish(&mut self.piece);
        }
        if !self.piece.is_empty() {
            self.text.push_str(&self.piece);
            let (token, logprob) = (self.last(), self.logprobs.last().copied().unwrap_or(0.0));
            // The continuation has ended whatever the callback says.
            let _ = on_piece(Piece { sample: self.index, token, logprob, text: &self.piece });
        }
        Ok(())
    }

    fn into_continuation(mut self) -> Continuation {
        Continuation {
            sequence: self.sequence,
            tokens: self.history.split_off(self.prompt_tokens),
            logprobs: self.logprobs,
            text: self.text,
            finish: self.finish.unwrap_or(Finish::MaxTokens),
        }
    }
}
