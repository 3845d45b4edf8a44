//! Distribution matching (Yin et al.: DMD2, 2024): each step goes to `x0`, then adds fresh noise of the next
//! timestep, over a variance-preserving table.

use limbeck_models::Config;

use super::vp::{Prediction, Vp};
use super::{Rule, Schedules, Step, positive};
use crate::error::Result;

/// The rule.
pub struct Renoise {
    vp: Vp,
    prediction: Prediction,
    /// Bound on `x0`.
    clip: Option<f64>,
    explicit: Schedules,
}

/// Reads its settings.
pub fn read(config: &Config) -> Result<Box<dyn Rule>> {
    let clip: bool = config.get("clip_sample")?.unwrap_or(false);
    let range = positive(config, "clip_sample_range", 1.0)?;
    Ok(Box::new(Renoise {
        vp: Vp::read(config, 0.00085, 0.012, "scaled_linear")?,
        prediction: Prediction::read(config)?,
        clip: clip.then_some(range),
        explicit: Schedules::read(config, "timesteps")?,
    }))
}

impl Rule for Renoise {
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)> {
        let timesteps = match self.explicit.of(steps)? {
            Some(timesteps) => timesteps,
            None => {
                let trained = self.vp.steps() as f64;
                let timestep = |i| (trained - i as f64 * trained / steps as f64).round() - 1.0;
                (0..steps).map(timestep).collect()
            }
        };
        let row = |(at, t): (usize, &f64)| {
            let x0 = self.prediction.x0(self.vp.alpha(*t)?);
            let next = timesteps.get(at + 1).map(|t| self.vp.alpha(*t)).transpose()?;
            let next = next.unwrap_or(1.0);
            // The bound on x0, scaled as x0 is.
            let clip = self.clip.map(|clip| clip * next.sqrt());
            Ok(Step { c: (1.0 - next).sqrt(), clip, ..Step::new(*t, x0.scale(next.sqrt())) })
        };
        Ok((1.0, timesteps.iter().enumerate().map(row).collect::<Result<_>>()?))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        self.explicit.counts()
    }
}
