//! TrigFlow (Lu, Song: "Simplifying, Stabilizing and Scaling Continuous-time Consistency Models", 2024;
//! `SCMScheduler` of diffusers): a sample is `cos(t) x0 + sin(t) sigma_data eps`, and a step of the student
//! goes to `x0 = cos(t) x - sin(t) sigma_data F(x / sigma_data, t)`.

use limbeck_models::Config;

use super::{Affine, Rule, Schedules, Step, positive, spread};
use crate::error::{Error, Result};

/// Where diffusers' steps begin.
#[allow(clippy::approx_constant, reason = "it is not pi / 2, but what students are called with")]
const FIRST: f64 = 1.5708;

/// The rule.
pub struct TrigFlow {
    sigma_data: f64,
    first: f64,
    /// The second time of two.
    middle: f64,
    explicit: Schedules,
}

/// Reads its settings.
pub fn read(config: &Config) -> Result<Box<dyn Rule>> {
    let name: Option<String> = config.get("prediction_type")?;
    if let Some(other) = name.filter(|name| name != "trigflow") {
        return Err(config.unsupported("prediction_type", &other).into());
    }
    config.discard(|key| key == "num_train_timesteps");
    Ok(Box::new(TrigFlow {
        sigma_data: positive(config, "sigma_data", 0.5)?,
        first: positive(config, "max_timesteps", FIRST)?,
        middle: positive(config, "intermediate_timesteps", 1.3)?,
        explicit: Schedules::read(config, "timesteps")?,
    }))
}

impl Rule for TrigFlow {
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)> {
        let times: Vec<f64> = match self.explicit.of(steps)? {
            Some(times) => times,
            None if steps == 2 => vec![self.first, self.middle],
            None => spread(self.first, 0.0, steps + 1).take(steps).collect(),
        };
        if times.iter().any(|t| !(0.0..=1.5709).contains(t)) {
            return Err(Error::mismatch("times are not in 0..=pi/2"));
        }
        let row = |(at, t): (usize, &f64)| {
            let next = times.get(at + 1).copied().unwrap_or(0.0);
            let x0 = Affine { x: t.cos(), out: -t.sin() * self.sigma_data };
            let (input_scale, c) = (1.0 / self.sigma_data, next.sin() * self.sigma_data);
            Step { input_scale, c, ..Step::new(*t, x0.scale(next.cos())) }
        };
        Ok((self.sigma_data, times.iter().enumerate().map(row).collect()))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        self.explicit.counts()
    }
}
