//! Euler steps over the noise levels of a variance-preserving table, and ancestral ones (`EulerDiscrete-`
//! and `EulerAncestralDiscreteScheduler` of diffusers). A sample is `x0 + sigma eps` here.

use limbeck_models::Config;

use super::vp::{Prediction, Vp};
use super::{Affine, Rule, Schedules, Step, refuse_true, spread};
use crate::error::{Error, Result};

/// Which training steps are taken.
#[derive(Clone, Copy, PartialEq)]
enum Spacing {
    Linspace,
    Leading,
    Trailing,
}

/// The rule.
pub struct Euler {
    vp: Vp,
    prediction: Prediction,
    spacing: Spacing,
    offset: f64,
    explicit: Schedules,
    ancestral: bool,
    /// The noise that the last step leaves.
    last: f64,
}

/// Reads the settings of plain steps.
pub fn read(config: &Config) -> Result<Box<dyn Rule>> {
    refuse_true(config, &["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])?;
    for (key, only) in [("interpolation_type", "linear"), ("timestep_type", "discrete")] {
        let found: Option<String> = config.get(key)?;
        if let Some(other) = found.filter(|found| found != only) {
            return Err(config.unsupported(key, &other).into());
        }
    }
    let mut euler = common(config, false)?;
    let last: Option<String> = config.get("final_sigmas_type")?;
    euler.last = match last.as_deref() {
        None | Some("zero") => 0.0,
        Some("sigma_min") => euler.vp.sigma(0.0)?,
        Some(other) => return Err(config.unsupported("final_sigmas_type", other).into()),
    };
    Ok(Box::new(euler))
}

/// Reads the settings of ancestral steps.
pub fn read_ancestral(config: &Config) -> Result<Box<dyn Rule>> {
    let euler = common(config, true)?;
    if euler.prediction == Prediction::Sample {
        return Err(config.unsupported("prediction_type", "sample").into());
    }
    Ok(Box::new(euler))
}

fn common(config: &Config, ancestral: bool) -> Result<Euler> {
    let vp = Vp::read(config, 0.0001, 0.02, "linear")?;
    refuse_true(config, &["clip_sample", "rescale_betas_zero_snr"])?;
    config.discard(|key| ["set_alpha_to_one", "skip_prk_steps"].contains(&key));
    let spacing: Option<String> = config.get("timestep_spacing")?;
    let spacing = match spacing.as_deref() {
        None | Some("linspace") => Spacing::Linspace,
        Some("leading") => Spacing::Leading,
        Some("trailing") => Spacing::Trailing,
        Some(other) => return Err(config.unsupported("timestep_spacing", other).into()),
    };
    let offset: f64 = config.get("steps_offset")?.unwrap_or(0.0);
    let explicit = Schedules::read(config, "timesteps")?;
    let prediction = Prediction::read(config)?;
    Ok(Euler { vp, prediction, spacing, offset, explicit, ancestral, last: 0.0 })
}

impl Euler {
    fn timesteps(&self, steps: usize) -> Result<Vec<f64>> {
        if let Some(timesteps) = self.explicit.of(steps)? {
            return Ok(timesteps);
        }
        let trained = self.vp.steps();
        if steps > trained {
            return Err(Error::mismatch(format!("{steps} steps are more than {trained}")));
        }
        let count = steps as f64;
        let mut found: Vec<f64> = match self.spacing {
            // In f32, as diffusers has it: it decides between which training steps one lies.
            Spacing::Linspace => {
                let last = (trained - 1) as f64;
                spread(0.0, last, steps).map(|t| f64::from(t as f32)).collect()
            }
            Spacing::Leading => {
                let ratio = trained / steps;
                (0..steps).map(|i| (i * ratio) as f64 + self.offset).collect()
            }
            Spacing::Trailing => {
                let ratio = trained as f64 / count;
                let place = |i| (trained as f64 - i as f64 * ratio).round_ties_even() - 1.0;
                (0..steps).rev().map(place).collect()
            }
        };
        found.reverse();
        Ok(found)
    }
}

impl Rule for Euler {
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)> {
        let timesteps = self.timesteps(steps)?;
        let sigmas: Vec<f64> =
            timesteps.iter().map(|t| self.vp.sigma(*t)).collect::<Result<_>>()?;
        let most = sigmas.iter().copied().fold(0.0, f64::max);
        let start = match self.spacing {
            Spacing::Leading => (most * most + 1.0).sqrt(),
            _ => most,
        };
        let row = |(at, (t, sigma)): (usize, (&f64, &f64))| {
            let next = sigmas.get(at + 1).copied().unwrap_or(self.last);
            let square = sigma * sigma + 1.0;
            let x0 = match self.prediction {
                Prediction::Epsilon => Affine { x: 1.0, out: -sigma },
                Prediction::Velocity => Affine { x: 1.0 / square, out: -sigma / square.sqrt() },
                Prediction::Sample => Affine { x: 0.0, out: 1.0 },
            };
            let up = if self.ancestral {
                (next * next * (sigma * sigma - next * next) / (sigma * sigma)).max(0.0).sqrt()
            } else {
                0.0
            };
            let down = (next * next - up * up).max(0.0).sqrt();
            // x + (x - x0) / sigma (down - sigma)
            let share = down / sigma;
            let x = x0.scale(1.0 - share).plus_x(share);
            Step { input_scale: 1.0 / square.sqrt(), c: up, ..Step::new(*t, x) }
        };
        let rows = timesteps.iter().zip(&sigmas).enumerate().map(row);
        Ok((start, rows.collect()))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        self.explicit.counts()
    }
}
