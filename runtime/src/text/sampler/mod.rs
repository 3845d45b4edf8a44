//! The choice of the next token from logits: penalties, filters and the seeded draw.
//!
//! Order and formulas are those of Hugging Face transformers (`generation/logits_process.py`, in
//! the order of `GenerationMixin._get_logits_processor`): repetition penalty, temperature,
//! top-k, top-p, min-p. Presence and frequency penalties, which transformers lacks, follow the
//! formula of OpenAI's API reference and come right after the repetition penalty.

mod candidates;
mod lists;
mod options;
mod softmax;
#[cfg(test)]
mod tests;

use super::shortlist::{Found, Need};
use crate::philox::Philox;
use crate::{Error, ErrorKind, Result};
use candidates::{Candidate, keep_top, sort_more};
use softmax::{exp, exp_sum, first_at, largest};

pub use options::SamplerOptions;
pub use softmax::log_probabilities;

/// A token that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Its log-probability (natural logarithm) by the logits as given, before penalties,
    /// temperature and filters.
    pub logprob: f32,
}

/// Chooses tokens. Its buffers grow with the first call and are reused.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    random: Philox,
    /// Logits after penalties, `[vocab]`.
    scores: Vec<f32>,
    /// Occurrences in the penalty window, `[vocab]`; all zero between calls.
    counts: Vec<u32>,
    /// Tokens that may be drawn.
    candidates: Vec<Candidate>,
    /// Their probabilities relative to the most likely token's.
    weights: Vec<f32>,
}

impl Sampler {
    /// A sampler with these options, which are checked.
    pub fn new(options: SamplerOptions) -> Result<Sampler> {
        options.validate()?;
        Ok(Sampler {
            random: Philox::new(options.seed),
            options,
            scores: Vec::new(),
            counts: Vec::new(),
            candidates: Vec::new(),
            weights: Vec::new(),
        })
    }

    /// What it looks at of a row of logits.
    pub(crate) fn need(&self) -> Need {
        let SamplerOptions { temperature, top_k, .. } = self.options;
        if self.options.penalises() {
            Need::Logits
        } else if temperature == 0.0 {
            Need::Largest
        } else if top_k == 0 {
            Need::Draw(temperature)
        } else if top_k < Need::MOST {
            Need::Top(top_k)
        } else {
            Need::Logits
        }
    }

