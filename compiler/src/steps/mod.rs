//! Step tables: what a student's sampler is, worked out to the factors of its steps.
//!
//! One file a rule. [`Declaration`] reads what a checkpoint says of its sampler (`docs/samplers.md`) and lays
//! it on a student's graph.

mod consistency;
mod declaration;
mod edm;
mod euler;
mod flow_map;
mod flow_match;
mod lcm;
mod renoise;
mod table;
mod tcd;
#[cfg(test)]
mod tests;
mod trigflow;
mod vp;

use limbeck_models::Config;

use crate::error::{Error, Result};

pub use declaration::Declaration;
pub use table::declare;

/// A rule with its settings.
trait Rule {
    /// The factor of the noise at the start, and so many steps.
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)>;
    /// The numbers of steps that there are schedules for; none where any will do.
    fn counts(&self) -> Option<Vec<usize>>;
}

type Reader = fn(&Config) -> Result<Box<dyn Rule>>;

/// Rules by name, and by the class of diffusers that has it.
const RULES: [(&str, &str, Reader); 11] = [
    ("consistency", "CMStochasticIterativeScheduler", consistency::read),
    ("edm", "", edm::read),
    ("euler", "EulerDiscreteScheduler", euler::read),
    ("euler_ancestral", "EulerAncestralDiscreteScheduler", euler::read_ancestral),
    ("flow_map", "FlowMapEulerDiscreteScheduler", flow_map::read),
    ("flow_match", "FlowMatchEulerDiscreteScheduler", flow_match::read),
    ("lcm", "LCMScheduler", lcm::read),
    ("renoise", "", renoise::read),
    ("table", "", table::read),
    ("tcd", "TCDScheduler", tcd::read),
    ("trigflow", "SCMScheduler", trigflow::read),
];

/// A combination of the sample and what the student gives for it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Affine {
    x: f64,
    out: f64,
}

impl Affine {
    fn scale(self, by: f64) -> Affine {
        Affine { x: self.x * by, out: self.out * by }
    }

    fn plus(self, other: Affine) -> Affine {
        Affine { x: self.x + other.x, out: self.out + other.out }
    }

    fn plus_x(self, x: f64) -> Affine {
        self.plus(Affine { x, out: 0.0 })
    }
}

/// One step, as a plan's row has it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    t: f64,
    r: f64,
    input_scale: f64,
    x: Affine,
    c: f64,
    clip: Option<f64>,
}

impl Step {
    /// At this time, without noise, bound, or a scale of the input.
    fn new(t: f64, x: Affine) -> Step {
        Step { t, r: 0.0, input_scale: 1.0, x, c: 0.0, clip: None }
    }
}

/// Times or noise levels that are given, one list for a number of steps.
struct Schedules(Vec<Vec<f64>>);

impl Schedules {
    /// A list of numbers, or a list of such lists; each falls.
    fn read(config: &Config, key: &str) -> Result<Schedules> {
        let found: Option<serde_json::Value> = config.get(key)?;
        let Some(found) = found else { return Ok(Schedules(Vec::new())) };
        let refuse = || Error::from(config.unsupported(key, &found.to_string()));
        let list = |v: &serde_json::Value| serde_json::from_value::<Vec<f64>>(v.clone());
        let lists = match list(&found) {
            Ok(one) => vec![one],
            Err(_) => serde_json::from_value(found.clone()).map_err(|_| refuse())?,
        };
        let falls = |list: &Vec<f64>| {
            let pairs = list.iter().zip(list.iter().skip(1));
            !list.is_empty()
                && list.iter().all(|v| *v > 0.0)
                && pairs.into_iter().all(|(a, b)| a > b)
        };
        let counts = |at: usize| lists.get(at).map(Vec::len);
        let twice = (1..lists.len()).any(|at| (0..at).any(|before| counts(before) == counts(at)));
        if lists.is_empty() || twice || !lists.iter().all(falls) {
            return Err(refuse());
        }
        Ok(Schedules(lists))
    }

    /// The list for so many steps; none where there are no lists at all.
    fn of(&self, steps: usize) -> Result<Option<Vec<f64>>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let found = self.0.iter().find(|list| list.len() == steps);
        let missing = || Error::missing(format!("no schedule of {steps} steps is given"));
        found.cloned().ok_or_else(missing).map(Some)
    }

    fn counts(&self) -> Option<Vec<usize>> {
        (!self.0.is_empty()).then(|| self.0.iter().map(Vec::len).collect())
    }
}

/// So many numbers from one to the other, both among them.
fn spread(first: f64, last: f64, count: usize) -> impl Iterator<Item = f64> {
    let step = (last - first) / count.saturating_sub(1).max(1) as f64;
    (0..count).map(move |i| if i > 0 && i + 1 == count { last } else { first + i as f64 * step })
}

/// A number above 0.
fn positive(config: &Config, key: &str, default: f64) -> Result<f64> {
    let value: f64 = config.get(key)?.unwrap_or(default);
    if value > 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(config.unsupported(key, &value.to_string()).into())
}

/// Refuses switches that would change what a step computes.
fn refuse_true(config: &Config, keys: &[&str]) -> Result<()> {
    for key in keys {
        if config.get(key)?.unwrap_or(false) {
            return Err(config.unsupported(key, "true").into());
        }
    }
    Ok(())
}
