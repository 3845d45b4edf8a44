//! Trajectory consistency distillation (Zheng et al., 2024; `TCDScheduler` of diffusers).

use limbeck_models::Config;

use super::lcm::Grid;
use super::vp::{Prediction, Vp};
use super::{Rule, Step, refuse_true};
use crate::error::Result;

/// The rule.
pub struct Tcd {
    vp: Vp,
    prediction: Prediction,
    grid: Grid,
    /// How much of a step is noise, in 0..=1.
    eta: f64,
}

/// Reads its settings; `eta` is one of them here.
pub fn read(config: &Config) -> Result<Box<dyn Rule>> {
    let vp = Vp::read(config, 0.00085, 0.012, "scaled_linear")?;
    refuse_true(config, &["clip_sample", "thresholding", "rescale_betas_zero_snr"])?;
    config.discard(|key| {
        let unused = ["clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"];
        let leading = ["set_alpha_to_one", "steps_offset", "timestep_spacing", "timestep_scaling"];
        unused.contains(&key) || leading.contains(&key)
    });
    let eta: f64 = config.get("eta")?.unwrap_or(0.3);
    if !(0.0..=1.0).contains(&eta) {
        return Err(config.unsupported("eta", &eta.to_string()).into());
    }
    let prediction = Prediction::read(config)?;
    Ok(Box::new(Tcd { prediction, grid: Grid::read(config, &vp)?, eta, vp }))
}

impl Rule for Tcd {
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)> {
        let timesteps = self.grid.timesteps(steps)?;
        let row = |(at, t): (usize, &f64)| {
            let a = self.vp.alpha(*t)?;
            let next = timesteps.get(at + 1).copied();
            // The student's step goes further than to the next timestep, and noise leads back.
            let s = self.vp.alpha(((1.0 - self.eta) * next.unwrap_or(0.0)).floor())?;
            let x0 = self.prediction.x0(a).scale(s.sqrt());
            let x_s = x0.plus(self.prediction.epsilon(a).scale((1.0 - s).sqrt()));
            let Some(next) = next.filter(|_| self.eta > 0.0) else { return Ok(Step::new(*t, x_s)) };
            let share = self.vp.alpha(next)? / s;
            let c = (1.0 - share).max(0.0).sqrt();
            Ok(Step { c, ..Step::new(*t, x_s.scale(share.sqrt())) })
        };
        Ok((1.0, timesteps.iter().enumerate().map(row).collect::<Result<_>>()?))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        self.grid.counts()
    }
}
