//! The choice of the next token from logits: penalties, filters and the seeded draw.
//!
//! Order and formulas are those of Hugging Face transformers (`generation/logits_process.py`, in
//! the order of `GenerationMixin._get_logits_processor`): repetition penalty, temperature,
//! top-k, top-p, min-p. Presence and frequency penalties, which transformers lacks, follow the
//! formula of OpenAI's API reference and come right after the repetition penalty.

use super::shortlist::{Found, Logit, Need, Shortlist};
use crate::philox::Philox;
use crate::{Error, ErrorKind, Result};

/// How the next token is chosen. The default is greedy, without penalties.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Logits are divided by it; 0 takes the most likely token and ignores the filters. At
    /// least 0 and finite.
    pub temperature: f32,
    /// Keeps the k most likely tokens and those as likely as the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens that has this probability; 1 keeps all.
    /// In (0, 1].
    pub top_p: f32,
    /// Keeps tokens that are at least this much as likely as the most likely one; 0 keeps all.
    /// In [0, 1].
    pub min_p: f32,
    /// Positive logits of tokens in the history are divided by it, the others multiplied; 1 is
    /// neutral. Above 0 and finite.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens in the history. Finite.
    pub presence_penalty: f32,
    /// Subtracted from a logit once for each time that the token is in the history. Finite.
    pub frequency_penalty: f32,
    /// How many of the last tokens of the history the penalties see; `None` for all.
    pub penalty_window: Option<usize>,
    /// Seed of the draws; the same seed gives the same tokens on every platform.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> SamplerOptions {
        SamplerOptions {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: None,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Checks every value; the error's place is the name of the field.
    pub fn validate(&self) -> Result<()> {
        let finite = f32::MIN..=f32::MAX;
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0, "at least 0"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "in (0, 1]"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "in [0, 1]"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0,
                "above 0",
            ),
            ("presence_penalty", self.presence_penalty, true, "finite"),
            ("frequency_penalty", self.frequency_penalty, true, "finite"),
        ];
        for (field, value, in_range, wanted) in checks {
            if !in_range || !finite.contains(&value) {
                let message = format!("is {value}; it must be {wanted}");
                return Err(Error::new(ErrorKind::InvalidInput, message).at(field));
            }
        }
        Ok(())
    }

    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}

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

    fn choose_of(&mut self, list: &Shortlist) -> Result<Option<Sampled>> {
        let Some(first) = list.largest.first() else { return Ok(None) };
        let max = first.value;
        check_largest(max)?;
        let need = self.need();
        if !need.met_by(list) {
            return Ok(None);
        }
        let token = match need {
            Need::Logits => None,
            Need::Largest => Some(first.token),
            Need::Top(k) => {
                let top = list.largest.iter().take(k);
                self.candidates.clear();
                self.candidates.extend(top.map(|logit| Candidate::new(logit.value, logit.token)));
                self.narrow(max, self.candidates.len(), None);
                Some(self.draw())
            }
            Need::Draw(_) => self.draw_of(list, max),
        };
        let chosen = list.largest.iter().find(|logit| Some(logit.token) == token);
        Ok(chosen.map(|logit| {
            let logprob = logit.value - max - list.sum.ln();
            Sampled { token: logit.token, logprob }
        }))
    }

    /// Draws one of all tokens by a list with masses, of which `max` is the largest logit: the one that is drawn by
    /// all logits. `None`, and nothing is drawn, where others than those of the list, or an error of the masses within
    /// [`Shortlist::SLACK`], may lead to another one.
    fn draw_of(&mut self, list: &Shortlist, max: f32) -> Option<u32> {
        let SamplerOptions { temperature, top_p, min_p, .. } = self.options;
        let weight = |value: f32| exp((value - max) / temperature);
        let possible = |l: &&Logit| l.value > f32::NEG_INFINITY && weight(l.value) >= min_p;
        let kept = list.largest.iter().take_while(possible);
        self.candidates.clear();
        self.candidates.extend(kept.map(|logit| Candidate::new(logit.value, logit.token)));
        // The mass of the largest alone is 1.
        let total = Some(list.total).filter(|total| *total >= 1.0 - Shortlist::SLACK)?;
        // Whether no token beside them may be drawn.
        let all = self.candidates.len() < list.largest.len();
        let mut random = self.random.clone();
        let share = random.next_f64();
        let token = if top_p == 1.0 && !all {
            // Others lie between those of the list, in the order of ids.
            let (target, slack) = (share * total, Shortlist::SLACK * total);
            let mut logits = list.largest.iter().zip(&list.before).filter(|_| min_p == 0.0);
            let found = logits.find(|(logit, before)| {
                let after = **before + f64::from(weight(logit.value));
                **before <= target - slack && target + slack < after
            });
            found?.0.token
        } else {
            let mut wanted = f64::from(top_p) * total;
            if top_p == 1.0 {
                self.candidates.sort_unstable_by_key(|candidate| candidate.id());
                wanted = f64::INFINITY;
            }
            self.weights.clear();
            self.weights.extend(self.candidates.iter().map(|c| weight(c.score())));
            self.kept_at(share, wanted, all)?
        };
        self.random = random;
        Some(token)
    }

    /// The candidate at this share of the mass of what is kept: of the candidates, and of others behind them where they
    /// are not `all`, as many as have the mass `wanted`. `None` where that is not sure.
    fn kept_at(&self, share: f64, wanted: f64, all: bool) -> Option<u32> {
        let (least, most) = (wanted * (1.0 - Shortlist::SLACK), wanted * (1.0 + Shortlist::SLACK));
        // The mass of what is kept lies between these.
        let (mut low, mut high) = (0.0, 0.0);
        let mut mass = 0.0;
        for weight in self.weights.iter().map(|weight| f64::from(*weight)) {
            if mass < least {
                low = mass + weight;
            }
            if mass < most {
                high = mass + weight;
            }
            mass += weight;
        }
        if mass < most && !all {
            if self.options.min_p > 0.0 {
                return None;
            }
            // The last that is kept is no heavier than the last here.
            low = least.max(low);
            high = most + f64::from(*self.weights.last()?);
        }
        mass = 0.0;
        let mut candidates = self.candidates.iter().zip(&self.weights);
        let found = candidates.find(|(_, weight)| {
            let before = mass;
            mass += f64::from(**weight);
            before <= share * low && share * high < mass
        });
        found.map(|(candidate, _)| candidate.id())
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

/// Writes the natural logarithm of the softmax of `logits` `[vocab]` to `out` `[vocab]`.
///
/// # Errors
/// Invalid input, when the lengths differ; backend, as for [`Sampler::sample`].
pub fn log_probabilities(logits: &[f32], out: &mut [f32]) -> Result<()> {
    if logits.len() != out.len() {
        let message = format!("{} values for {} logits", out.len(), logits.len());
        return Err(Error::new(ErrorKind::InvalidInput, message).at("log-probabilities"));
    }
    let max = largest(logits)?;
    let log_sum = exp_sum(logits, max, 1.0).ln();
    for (out, logit) in out.iter_mut().zip(logits) {
        *out = logit - max - log_sum;
    }
    Ok(())
}

/// A token and its score in one integer: a greater one is more likely, or as likely with a
/// lower id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate(u64);

impl Candidate {
    fn new(score: f32, id: u32) -> Candidate {
        let bits = (score + 0.0).to_bits();
        let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Candidate(u64::from(ordered) << 32 | u64::from(!id))
    }

    fn id(self) -> u32 {
        !(self.0 as u32)
    }

    fn score(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
    }
}

/// Keeps the `k` greatest, in any order, and those that score as high as the least of them;
/// `k` is above 0 and below the length.
fn keep_top(candidates: &mut Vec<Candidate>, k: usize) {
    let (_, &mut last, rest) = candidates.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
    let mut tied = 0;
    for i in 0..rest.len() {
        if rest.get(i).is_some_and(|candidate| candidate.score() == last.score()) {
            rest.swap(i, tied);
            tied += 1;
        }
    }
    candidates.truncate(k + tied);
}

/// Of candidates whose `sorted` greatest stand in order at the front, puts more in order; gives
/// how many are now.
fn sort_more(candidates: &mut [Candidate], sorted: usize) -> usize {
    let count = (3 * sorted).max(128);
    let rest = candidates.get_mut(sorted..).unwrap_or_default();
    if rest.len() <= count {
        rest.sort_unstable_by(|a, b| b.cmp(a));
        return candidates.len();
    }
    let (front, _, _) = rest.select_nth_unstable_by(count, |a, b| b.cmp(a));
    front.sort_unstable_by(|a, b| b.cmp(a));
    sorted + count
}

/// The largest logit; an error when it is none that a token can be chosen by.
fn largest(logits: &[f32]) -> Result<f32> {
    let max = peak(logits);
    check_largest(max)?;
    Ok(max)
}

/// The largest logit, or NaN where any is.
fn peak(logits: &[f32]) -> f32 {
    let mut max = f32::NEG_INFINITY;
    let mut nan = false;
    for &logit in logits {
        max = if logit > max { logit } else { max };
        nan |= logit.is_nan();
    }
    if nan { f32::NAN } else { max }
}

/// Refuses a [`peak`] that no token can be chosen by.
fn check_largest(max: f32) -> Result<()> {
    let problem = if max.is_nan() {
        "a logit is not a number"
    } else if max == f32::INFINITY {
        "a logit is infinite"
    } else if max == f32::NEG_INFINITY {
        "no token is possible: there is no logit above -inf"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Backend, problem).at("logits"))
}

