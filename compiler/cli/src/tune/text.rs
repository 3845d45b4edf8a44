//! Text students: the perplexity of a text, and how often the likeliest token is that of price 0.

use std::time::Instant;

use limbeck::plan::QualityKind;
use limbeck::{Model, Session, SessionOptions, Usage, Wanted, Work};

use super::measure::{Measure, Measured, mean, median, set_price};
use crate::args::TuneArgs;
use crate::output::Failure;
use crate::score::{LEAST_CONTEXT, Scorer, windows};

/// Tokens decoded to take the time of one.
const DECODE_TOKENS: usize = 48;

/// The windows of a file.
pub struct Windows {
    windows: Vec<Vec<u32>>,
    /// By window: the likeliest tokens at price 0, once they were looked at.
    likeliest: Vec<Option<Vec<u32>>>,
    context: usize,
    kv: limbeck::KvFormat,
}

impl Windows {
    /// Reads and cuts the file. Of the last window there is as much as `--max-tokens` leaves, if that
    /// can be scored.
    pub fn read(model: &Model, args: &TuneArgs) -> Result<Windows, Failure> {
        let mut windows = windows(model, args.data(), args.context)?;
        let mut left = args.max_tokens.unwrap_or(usize::MAX);
        windows.retain_mut(|window| {
            window.truncate(left);
            left -= window.len();
            window.len() >= LEAST_CONTEXT
        });
        if windows.is_empty() {
            let message = format!("fewer than {LEAST_CONTEXT} tokens cannot be scored");
            return Err(Failure::new(format!("--max-tokens: {message}")));
        }
        let likeliest = vec![None; windows.len()];
        Ok(Windows { windows, likeliest, context: args.context, kv: args.kv })
    }

    fn session(&self, model: &Model, price: f64) -> Result<Session, Failure> {
        let (context, kv) = (self.context, self.kv);
        let options = SessionOptions { context, kv, chunk: 128, ..SessionOptions::default() };
        let session = model.session(options)?;
        set_price(&session.control(), price)?;
        Ok(session)
    }

    fn score(&self, model: &Model, price: f64, pieces: &[usize]) -> Result<Scores, Failure> {
        let mut session = self.session(model, price)?;
        let mut scores = Scores::default();
        let mut scorer = Scorer::default();
        for &piece in pieces {
            let mut likeliest = Vec::new();
            let usage = scorer.score(&mut session, &self.windows[piece], |logprob, id| {
                scores.nats -= f64::from(logprob);
                likeliest.push(id);
            })?;
            scores.usage.add(&usage);
            scores.likeliest.push(likeliest);
        }
        Ok(scores)
    }
}

#[derive(Default)]
struct Scores {
    usage: Usage,
    nats: f64,
    /// By window.
    likeliest: Vec<Vec<u32>>,
}

impl Measure for Windows {
    fn quality(&self) -> QualityKind {
        QualityKind::Perplexity
    }

    fn pieces(&self) -> Vec<usize> {
        self.windows.iter().map(Vec::len).collect()
    }

    fn run(&mut self, model: &Model, price: f64, pieces: &[usize]) -> Result<Measured, Failure> {
        let unseen = |&piece: &usize| self.likeliest[piece].is_none();
        let unseen: Vec<usize> = pieces.iter().copied().filter(unseen).collect();
        if !unseen.is_empty() {
            let full = self.score(model, 0.0, &unseen)?.likeliest;
            unseen.into_iter().zip(full).for_each(|(i, full)| self.likeliest[i] = Some(full));
        }
        let scores = self.score(model, price, pieces)?;
        let (mut same, mut count) = (0, 0);
        for (&piece, found) in pieces.iter().zip(&scores.likeliest) {
            let full = self.likeliest[piece].as_deref().unwrap_or_default();
            same += found.iter().zip(full).filter(|(a, b)| a == b).count();
            count += found.len();
        }
        let quality = mean(scores.nats, count, price)?.exp();
        let agreement = same as f64 / count as f64;
        let more = vec![("agreement", agreement)];
        Ok(Measured { usage: scores.usage, quality, ms_per_token: None, more })
    }

    /// Of a token that is decoded alone: the median of some.
    fn time(&mut self, model: &Model, price: f64) -> Result<f64, Failure> {
        let mut session = self.session(model, price)?;
        let sequence = session.sequence();
        let window = &self.windows[0];
        let (head, rest) = window.split_at(window.len() / 2);
        session.step(&[Work { sequence, tokens: head, wanted: Wanted::None }], |_, _| {})?;
        let mut times = Vec::new();
        for token in rest.chunks(1).take(DECODE_TOKENS) {
            let start = Instant::now();
            session.step(&[Work { sequence, tokens: token, wanted: Wanted::Last }], |_, _| {})?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(median(&mut times))
    }
}

#[cfg(test)]
mod tests {
    use limbeck::BackendKind;
    use limbeck::text::log_probabilities;
    use limbeck_compiler::Quant;
    use limbeck_tests::{Compiled, all_logits, golden};

    use super::*;

    #[test]
    fn windows_are_scored_by_the_logits_of_their_second_half() {
        let plan = Compiled::new(&golden().join("tiny/llama"), Quant::F32, true);
        let model = plan.open(BackendKind::Cpu, 1);
        let window = |seed: u32| (0..16).map(|i| (i * 37 + seed) % 250).collect::<Vec<u32>>();
        let windows = vec![window(1), window(90), window(7)];
        let kv = limbeck::KvFormat::F32;
        let likeliest = vec![None; windows.len()];
        let mut measure = Windows { windows, likeliest, context: 16, kv };
        let pieces = [0, 2];
        let mut nats = 0.0;
        for ids in pieces.map(|i| &measure.windows[i]) {
            let options = SessionOptions { kv, ..SessionOptions::default() };
            let logits = all_logits(&model, ids, options);
            let mut row = vec![0.0; model.manifest().vocab_size];
            for (token, logits) in logits.chunks_exact(row.len()).enumerate().take(15).skip(8) {
                log_probabilities(logits, &mut row).unwrap();
                nats -= f64::from(row[ids[token + 1] as usize]);
            }
        }
        let found = measure.run(&model, 0.0, &pieces).ok().unwrap();
        assert!((found.quality - (nats / 14.0).exp()).abs() < 1e-3 * found.quality);
        assert_eq!(found.more, [("agreement", 1.0)]);
        assert_eq!(found.usage.tokens, 2 * 15);
        assert!(measure.likeliest[1].is_none());
        assert!(measure.time(&model, 0.0).ok().unwrap() > 0.0);
    }
}