    /// What it was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// A sampler with the same options and draws of its own, which depend on the seed and on
    /// `stream` alone, not on what this sampler has drawn.
    pub fn fork(&self, stream: u64) -> Sampler {
        Sampler {
            options: self.options.clone(),
            random: self.random.fork(stream),
            scores: Vec::new(),
            counts: Vec::new(),
            candidates: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Chooses a token by `logits` `[vocab]`; `history` is what the penalties look at, usually
    /// the prompt and all tokens since. Of tokens that are equally likely the lowest id comes
    /// first; a logit of -inf is never chosen.
    ///
    /// # Errors
    /// Backend, when a logit is NaN or +inf or when all are -inf; invalid input, when
    /// the history has an id outside of the vocabulary.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<Sampled> {
        let max = largest(logits)?;
        let token = if self.options.temperature == 0.0 {
            if self.penalise(logits, history)? {
                let max = largest(&self.scores)?;
                first_at(&self.scores, max)
            } else {
                first_at(logits, max)
            }
        } else {
            self.filter(logits, history)?;
            self.draw()
        };
        let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        Ok(Sampled { token, logprob: logit - max - exp_sum(logits, max, 1.0).ln() })
    }

    /// [`Sampler::sample`] by what a step found for its [`Sampler::need`]; `None`, and nothing is drawn, where that
    /// is a list that does not tell the token.
    pub(crate) fn choose(&mut self, found: Found<'_>, history: &[u32]) -> Result<Option<Sampled>> {
        match found {
            Found::Logits(logits) => self.sample(logits, history).map(Some),
            Found::Shortlist(list) => self.choose_of(list),
        }
    }

    /// Whether [`Sampler::choose`] would choose, or fail, by what was found.
    pub(crate) fn decides(&self, found: Found<'_>) -> bool {
        match found {
            Found::Logits(_) => true,
            Found::Shortlist(list) => !matches!(self.clone().choose_of(list), Ok(None)),
        }
    }

    /// Fills `scores` with the logits after penalties; false when there are none to apply.
    fn penalise(&mut self, logits: &[f32], history: &[u32]) -> Result<bool> {
        let window = self.options.penalty_window.unwrap_or(usize::MAX).min(history.len());
        let recent = history.get(history.len() - window..).unwrap_or_default();
        if !self.options.penalises() || recent.is_empty() {
            return Ok(false);
        }
        if let Some(id) = recent.iter().find(|&&id| id as usize >= logits.len()) {
            let message = format!("token {id} is outside of the vocabulary ({})", logits.len());
            return Err(Error::new(ErrorKind::InvalidInput, message).at("history"));
        }
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        self.counts.resize(logits.len(), 0);
        for &id in recent {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        let SamplerOptions { repetition_penalty, presence_penalty, frequency_penalty, .. } =
            self.options;
        for &id in recent {
            let (Some(count), Some(score)) =
                (self.counts.get_mut(id as usize), self.scores.get_mut(id as usize))
            else {
                continue;
            };
            if *count == 0 {
                continue;
            }
            let repeated = if *score < 0.0 {
                *score * repetition_penalty
            } else {
                *score / repetition_penalty
            };
            let penalised = repeated - presence_penalty - *count as f32 * frequency_penalty;
            *score = penalised.min(f32::MAX);
            *count = 0;
        }
        Ok(true)
    }

    /// Leaves the tokens that may be drawn in `candidates` and their weights in `weights`.
    fn filter(&mut self, logits: &[f32], history: &[u32]) -> Result<()> {
        let penalised = self.penalise(logits, history)?;
        let scores = if penalised { &self.scores } else { logits };
        let SamplerOptions { temperature, top_k, top_p, .. } = self.options;
        let max = largest(scores)?;

        let kept = &mut self.candidates;
        kept.clear();
        let possible = scores.iter().zip(0..).filter(|(score, _)| **score > f32::NEG_INFINITY);
        kept.extend(possible.map(|(&score, id)| Candidate::new(score, id)));

        let mut sorted = 0;
        if top_k > 0 && top_k < kept.len() {
            keep_top(kept, top_k);
            kept.sort_unstable_by(|a, b| b.cmp(a));
            sorted = kept.len();
        }
        let all = top_p < 1.0 && sorted == 0;
        let total = all.then(|| f64::from(exp_sum(scores, max, temperature)));
        self.narrow(max, sorted, total);
        Ok(())
    }

    /// Leaves of the candidates those that top-p and min-p keep, and their weights in `weights`. The `sorted`
    /// greatest stand in order at the front, `max` is the largest score, and `total` what all weigh; `None` for
    /// the sum of their weights.
    fn narrow(&mut self, max: f32, mut sorted: usize, total: Option<f64>) {
        let SamplerOptions { temperature, top_p, min_p, .. } = self.options;
        let weight = |candidate: &Candidate| exp((candidate.score() - max) / temperature);
        let kept = &mut self.candidates;
        if top_p < 1.0 {
            let sum = || kept.iter().map(|candidate| f64::from(weight(candidate))).sum();
            let total: f64 = total.unwrap_or_else(sum);
            let wanted = f64::from(top_p) * total;
            let (mut mass, mut count) = (0.0, 0);
            while mass < wanted && count < kept.len() {
                if count == sorted {
                    sorted = sort_more(kept, sorted);
                }
                mass += kept.get(count).map_or(0.0, |candidate| f64::from(weight(candidate)));
                count += 1;
            }
            kept.truncate(count);
        }
        if min_p > 0.0 {
            kept.retain(|candidate| weight(candidate) >= min_p);
        }
        self.weights.clear();
        self.weights.extend(kept.iter().map(weight));
    }

    /// Draws one of the candidates by their weights.
    fn draw(&mut self) -> u32 {
        let total: f64 = self.weights.iter().map(|&weight| f64::from(weight)).sum();
        let target = self.random.next_f64() * total;
        let mut mass = 0.0;
        let mut chosen = 0;
        for (candidate, &weight) in self.candidates.iter().zip(&self.weights) {
            if weight > 0.0 {
                chosen = candidate.id();
                mass += f64::from(weight);
                if mass > target {
                    break;
                }
            }
        }
        chosen
    }
}