/// The lowest id with this logit.
fn first_at(logits: &[f32], value: f32) -> u32 {
    logits.iter().zip(0..).find(|(logit, _)| **logit == value).map_or(0, |(_, id)| id)
}

/// Sum of `exp((logit - max) / temperature)`, whatever the platform: of 1024 logits in eight partial sums each, so that
/// rounding does not grow with their number.
fn exp_sum(logits: &[f32], max: f32, temperature: f32) -> f32 {
    let block = |logits: &[f32]| -> f32 {
        let mut sums = [0.0f32; 8];
        let (chunks, rest) = logits.as_chunks::<8>();
        for chunk in chunks {
            for (sum, logit) in sums.iter_mut().zip(chunk) {
                *sum += exp((logit - max) / temperature);
            }
        }
        for (sum, logit) in sums.iter_mut().zip(rest) {
            *sum += exp((logit - max) / temperature);
        }
        sums.iter().sum()
    };
    logits.chunks(1024).map(|logits| f64::from(block(logits))).sum::<f64>() as f32
}

/// `exp(x)` for `x <= 0` to about one unit in the last place, 0 below -87; without calls or
/// branches, so that loops over it vectorise, and of basic operations alone, so that every
/// platform gets the same bits.
fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which then stands in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    /// ln 2 in two parts; a small integer times the first is exact.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (clamped - n * LN2[0]) - n * LN2[1];
    // The series of exp around 0, for |r| <= ln 2 / 2.
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x >= -87.0 { p * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::shortlist::Pick;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Golden {
        logits: Vec<Vec<f32>>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        logits: usize,
        history: Vec<u32>,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        presence_penalty: f32,
        frequency_penalty: f32,
        penalty_window: Option<usize>,
        /// Token and probability, for those above 0.
        expected: Vec<(u32, f64)>,
    }

    fn sampler(change: impl FnOnce(&mut SamplerOptions)) -> Sampler {
        let mut options = SamplerOptions::default();
        change(&mut options);
        Sampler::new(options).unwrap()
    }

    #[test]
    fn filtered_distributions_are_those_of_transformers() {
        let golden: Golden =
            serde_json::from_str(include_str!("../../../tests/golden/sampler.json")).unwrap();
        assert!(golden.cases.len() > 20);
        for (i, case) in golden.cases.iter().enumerate() {
            let mut sampler = Sampler::new(SamplerOptions {
                temperature: case.temperature,
                top_k: case.top_k,
                top_p: case.top_p,
                min_p: case.min_p,
                repetition_penalty: case.repetition_penalty,
                presence_penalty: case.presence_penalty,
                frequency_penalty: case.frequency_penalty,
                penalty_window: case.penalty_window,
                seed: 0,
            })
            .unwrap();
            sampler.filter(&golden.logits[case.logits], &case.history).unwrap();
            let total: f64 = sampler.weights.iter().map(|&w| f64::from(w)).sum();
            let mut actual: Vec<(u32, f64)> = sampler
                .candidates
                .iter()
                .zip(&sampler.weights)
                .map(|(candidate, &weight)| (candidate.id(), f64::from(weight) / total))
                .collect();
            actual.sort_by_key(|&(id, _)| id);
            let ids = |pairs: &[(u32, f64)]| pairs.iter().map(|&(id, _)| id).collect::<Vec<_>>();
            assert_eq!(ids(&actual), ids(&case.expected), "case {i}");
            for (actual, expected) in actual.iter().zip(&case.expected) {
                assert!((actual.1 - expected.1).abs() < 2e-6, "case {i}: {actual:?} {expected:?}");
            }
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [1.0f32, 0.0, 2.0, f32::NEG_INFINITY, 0.5];
        let mut sampler = sampler(|o| o.temperature = 1.0);
        let mut counts = [0u32; 5];
        let draws = 50_000;
        for _ in 0..draws {
            counts[sampler.sample(&logits, &[]).unwrap().token as usize] += 1;
        }
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            let expected = f64::from(logit).exp() / total;
            // Four standard deviations.
            let tolerance = 4.0 * (expected * (1.0 - expected) / f64::from(draws)).sqrt();
            let share = f64::from(*count) / f64::from(draws);
            assert!((share - expected).abs() <= tolerance, "{share} {expected}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_tokens_and_forks_differ() {
        let logits: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32 / 40.0).collect();
        let run = |mut sampler: Sampler| -> Vec<u32> {
            (0..20).map(|_| sampler.sample(&logits, &[]).unwrap().token).collect()
        };
        let first = sampler(|o| (o.temperature, o.seed) = (1.0, 3));
        let other = sampler(|o| (o.temperature, o.seed) = (1.0, 4));
        assert_eq!(run(first.clone()), run(first.clone()));
        assert_ne!(run(first.clone()), run(other));
        assert_eq!(run(first.fork(1)), run(first.fork(1)));
        assert_ne!(run(first.fork(1)), run(first.fork(2)));
        assert_ne!(run(first.fork(1)), run(first));
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_the_most_likely() {
        let mut greedy = sampler(|_| ());
        assert_eq!(greedy.sample(&[0.0, 2.0, 1.0, 2.0], &[]).unwrap().token, 1);
        let mut penalised = sampler(|o| o.presence_penalty = 0.5);
        assert_eq!(penalised.sample(&[0.0, 2.0, 1.0, 2.0], &[1, 1]).unwrap().token, 3);
        assert_eq!(penalised.sample(&[0.0, 2.0, 1.0, 2.0], &[1, 3, 0]).unwrap().token, 1);
        let mut one = sampler(|o| (o.temperature, o.top_p) = (1.0, 1e-6));
        assert_eq!(one.sample(&[2.0, 2.0, 1.0], &[]).unwrap().token, 0);
        let mut cold = sampler(|o| o.temperature = f32::MIN_POSITIVE);
        assert_eq!(cold.sample(&[1.0, 2.0, -3.0], &[]).unwrap().token, 1);
    }

    #[test]
    fn logprobs_are_those_of_the_raw_logits() {
        let logits: Vec<f32> = (0..1003).map(|i| ((i * 7919) % 1003) as f32 / 50.0 - 7.0).collect();
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let mut out = vec![0.0; logits.len()];
        log_probabilities(&logits, &mut out).unwrap();
        for (out, logit) in out.iter().zip(&logits) {
            assert!((f64::from(*out) - (f64::from(*logit) - total.ln())).abs() < 1e-5);
        }
        let mut sampler =
            sampler(|o| (o.temperature, o.top_k, o.repetition_penalty) = (2.0, 9, 1.3));
        let sampled = sampler.sample(&logits, &[5, 900]).unwrap();
        assert_eq!(sampled.logprob, out[sampled.token as usize]);
        assert!(log_probabilities(&logits, &mut [0.0]).is_err());
    }

    #[test]
    fn logits_without_a_choice_are_errors() {
        let cases: [&[f32]; 4] =
            [&[], &[0.0, f32::NAN], &[f32::NEG_INFINITY; 3], &[1.0, f32::INFINITY]];
        for logits in cases {
            for temperature in [0.0, 1.0] {
                let mut sampler = sampler(|o| o.temperature = temperature);
                let error = sampler.sample(logits, &[]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Backend, "{logits:?}");
            }
        }
        let mut sampler = sampler(|o| o.presence_penalty = 1.0);
        let error = sampler.sample(&[0.0, 1.0], &[2]).unwrap_err();
        assert_eq!((error.kind(), error.place()), (ErrorKind::InvalidInput, Some("history")));
    }

    #[test]
    fn needs_are_no_more_than_the_options_ask() {
        let need = |change: fn(&mut SamplerOptions)| sampler(change).need();
        assert_eq!(need(|_| ()), Need::Largest);
        assert_eq!(need(|o| (o.top_k, o.top_p) = (40, 0.9)), Need::Largest);
        assert_eq!(need(|o| (o.temperature, o.top_k) = (0.8, 40)), Need::Top(40));
        assert_eq!(need(|o| (o.temperature, o.top_k) = (0.8, 127)), Need::Top(127));
        for change in [
            |o: &mut SamplerOptions| (o.temperature, o.top_k) = (0.8, 128),
            |o: &mut SamplerOptions| o.presence_penalty = 0.1,
            |o: &mut SamplerOptions| {
                (o.temperature, o.top_k, o.repetition_penalty) = (0.8, 40, 1.1)
            },
        ] {
            assert_eq!(need(change), Need::Logits);
        }
        for change in [
            |o: &mut SamplerOptions| o.temperature = 0.8,
            |o: &mut SamplerOptions| (o.temperature, o.top_p) = (0.8, 0.9),
            |o: &mut SamplerOptions| (o.temperature, o.min_p) = (0.8, 0.1),
        ] {
            assert_eq!(need(change), Need::Draw(0.8));
        }
        let pick = |need: Need, vocab| need.pick(vocab);
        assert_eq!(pick(Need::Logits, 1000), Pick::default());
        assert_eq!(pick(Need::Top(9), 9), Pick::default());
        assert_eq!(pick(Need::Top(8), 9), Pick { count: 9, temperature: 0.0 });
        assert_eq!(pick(Need::Draw(0.8), 256), Pick { count: 64, temperature: 0.8 });
        assert_eq!(pick(Need::Draw(0.8), 49152), Pick { count: Need::MOST, temperature: 0.8 });
        assert_eq!(pick(Need::Draw(0.8), 3), Pick::default());
    }

    #[test]
    fn bad_options_are_named() {
        type Change = fn(&mut SamplerOptions, f32);
        let fields: [(&str, Change, &[f32]); 6] = [
            ("temperature", |o, v| o.temperature = v, &[-0.1]),
            ("top_p", |o, v| o.top_p = v, &[0.0, -1.0, 1.1]),
            ("min_p", |o, v| o.min_p = v, &[-0.1, 1.1]),
            ("repetition_penalty", |o, v| o.repetition_penalty = v, &[0.0, -1.0]),
            ("presence_penalty", |o, v| o.presence_penalty = v, &[]),
            ("frequency_penalty", |o, v| o.frequency_penalty = v, &[]),
        ];
        for (field, change, bad) in fields {
            for &value in bad.iter().chain(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]) {
                let mut options = SamplerOptions::default();
                change(&mut options, value);
                let error = Sampler::new(options).unwrap_err();
                assert_eq!((error.kind(), error.place()), (ErrorKind::InvalidInput, Some(field)));
            }
        }
    }

    /// All candidates fully sorted, then cut: the filters by their definition.
    fn plainly_filtered(scores: &[f32], k: usize, p: f32) -> Vec<u32> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        if k > 0 {
            let last = scores[order[k.min(order.len()) - 1]];
            order.retain(|&i| scores[i] >= last);
        }
        let max = scores[order[0]];
        let weight = |i: usize| f64::from(exp(scores[i] - max));
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        let mut mass = 0.0;
        order.retain(|&i| {
            let kept = p == 1.0 || mass < f64::from(p) * total;
            mass += weight(i);
            kept
        });
        order.into_iter().map(|i| i as u32).collect()
    }

    proptest! {
        #[test]
        fn partial_selection_agrees_with_a_full_sort(
            steps in prop::collection::vec(0u8..40, 1..1500),
            k in prop_oneof![Just(0usize), 1usize..200],
            p in prop_oneof![Just(1.0f32), 0.05f32..0.99],
        ) {
            // An odd divisor keeps sums off the threshold.
            let scores: Vec<f32> = steps.iter().map(|&s| f32::from(s) / 7.3).collect();
            let mut sampler = sampler(|o| (o.temperature, o.top_k, o.top_p) = (1.0, k, p));
            sampler.filter(&scores, &[]).unwrap();
            let mut actual: Vec<u32> = sampler.candidates.iter().map(|c| c.id()).collect();
            let mut expected = plainly_filtered(&scores, k, p);
            actual.sort();
            expected.sort();
            prop_assert_eq!(actual, expected);
        }

        #[test]
        fn a_shortlist_gives_the_tokens_of_all_logits(
            steps in prop::collection::vec(0u16..400, 1..300),
            k in prop_oneof![Just(0usize), 1usize..100],
            p in prop_oneof![Just(1.0f32), 0.05f32..0.99],
            min_p in prop_oneof![Just(0.0f32), 0.0f32..0.3],
            seed: u64,
        ) {
            let possible = |s: u16| if s < 9 { f32::NEG_INFINITY } else { f32::from(s) / 73.0 };
            let logits: Vec<f32> = steps.iter().map(|&s| possible(s)).collect();
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let sum = exp_sum(&logits, logits[order[0]], 1.0);
            let mut whole = sampler(|o| {
                (o.temperature, o.top_k, o.top_p, o.min_p, o.seed) = (0.7, k, p, min_p, seed);
            });
            let mut short = whole.clone();
            let count = if k == 0 { 64 } else { k + 1 };
            let logit = |&i: &usize| Logit { token: i as u32, value: logits[i] };
            let largest: Vec<Logit> = order.iter().take(count).map(logit).collect();
            let mass = |logits: &[f32]| -> f64 {
                logits.iter().map(|l| (f64::from(l - largest[0].value) / 0.7).exp()).sum()
            };
            let before = largest.iter().map(|l| mass(&logits[..l.token as usize])).collect();
            let list = Shortlist { sum, total: mass(&logits), before, largest: largest.clone() };
            let possible = logits.iter().filter(|l| **l > f32::NEG_INFINITY).count();
            let tied = |k: usize| logits[order[k - 1]] == logits[order[k]];
            let met = short.need().met_by(&list);
            prop_assert_eq!(met, k == 0 || k < possible && !tied(k));
            for _ in 0..if possible > 0 { 8 } else { 0 } {
                let wanted = whole.sample(&logits, &[]).unwrap();
                match short.choose(Found::Shortlist(&list), &[]).unwrap() {
                    Some(found) => prop_assert_eq!(found, wanted),
                    None => {
                        prop_assert!(!met || k == 0);
                        prop_assert_eq!(short.sample(&logits, &[]).unwrap(), wanted);
                    }
                }
            }
        }

        #[test]
        fn exp_is_accurate(x in -86.0f32..=0.0) {
            let expected = f64::from(x).exp();
            prop_assert!((f64::from(exp(x)) / expected - 1.0).abs() < 3e-7);
        }

        #[test]
        fn candidates_keep_score_and_id(score in prop::num::f32::NORMAL, id: u32) {
            let candidate = Candidate::new(score, id);
            prop_assert_eq!((candidate.score(), candidate.id()), (score, id));
        }
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
    }
}
