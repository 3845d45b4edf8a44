//! Fitting the weights of the sites, so that compute is saved where it costs the least quality.
//!
//! A first guess asks what each site loses per multiply-add that it saves when its price alone
//! moves, and divides its weight by it: then the loss per cost is about the same everywhere. Rounds
//! over all sites follow, in which a weight is multiplied or divided and kept where the quality at
//! equal fractions grows. Half of the data fits, the other half decides whether the result is kept.
//! Nothing is drawn at random.

use std::fmt;

use limbeck::Model;
use limbeck::plan::Program;
use serde_json::{Value, json};

use super::frontier::{Frontier, advantage};
use super::measure::{Measure, Progress};
use super::prices::ENDLESS;
use crate::output::Failure;

/// Prices of a trial.
const TRIAL_PRICES: usize = 6;
/// Tokens of a trial.
const TRIAL_TOKENS: usize = 4096;
/// Factors by which a weight is moved in the first rounds; later ones use the last.
const STEPS: [f64; 3] = [2.0, 1.4, 1.2];
/// Most by which the first guess moves a weight.
const MOST_GUESS: f64 = 4.0;
/// Factor that leaves a site with next to no price.
const SILENT: f64 = 1e-6;
/// Relative gain below which a change is noise: of a trial, and of the result on other data.
const NOISE: f64 = 1e-3;
const WORTH: f64 = 5e-3;

/// What a search found.
pub struct Search {
    names: Vec<String>,
    before: Vec<f64>,
    after: Vec<f64>,
    /// Mean share of the loss that is left at equal fractions: on the data that was fitted, and on
    /// the other half.
    fitted: f64,
    held_out: f64,
    trials: usize,
    program: Program,
}

impl Search {
    /// Whether the weights found are better on data that they were not fitted to.
    pub fn improves(&self) -> bool {
        self.held_out < 1.0 - WORTH
    }

    /// The plan's program with the weights found.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// For the report.
    pub fn to_json(&self) -> Value {
        let sites = self.names.iter().zip(&self.before).zip(&self.after);
        let sites = sites.map(|((name, before), after)| {
            json!({"name": name, "weight_before": before, "weight_found": after})
        });
        json!({
            "kept": self.improves(),
            "loss_left_on_fitted_data": self.fitted,
            "loss_left_on_other_data": self.held_out,
            "trials": self.trials,
            "sites": sites.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = if self.improves() { "kept" } else { "not kept" };
        writeln!(
            f,
            "weights {kept}: at equal fractions {:.1} % of the loss is left on data that they were \
             not fitted to ({:.1} % on the other)",
            self.held_out * 100.0,
            self.fitted * 100.0
        )?;
        let sites = self.names.iter().zip(&self.before).zip(&self.after).enumerate();
        for (i, ((name, before), after)) in sites {
            let end = if i > 0 { "\n" } else { "" };
            write!(f, "{end}  {name:24} {before:.4} -> {after:.4}")?;
        }
        Ok(())
    }
}

/// Looks for better weights of the sites of `model`; `prices` are those of its table.
pub fn search(
    model: &Model,
    measure: &mut dyn Measure,
    prices: &[f64],
    rounds: usize,
    progress: &mut Progress,
) -> Result<Search, Failure> {
    let sites = &model.plan().program().sites;
    let count = sites.len();
    progress.start("searching", 1 + count + rounds * count * 2);
    let (fit, other) = halves(measure);
    let before: Vec<f64> = sites.iter().map(|site| site.weight).collect();
    let names = sites.iter().map(|site| site.name.clone()).collect();
    let mut trials = Trials::new(model, measure, fit, &some(prices), progress)?;
    let start = trials.frontier(&before)?;
    let mut best = (before.clone(), 1.0);
    let guess = trials.guess(&before)?;
    trials.improve(&start, &mut best, guess)?;
    for round in 0..rounds {
        let step = STEPS[round.min(STEPS.len() - 1)];
        let last = best.1;
        for site in 0..count {
            for factor in [step, 1.0 / step] {
                let mut weights = best.0.clone();
                weights[site] *= factor;
                if trials.improve(&start, &mut best, normalised(weights, &before))? {
                    break;
                }
            }
        }
        if best.1 == last && round + 1 >= STEPS.len() {
            break;
        }
    }
    let run = trials.run;
    let mut trials = Trials::new(model, measure, other, &prices[1..], progress)?;
    let held_out = if best.0 == before {
        1.0
    } else {
        advantage(&trials.frontier(&before)?, &trials.frontier(&best.0)?)
    };
    let program = with_weights(model.plan().program(), &best.0);
    let (after, fitted, trials) = (best.0, best.1, run + trials.run);
    Ok(Search { names, before, after, fitted, held_out, trials, program })
}

/// Pieces to fit to, a sample of every second one, and the others; all for both where there is one.
fn halves(measure: &dyn Measure) -> (Vec<usize>, Vec<usize>) {
    let pieces = measure.pieces();
    if pieces.len() < 2 {
        return (vec![0], vec![0]);
    }
    let (fit, other): (Vec<usize>, Vec<usize>) = (0..pieces.len()).partition(|i| i % 2 == 0);
    let tokens: usize = fit.iter().map(|i| pieces[*i]).sum();
    (fit.into_iter().step_by(tokens.div_ceil(TRIAL_TOKENS)).collect(), other)
}

/// A few of the prices above 0, evenly.
fn some(prices: &[f64]) -> Vec<f64> {
    let last = prices.len() - 1;
    let of = |i: usize| prices[1 + i * (last - 1) / (TRIAL_PRICES - 1)];
    (0..TRIAL_PRICES).map(of).collect()
}

/// Weights with the product of those before: the price keeps its meaning.
fn normalised(weights: Vec<f64>, before: &[f64]) -> Vec<f64> {
    let logs = weights.iter().zip(before).map(|(a, b)| (a / b).ln());
    let mean = logs.sum::<f64>() / weights.len() as f64;
    weights.into_iter().map(|w| w / mean.exp()).collect()
}

fn with_weights(program: &Program, weights: &[f64]) -> Program {
    let mut program = program.clone();
    program.sites.iter_mut().zip(weights).for_each(|(site, weight)| site.weight = *weight);
    program
}

/// Runs programs with other weights.
struct Trials<'a> {
    model: &'a Model,
    measure: &'a mut dyn Measure,
    pieces: Vec<usize>,
    prices: Vec<f64>,
    progress: &'a mut Progress,
    /// Fraction and loss at price 0 and at an endless one, which no weight changes.
    ends: [(f64, f64); 2],
    run: usize,
}

impl<'a> Trials<'a> {
    fn new(
        model: &'a Model,
        measure: &'a mut dyn Measure,
        pieces: Vec<usize>,
        prices: &[f64],
        progress: &'a mut Progress,
    ) -> Result<Trials<'a>, Failure> {
        let (prices, ends) = (prices.to_vec(), [(0.0, 0.0); 2]);
        let mut trials = Trials { model, measure, pieces, prices, progress, ends, run: 0 };
        trials.ends = [trials.at(model, 0.0)?, trials.at(model, ENDLESS)?];
        Ok(trials)
    }

