//! What thresholds do to a student's predictions.

use limbeck::plan::{Op, OperandKind};
use limbeck::text::log_probabilities;
use limbeck::{KvFormat, Model, SessionOptions, Usage, Wanted, Work};
use limbeck_compiler::{SparsityLevel, set_levels};

use crate::args::TuneArgs;
use crate::output::Failure;
use crate::score::windows;
use crate::tune::measure::set_price;

/// Tokens of a piece, the longest that the text has enough of, and pieces at most.
const PIECES: usize = 8;
const PIECE: [usize; 4] = [256, 128, 64, 32];
/// Part of a piece whose predictions are left out: what they read is too little.
const UNSCORED: usize = 8;
/// Likeliest tokens of which a prediction is kept one by one.
const LIKELIEST: usize = 256;
/// A price at which a level is chosen whatever it loses.
const HIGH_PRICE: f64 = 1e3;

/// A student with a site of kind sparsity, a text, and what the dense student says of it.
pub struct Trial {
    pub model: Model,
    pieces: Vec<Vec<u32>>,
    /// By scored token.
    dense: Vec<Prediction>,
    linears: Vec<Linear>,
    kv: KvFormat,
}

/// A sparse linear, by order of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    pub rows: usize,
    pub cols: usize,
}

impl Linear {
    /// Multiply-adds per token.
    pub fn macs(&self) -> f64 {
        (self.rows * self.cols) as f64
    }
}

impl Trial {
    pub fn new(model: Model, args: &TuneArgs) -> Result<Trial, Failure> {
        let mut pieces = Vec::new();
        let longest = model.manifest().context_length;
        for piece in PIECE.map(|piece| piece.min(longest)) {
            pieces = windows(&model, args.data(), piece)?;
            if pieces.len() >= PIECES {
                break;
            }
        }
        let every = (pieces.len() / PIECES).max(1);
        let pieces = pieces.into_iter().step_by(every).take(PIECES).collect();
        let linears = linears(&model);
        let mut trial = Trial { model, pieces, dense: Vec::new(), linears, kv: args.kv };
        let mut dense = Vec::new();
        let zeros = vec![0.0; trial.linears.len()];
        trial.run(&zeros, PIECES, |_, logprobs| dense.push(Prediction::new(logprobs)))?;
        trial.dense = dense;
        Ok(trial)
    }

    pub fn linears(&self) -> &[Linear] {
        &self.linears
    }

    /// The mean divergence of the predictions with these thresholds from the dense student's
    /// (Kullback-Leibler, nats) on some pieces, and the share of the sparse linears' multiply-adds
    /// that were spent.
    pub fn loss(&self, thresholds: &[f32], pieces: usize) -> Result<(f64, f64), Failure> {
        let (mut sum, mut count) = (0.0, 0);
        let spent = self.run(thresholds, pieces, |token, logprobs| {
            sum += self.dense.get(token).map_or(0.0, |dense| dense.divergence(logprobs));
            count += 1;
        })?;
        let loss = sum / f64::from(count.max(1));
        if loss.is_finite() {
            return Ok((loss.max(0.0), spent));
        }
        Err(Failure::new("the student's loss is not a number"))
    }

    /// The share of the sparse linears' multiply-adds that the first tokens of a piece spend.
    pub fn spent(&self, thresholds: &[f32], pieces: usize, tokens: usize) -> Result<f64, Failure> {
        self.pass(thresholds, pieces, tokens, Wanted::None, |_, _| {})
    }

    fn run(
        &self,
        thresholds: &[f32],
        pieces: usize,
        each: impl FnMut(usize, &[f32]),
    ) -> Result<f64, Failure> {
        self.pass(thresholds, pieces, usize::MAX, Wanted::All, each)
    }

