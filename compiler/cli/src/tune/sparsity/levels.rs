//! Levels of sparsity as JSON: `tune --sparsity --json` prints them, `--levels` reads them.

use std::path::Path;

use limbeck::Model;
use limbeck::plan::Op;
use limbeck_compiler::{ChannelWeights, SparsityLevel};
use serde::{Deserialize, Serialize};

use crate::output::{Failure, at_file};
use crate::score::read_text;

/// The levels of one student.
#[derive(Debug, Serialize, Deserialize)]
pub struct Levels {
    /// The sparse linears, in the order of thresholds.
    linears: Vec<String>,
    /// Weights of each linear's input channels; the norms of columns where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    channels: Vec<Vec<f32>>,
    /// By rising cost.
    levels: Vec<Stored>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    /// Multiply-adds of the sparse linears relative to all of theirs.
    cost: f64,
    /// Of predictions against the dense student's, nats.
    loss: f64,
    thresholds: Vec<f32>,
}

impl Levels {
    /// Levels of a student whose channels weigh as their columns.
    pub fn new(model: &Model, levels: &[SparsityLevel]) -> Levels {
        let stored = levels.iter().map(|level| Stored {
            cost: level.cost,
            loss: -level.gain,
            thresholds: level.thresholds.clone(),
        });
        let linears = sparse_linears(model);
        Levels { linears, channels: Vec::new(), levels: stored.collect() }
    }

    pub fn read(file: &Path) -> Result<Levels, Failure> {
        let levels: Levels = at_file(file, serde_json::from_str(&read_text(file)?))?;
        match levels.channels.len() {
            0 => Ok(levels),
            count if count == levels.linears.len() => Ok(levels),
            _ => {
                let message = "it must have weights of channels for all linears, or for none";
                at_file(file, Err(message))
            }
        }
    }

    pub fn channel_weights(&self) -> ChannelWeights {
        self.linears.iter().cloned().zip(self.channels.iter().cloned()).collect()
    }

    /// The levels, when they are for this student. `file` is where they come from.
    pub fn of(&self, file: &Path, model: &Model) -> Result<Vec<SparsityLevel>, Failure> {
        at_file(file, self.check(&sparse_linears(model)))?;
        let level = |stored: &Stored| SparsityLevel {
            gain: -stored.loss,
            cost: stored.cost,
            thresholds: stored.thresholds.clone(),
        };
        Ok(self.levels.iter().map(level).collect())
    }

    /// What levels cost, and lose, by falling cost.
    pub fn costs(&self) -> impl Iterator<Item = (f64, f64)> {
        self.levels.iter().rev().map(|level| (level.cost, level.loss))
    }

    fn check(&self, linears: &[String]) -> Result<(), String> {
        if self.linears != linears {
            return Err("its linears are not those of the plan: it is for another student".into());
        }
        if self.levels.is_empty() {
            return Err("it has no levels".into());
        }
        let (mut cost, mut loss) = (0.0, f64::INFINITY);
        let mut before = vec![f32::INFINITY; linears.len()];
        for (index, level) in self.levels.iter().enumerate() {
            if !(cost < level.cost && level.cost < 1.0 && 0.0 < level.loss && level.loss < loss) {
                return Err(format!(
                    "level {index}: costs must rise between 0 and 1, and losses fall above 0"
                ));
            }
            let sound =
                |(t, most): (&f32, &f32)| t.is_finite() && t.is_sign_positive() && t <= most;
            if level.thresholds.len() != linears.len()
                || !level.thresholds.iter().zip(&before).all(sound)
            {
                return Err(format!(
                    "level {index}: it must have {} thresholds from 0 up, none above the level before",
                    linears.len()
                ));
            }
            before.clone_from(&level.thresholds);
            (cost, loss) = (level.cost, level.loss);
        }
        Ok(())
    }
}

/// The names of the steps that thresholds belong to, in order.
fn sparse_linears(model: &Model) -> Vec<String> {
    let steps = model.plan().program().entries.iter().flat_map(|entry| entry.steps());
    let sparse = steps.filter(|step| matches!(step.op, Op::SparseLinear(_)));
    sparse.map(|step| step.name.clone()).collect()
}
