//! Scoring a text by a text student, as llama.cpp's perplexity tool does: the text is cut into
//! windows (a rest that does not fill one is left out), each begins with the bos token where the
//! student has the habit, and the tokens of its second half are scored.

use std::path::Path;

use limbeck::text::log_probabilities;
use limbeck::{Model, Session, Usage, Wanted, Work};

use crate::output::{Failure, at_file};

/// Fewest tokens of a window that can be scored.
pub const LEAST_CONTEXT: usize = 4;

/// The text of a file.
pub fn read_text(file: &Path) -> Result<String, Failure> {
    let text = at_file(file, std::fs::read(file))?;
    at_file(file, String::from_utf8(text).map_err(|e| e.utf8_error()))
}

/// Refuses a plan without a tokenizer: its student cannot read text.
pub fn need_tokenizer(model: &Model) -> Result<(), Failure> {
    match model.plan().tokenizer(model.bytes()) {
        Some(_) => Ok(()),
        None => Err(Failure::new(
            "the plan has no tokenizer to read text with: compile its checkpoint with a \
             tokenizer.json",
        )),
    }
}

/// The windows of a file, each of `context` tokens, at least [`LEAST_CONTEXT`].
pub fn windows(model: &Model, file: &Path, context: usize) -> Result<Vec<Vec<u32>>, Failure> {
    if context < LEAST_CONTEXT {
        return Err(Failure::new(format!("a context of {context} is too short to score")));
    }
    need_tokenizer(model)?;
    let tokens = model.tokenizer()?.encode(&read_text(file)?, false)?;
    let bos = model.manifest().special.bos.filter(|_| model.manifest().add_bos);
    let windows = tokens.chunks_exact(context).map(|window| {
        let mut window = window.to_vec();
        window.iter_mut().zip(bos).for_each(|(first, bos)| *first = bos);
        window
    });
    let windows: Vec<Vec<u32>> = windows.collect();
    if windows.is_empty() {
        let message = format!("{} tokens do not fill a context of {context}", tokens.len());
        return Err(Failure::new(format!("{}: {message}", file.display())));
    }
    Ok(windows)
}

/// Scores windows.
#[derive(Default)]
pub struct Scorer {
    logprobs: Vec<f32>,
}

impl Scorer {
    /// Scores the second half of a window: `each` is given the log-probability of every token there
    /// and the token that the student found likeliest in its place.
    pub fn score(
        &mut self,
        session: &mut Session,
        window: &[u32],
        mut each: impl FnMut(f32, u32),
    ) -> Result<Usage, Failure> {
        let sequence = session.sequence();
        // The logits after token t score token t + 1; the first scored is the one after the
        // window's middle.
        let (head, rest) = window.split_at(window.len() / 2);
        let last = rest.len().saturating_sub(1);
        let head = [Work { sequence, tokens: head, wanted: Wanted::None }];
        let mut usage = session.step(&head, |_, _| {})?;
        let mut failure = None;
        let work = [Work { sequence, tokens: &rest[..last], wanted: Wanted::All }];
        usage.add(&session.step(&work, |row, logits| {
            self.logprobs.resize(logits.len(), 0.0);
            if let Err(e) = log_probabilities(logits, &mut self.logprobs) {
                failure = Some(e);
                return;
            }
            let by_value = |a: &(usize, &f32), b: &(usize, &f32)| a.1.total_cmp(b.1);
            let likeliest = self.logprobs.iter().enumerate().max_by(by_value);
            each(
                self.logprobs[rest[row.token + 1] as usize],
                likeliest.map_or(0, |(id, _)| id as u32),
            );
        })?);
        session.free(sequence)?;
        failure.map_or(Ok(usage), |e| Err(e.into()))
    }
}