    /// Runs the first tokens of some pieces with these thresholds; `each` hears of the
    /// log-probabilities after each scored one, and its index among those.
    fn pass(
        &self,
        thresholds: &[f32],
        pieces: usize,
        tokens: usize,
        wanted: Wanted,
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<f64, Failure> {
        let mut program = self.model.plan().program().clone();
        let level = SparsityLevel { gain: -1.0, cost: 0.5, thresholds: thresholds.to_vec() };
        set_levels(&mut program, &[level]);
        let model = self.model.with_program(program)?;
        let context = self.pieces.first().map_or(1, Vec::len);
        let unscored = context / UNSCORED;
        let kv = self.kv;
        let options = SessionOptions { context, kv, chunk: context, ..SessionOptions::default() };
        let mut session = model.session(options)?;
        set_price(&session.control(), HIGH_PRICE)?;
        let mut usage = Usage::default();
        let mut logprobs = vec![0.0; model.manifest().vocab_size];
        let mut failure = None;
        let mut scored = 0;
        for piece in self.pieces.iter().take(pieces) {
            let sequence = session.sequence();
            let tokens = &piece[..tokens.min(piece.len())];
            let work = [Work { sequence, tokens, wanted }];
            usage.add(&session.step(&work, |row, logits| {
                if row.token < unscored {
                    return;
                }
                match log_probabilities(logits, &mut logprobs) {
                    Ok(()) => each(scored, &logprobs),
                    Err(e) => failure = Some(e),
                }
                scored += 1;
            })?);
            session.free(sequence)?;
        }
        failure.map_or(Ok(usage.site_fraction.unwrap_or(1.0)), |e| Err(e.into()))
    }
}

fn linears(model: &Model) -> Vec<Linear> {
    let program = model.plan().program();
    let sparse = program.entries.iter().flat_map(|entry| {
        entry.steps().filter_map(|step| {
            let Op::SparseLinear(_) = step.op else { return None };
            match entry.operands[*step.inputs.get(1)?].kind {
                OperandKind::Weight(w) => program.weights.get(w),
                _ => None,
            }
        })
    });
    sparse.map(|w| Linear { rows: w.rows, cols: w.cols }).collect()
}

/// A distribution of the next token: the likeliest one by one, the others together.
struct Prediction {
    /// Token, its probability and the logarithm.
    likeliest: Vec<(u32, f32, f32)>,
    rest: f64,
}

impl Prediction {
    fn new(logprobs: &[f32]) -> Prediction {
        let mut all: Vec<(u32, f32, f32)> =
            (0..).zip(logprobs).map(|(id, l)| (id, l.exp(), *l)).collect();
        let by_value = |a: &(u32, f32, f32), b: &(u32, f32, f32)| b.2.total_cmp(&a.2);
        if all.len() > LIKELIEST {
            all.select_nth_unstable_by(LIKELIEST, by_value);
            all.truncate(LIKELIEST);
        }
        all.sort_by_key(|p| p.0);
        let sum: f64 = all.iter().map(|p| f64::from(p.1)).sum();
        all.shrink_to_fit();
        Prediction { likeliest: all, rest: (1.0 - sum).max(0.0) }
    }

    /// Of another distribution from this one; at most the divergence over all tokens.
    fn divergence(&self, logprobs: &[f32]) -> f64 {
        let (mut sum, mut others) = (0.0, 1.0);
        for (id, p, log) in &self.likeliest {
            let other = logprobs[*id as usize];
            sum += f64::from(p * (log - other));
            others -= f64::from(other.exp());
        }
        if self.rest > 1e-6 { sum + self.rest * (self.rest / others.max(1e-6)).ln() } else { sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_likeliest_and_the_rest() {
        let log = |p: &[f32]| p.iter().map(|p| p.ln()).collect::<Vec<f32>>();
        let dense = Prediction::new(&log(&[0.5, 0.25, 0.25]));
        assert!(dense.divergence(&log(&[0.5, 0.25, 0.25])).abs() < 1e-6);
        let expected = 0.5 * 2f64.ln() + 0.25 * 0.5f64.ln();
        assert!((dense.divergence(&log(&[0.25, 0.5, 0.25])) - expected).abs() < 1e-6);
        // Many equal tokens: what moves among those that are kept together is not seen.
        let many = vec![1.0 / 1024.0; 1024];
        let dense = Prediction::new(&log(&many));
        assert_eq!(dense.likeliest.len(), LIKELIEST);
        assert!((dense.rest - 0.75).abs() < 1e-5 && dense.divergence(&log(&many)).abs() < 1e-5);
    }
}
