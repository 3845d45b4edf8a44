//! One continuation of a generation on its way.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::shortlist::Found;
use super::{
    Continuation, Detokenizer, Finish, Piece, Progress, Sampled, Sampler, StopMatcher, Tokenizer,
};
use crate::error::Result;
use crate::session::Sequence;

/// What ends continuations.
pub(super) struct Rules {
    pub ends: Vec<u32>,
    pub max_tokens: usize,
}

/// One continuation on its way.
pub(super) struct Stream {
    index: usize,
    pub sequence: Sequence,
    sampler: Sampler,
    stop: StopMatcher,
    detokenizer: Option<Detokenizer>,
    /// Prompt and continuation.
    pub history: Vec<u32>,
    prompt_tokens: usize,
    logprobs: Vec<f32>,
    text: String,
    /// Text of the newest token before and after the stop strings were looked for.
    raw: String,
    piece: String,
    /// Why it ended; `None` while it goes on.
    pub finish: Option<Finish>,
}

impl Stream {
    pub fn new(
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

    /// Its tokens.
    pub fn tokens(&self) -> &[u32] {
        self.history.get(self.prompt_tokens..).unwrap_or_default()
    }

    /// Takes the next token from what a step found: whether that decides it.
    pub fn choose(
        &mut self,
        found: Found<'_>,
        rules: &Rules,
        on_piece: &mut impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<bool> {
        if rules.max_tokens == 0 {
            return self.end(Finish::MaxTokens, on_piece).map(|()| true);
        }
        let Some(Sampled { token, logprob }) = self.sampler.choose(found, &self.history)? else {
            return Ok(false);
        };
        if rules.ends.contains(&token) {
            return self.end(Finish::EndOfText, on_piece).map(|()| true);
        }
        self.raw.clear();
        self.piece.clear();
        if let Some(detokenizer) = &mut self.detokenizer {
            detokenizer.push(token, &mut self.raw)?;
        }
        let stopped = self.stop.push(&self.raw, &mut self.piece);
        let piece = Piece { sample: self.index, token: Some(token), logprob, text: &self.piece };
        let answer = on_piece(piece);
        self.history.push(token);
        self.logprobs.push(logprob);
        self.text.push_str(&self.piece);
        if answer.is_break() {
            self.finish = Some(Finish::Callback);
        } else if stopped {
            self.finish = Some(Finish::StopString);
        } else if self.logprobs.len() >= rules.max_tokens {
            self.end(Finish::MaxTokens, on_piece)?;
        }
        Ok(true)
    }

    /// Ends the text and gives what was held back.
    pub fn end(
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
            // The continuation has ended whatever the callback says.
            let (sample, text) = (self.index, &*self.piece);
            let _ = on_piece(Piece { sample, token: None, logprob: 0.0, text });
        }
        Ok(())
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress<'_> {
        Progress {
            sequence: self.sequence,
            tokens: self.tokens(),
            logprobs: &self.logprobs,
            text: &self.text,
            finish: self.finish,
        }
    }

    pub fn into_continuation(mut self) -> Continuation {
        Continuation {
            sequence: self.sequence,
            tokens: self.history.split_off(self.prompt_tokens),
            logprobs: self.logprobs,
            text: self.text,
            finish: self.finish.unwrap_or(Finish::MaxTokens),
        }
    }
}