    fn at(&mut self, model: &Model, price: f64) -> Result<(f64, f64), Failure> {
        let found = self.measure.run(model, price, &self.pieces)?;
        Ok((found.usage.fraction, self.measure.quality().loss(found.quality)))
    }

    /// What the student can do with these weights.
    fn frontier(&mut self, weights: &[f64]) -> Result<Frontier, Failure> {
        let model = self.model.with_program(with_weights(self.model.plan().program(), weights))?;
        let mut points = self.ends.to_vec();
        for index in 0..self.prices.len() {
            points.push(self.at(&model, self.prices[index])?);
        }
        self.run += 1;
        self.progress.step();
        Ok(Frontier::new(points))
    }

    /// The first guess: weights divided by what their sites lose for what they save.
    fn guess(&mut self, weights: &[f64]) -> Result<Vec<f64>, Failure> {
        let (highest, least) = self.ends[0];
        let mut logs = Vec::with_capacity(weights.len());
        for site in 0..weights.len() {
            self.progress.say(format!("site {site} alone"));
            let silent = weights.iter().enumerate();
            let alone: Vec<f64> =
                silent.map(|(i, w)| if i == site { *w } else { w * SILENT }).collect();
            let frontier = self.frontier(&alone)?;
            let rates = frontier.points().iter().filter(|(fraction, loss)| {
                // Where all sites save everything, nothing is said of this one.
                highest - fraction > 1e-4 && *loss > least && *fraction > self.ends[1].0 + 1e-6
            });
            let rates: Vec<f64> = rates.map(|(f, l)| ((l - least) / (highest - f)).ln()).collect();
            let mean = rates.iter().sum::<f64>() / rates.len() as f64;
            logs.push(if rates.is_empty() { None } else { Some(mean) });
        }
        let known: Vec<f64> = logs.iter().flatten().copied().collect();
        let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
        let most = MOST_GUESS.ln();
        let weights_found = weights.iter().zip(&logs).map(|(weight, log)| {
            let by = log.map_or(0.0, |log| (log - mean).clamp(-most, most));
            weight / by.exp()
        });
        Ok(normalised(weights_found.collect(), weights))
    }

    /// Takes weights in the place of the best where they are better; tells whether it did.
    fn improve(
        &mut self,
        start: &Frontier,
        best: &mut (Vec<f64>, f64),
        weights: Vec<f64>,
    ) -> Result<bool, Failure> {
        let left = advantage(start, &self.frontier(&weights)?);
        let better = left < best.1 * (1.0 - NOISE);
        if better {
            *best = (weights, left);
        }
        self.progress.say(format!("{:.1} % of the loss left", best.1 * 100.0));
        Ok(better)
    }
}
