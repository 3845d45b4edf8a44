//! Flow maps: the student knows the mean velocity between two times (Geng et al.: "Mean Flows", 2025;
//! `FlowMapEulerDiscreteScheduler` of diffusers).

use limbeck_models::Config;

use super::flow_match::shifted;
use super::{Affine, Rule, Schedules, Step, positive, spread};
use crate::error::Result;

/// The rule.
pub struct FlowMap {
    trained: f64,
    shift: f64,
    /// Before the shift.
    explicit: Schedules,
}

/// Reads its settings.
pub fn read(config: &Config) -> Result<Box<dyn Rule>> {
    Ok(Box::new(FlowMap {
        trained: positive(config, "num_train_timesteps", 1000.0)?,
        shift: positive(config, "shift", 1.0)?,
        explicit: Schedules::read(config, "sigmas")?,
    }))
}

impl Rule for FlowMap {
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)> {
        let levels = match self.explicit.of(steps)? {
            Some(levels) => levels,
            None => spread(1.0, 0.0, steps + 1).take(steps).collect(),
        };
        let sigmas: Vec<f64> = levels.iter().map(|s| shifted(self.shift, *s)).collect();
        let row = |(at, sigma): (usize, &f64)| {
            let next = sigmas.get(at + 1).copied().unwrap_or(0.0);
            let x = Affine { x: 1.0, out: next - sigma };
            Step { r: next * self.trained, ..Step::new(sigma * self.trained, x) }
        };
        Ok((1.0, sigmas.iter().enumerate().map(row).collect()))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        self.explicit.counts()
    }
}
