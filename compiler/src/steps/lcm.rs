//! Latent consistency models (Luo et al., 2023; `LCMScheduler` of diffusers).

use limbeck_models::Config;

use super::vp::{Prediction, Vp};
use super::{Rule, Schedules, Step, refuse_true};
use crate::error::{Error, Result};

/// Standard deviation of the data in the boundary condition.
const SIGMA_DATA: f64 = 0.5;

/// Timesteps of the grid that a student was distilled on: `original` of them, evenly spaced; also TCD's.
pub struct Grid {
    original: usize,
    skip: usize,
    explicit: Schedules,
}

impl Grid {
    /// As `original_inference_steps` and `timesteps` have it.
    pub fn read(config: &Config, vp: &Vp) -> Result<Grid> {
        let original: usize = config.get("original_inference_steps")?.unwrap_or(50);
        let explicit = Schedules::read(config, "timesteps")?;
        match vp.steps().checked_div(original) {
            Some(skip) if skip > 0 => Ok(Grid { original, skip, explicit }),
            _ => Err(config.unsupported("original_inference_steps", &original.to_string()).into()),
        }
    }

    /// The timesteps of so many steps, falling.
    pub fn timesteps(&self, steps: usize) -> Result<Vec<f64>> {
        if let Some(timesteps) = self.explicit.of(steps)? {
            return Ok(timesteps);
        }
        if steps > self.original {
            let message = format!("{steps} steps are more than the {} of the grid", self.original);
            return Err(Error::mismatch(message));
        }
        let from_last = |i: usize| i * self.original / steps;
        let timestep = |i| ((self.original - from_last(i)) * self.skip - 1) as f64;
        Ok((0..steps).map(timestep).collect())
    }

    /// The numbers of steps that have timesteps of their own.
    pub fn counts(&self) -> Option<Vec<usize>> {
        self.explicit.counts()
    }
}

/// The rule.
pub struct Lcm {
    vp: Vp,
    prediction: Prediction,
    grid: Grid,
    scaling: f64,
}

/// Reads its settings.
pub fn read(config: &Config) -> Result<Box<dyn Rule>> {
    let vp = Vp::read(config, 0.00085, 0.012, "scaled_linear")?;
    refuse_true(config, &["clip_sample", "thresholding", "rescale_betas_zero_snr"])?;
    config.discard(|key| {
        // Of a clip and a threshold that are not taken, or read by no step.
        let unused = ["clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"];
        let leading = ["set_alpha_to_one", "steps_offset", "timestep_spacing"];
        unused.contains(&key) || leading.contains(&key)
    });
    Ok(Box::new(Lcm {
        prediction: Prediction::read(config)?,
        grid: Grid::read(config, &vp)?,
        scaling: config.get("timestep_scaling")?.unwrap_or(10.0),
        vp,
    }))
}

impl Rule for Lcm {
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)> {
        let timesteps = self.grid.timesteps(steps)?;
        let row = |(at, t): (usize, &f64)| {
            let scaled = t * self.scaling;
            let norm = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
            let (skip, out) = (SIGMA_DATA * SIGMA_DATA / norm, scaled / norm.sqrt());
            let x0 = self.prediction.x0(self.vp.alpha(*t)?).scale(out).plus_x(skip);
            let (signal, noise) = match timesteps.get(at + 1) {
                Some(next) => {
                    let a = self.vp.alpha(*next)?;
                    (a.sqrt(), (1.0 - a).sqrt())
                }
                None => (1.0, 0.0),
            };
            Ok(Step { c: noise, ..Step::new(*t, x0.scale(signal)) })
        };
        Ok((1.0, timesteps.iter().enumerate().map(row).collect::<Result<_>>()?))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        self.grid.counts()
    }
}
