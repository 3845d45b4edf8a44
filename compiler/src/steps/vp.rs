//! Variance-preserving noise: `x = sqrt(a) x0 + sqrt(1 - a) eps`, with a table of `a` by training step.

use limbeck_models::Config;

use super::{Affine, spread};
use crate::error::{Error, Result};

/// Most training steps.
const MAX_STEPS: usize = 1 << 16;

/// What the student's output stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The sample without noise.
    Sample,
    /// `sqrt(a) eps - sqrt(1 - a) x0`.
    Velocity,
}

impl Prediction {
    /// As `prediction_type` has it.
    pub fn read(config: &Config) -> Result<Prediction> {
        let name: Option<String> = config.get("prediction_type")?;
        match name.as_deref() {
            None | Some("epsilon") => Ok(Prediction::Epsilon),
            Some("sample" | "original_sample") => Ok(Prediction::Sample),
            Some("v_prediction") => Ok(Prediction::Velocity),
            Some(other) => Err(config.unsupported("prediction_type", other).into()),
        }
    }

    /// The sample without noise.
    pub fn x0(self, a: f64) -> Affine {
        match self {
            Prediction::Epsilon => Affine { x: 1.0 / a.sqrt(), out: -((1.0 - a) / a).sqrt() },
            Prediction::Sample => Affine { x: 0.0, out: 1.0 },
            Prediction::Velocity => Affine { x: a.sqrt(), out: -(1.0 - a).sqrt() },
        }
    }

    /// The noise.
    pub fn epsilon(self, a: f64) -> Affine {
        match self {
            Prediction::Epsilon => Affine { x: 0.0, out: 1.0 },
            Prediction::Sample => {
                let noise = (1.0 - a).sqrt();
                Affine { x: 1.0 / noise, out: -a.sqrt() / noise }
            }
            Prediction::Velocity => Affine { x: (1.0 - a).sqrt(), out: a.sqrt() },
        }
    }
}

/// The table.
pub struct Vp {
    alphas: Vec<f64>,
}

impl Vp {
    /// As `num_train_timesteps`, `beta_start`, `beta_end` and `beta_schedule` have it; with these values
    /// where they say nothing.
    pub fn read(config: &Config, start: f64, end: f64, schedule: &str) -> Result<Vp> {
        let steps: usize = config.get("num_train_timesteps")?.unwrap_or(1000);
        let start: f64 = config.get("beta_start")?.unwrap_or(start);
        let end: f64 = config.get("beta_end")?.unwrap_or(end);
        let named: Option<String> = config.get("beta_schedule")?;
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(config.unsupported("num_train_timesteps", &steps.to_string()).into());
        }
        if !(0.0 < start && start <= end && end < 1.0) {
            let message = format!("betas from {start} to {end} are not in 0..1, rising");
            return Err(Error::mismatch(message));
        }
        let betas: Vec<f64> = match named.as_deref().unwrap_or(schedule) {
            "linear" => spread(start, end, steps).collect(),
            "scaled_linear" => spread(start.sqrt(), end.sqrt(), steps).map(|b| b * b).collect(),
            "squaredcos_cap_v2" => squared_cosine(steps).collect(),
            other => return Err(config.unsupported("beta_schedule", other).into()),
        };
        let alphas = betas.iter().scan(1.0, |product, beta| {
            *product *= 1.0 - beta;
            Some(*product)
        });
        Ok(Vp { alphas: alphas.collect() })
    }

    /// Training steps.
    pub fn steps(&self) -> usize {
        self.alphas.len()
    }

    /// `a` at a training step.
    pub fn alpha(&self, t: f64) -> Result<f64> {
        let found = if t >= 0.0 && t.fract() == 0.0 { self.alphas.get(t as usize) } else { None };
        let steps = self.steps();
        found.copied().ok_or_else(|| {
            Error::mismatch(format!("timestep {t} is not one of the {steps} that were trained"))
        })
    }

    /// The noise over the sample, `sqrt((1 - a) / a)`, linear between training steps.
    pub fn sigma(&self, t: f64) -> Result<f64> {
        let sigma = |a: f64| ((1.0 - a) / a).sqrt();
        let (below, part) = (t.floor(), t.fract());
        let low = sigma(self.alpha(below)?);
        Ok(if part == 0.0 { low } else { low + part * (sigma(self.alpha(below + 1.0)?) - low) })
    }
}

/// Nichol, Dhariwal: "Improved Denoising Diffusion Probabilistic Models" (2021).
fn squared_cosine(steps: usize) -> impl Iterator<Item = f64> {
    let alpha = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    let steps = steps as f64;
    (0..steps as usize).map(move |i| {
        let i = i as f64;
        (1.0 - alpha((i + 1.0) / steps) / alpha(i / steps)).min(0.999)
    })
}
