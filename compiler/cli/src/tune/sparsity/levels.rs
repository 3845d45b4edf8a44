//! Levels of sparsity as JSON: `tune --sparsity --json` prints them, `--levels` reads them.

use std::path::Path;

use limbeck::Model;
use limbeck::plan::Op;
use limbeck_compiler::SparsityLevel;
use serde::{Deserialize, Serialize};

use crate::output::{Failure, at_file};
use crate::score::read_text;

/// The levels of one student.
#[derive(Debug, Serialize, Deserialize)]
pub struct Levels {
    /// The sparse linears, in the order of thresholds.
    linears: Vec<String>,
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
    pub fn new(model: &Model, levels: &[SparsityLevel]) -> Levels {
        let stored = levels.iter().map(|level| Stored {
            cost: level.cost,
            loss: -level.gain,
            thresholds: level.thresholds.clone(),
        });
        Levels { linears: sparse_linears(model), levels: stored.collect() }
    }

    /// The levels in a file, when they are for this student.
    pub fn read(file: &Path, model: &Model) -> Result<Vec<SparsityLevel>, Failure> {
        let found: Levels = at_file(file, serde_json::from_str(&read_text(file)?))?;
        at_file(file, found.check(&sparse_linears(model)))?;
        let level = |stored: Stored| SparsityLevel {
            gain: -stored.loss,
            cost: stored.cost,
            thresholds: stored.thresholds,
        };
        Ok(found.levels.into_iter().map(level).collect())
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
