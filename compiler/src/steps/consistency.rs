//! Consistency models (Song et al., 2023; `CMStochasticIterativeScheduler` of diffusers): each step goes to
//! `x0`, then back to a lower noise level of Karras et al. A sample is `x0 + sigma eps`.

use limbeck_models::Config;

use super::{Affine, Rule, Schedules, Step, positive};
use crate::error::{Error, Result};

/// Noise levels from the largest to the least (Karras et al.: "Elucidating the Design Space", 2022).
pub struct Karras {
    pub least: f64,
    pub most: f64,
    rho: f64,
}

impl Karras {
    /// As `sigma_min`, `sigma_max` and `rho` have it.
    pub fn read(config: &Config) -> Result<Karras> {
        let least = positive(config, "sigma_min", 0.002)?;
        let most = positive(config, "sigma_max", 80.0)?;
        if least > most {
            return Err(Error::mismatch(format!("sigma_min {least} is above sigma_max {most}")));
        }
        Ok(Karras { least, most, rho: positive(config, "rho", 7.0)? })
    }

    /// The level at a part of the way.
    pub fn level(&self, part: f64) -> f64 {
        let (low, high) = (self.least.powf(1.0 / self.rho), self.most.powf(1.0 / self.rho));
        (high + part * (low - high)).powf(self.rho)
    }
}

/// The rule.
pub struct Consistency {
    levels: Karras,
    trained: usize,
    sigma_data: f64,
    noise: f64,
    clip: Option<f64>,
    explicit: Schedules,
    /// Whether the entry scales what it takes and gives, so that it gives `x0` itself.
    denoised: bool,
    /// Whether its time is sigma, not 250 ln(sigma).
    sigma_time: bool,
}

/// Reads its settings. `output` is `raw` or `denoised`, `time` is `log` or `sigma`.
pub fn read(config: &Config) -> Result<Box<dyn Rule>> {
    let one_of = |key: &str, plain: &str, other: &str| -> Result<bool> {
        let found: Option<String> = config.get(key)?;
        match found {
            Some(found) if found == other => Ok(true),
            Some(found) if found != plain => Err(config.unsupported(key, &found).into()),
            _ => Ok(false),
        }
    };
    let clip: bool = config.get("clip_denoised")?.unwrap_or(true);
    Ok(Box::new(Consistency {
        levels: Karras::read(config)?,
        trained: config.get("num_train_timesteps")?.unwrap_or(40),
        sigma_data: positive(config, "sigma_data", 0.5)?,
        noise: positive(config, "s_noise", 1.0)?,
        clip: clip.then_some(1.0),
        explicit: Schedules::read(config, "sigmas")?,
        denoised: one_of("output", "raw", "denoised")?,
        sigma_time: one_of("time", "log", "sigma")?,
    }))
}

impl Consistency {
    fn sigmas(&self, steps: usize) -> Result<Vec<f64>> {
        if let Some(sigmas) = self.explicit.of(steps)? {
            return Ok(sigmas);
        }
        let ratio = self.trained / steps.max(1);
        if ratio == 0 {
            let message = format!("{steps} steps are more than the {} trained", self.trained);
            return Err(Error::mismatch(message));
        }
        let part = |i: usize| (i * ratio) as f64 / self.trained.saturating_sub(1).max(1) as f64;
        Ok((0..steps).map(|i| self.levels.level(part(i))).collect())
    }
}

impl Rule for Consistency {
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)> {
        let sigmas = self.sigmas(steps)?;
        let (least, most) = (self.levels.least, self.levels.most);
        let row = |(at, sigma): (usize, &f64)| {
            let square = self.sigma_data * self.sigma_data;
            let norm = (sigma * sigma + square).sqrt();
            let (x0, input_scale) = if self.denoised {
                (Affine { x: 0.0, out: 1.0 }, 1.0)
            } else {
                let above = sigma - least;
                let skip = square / (above * above + square);
                (Affine { x: skip, out: above * self.sigma_data / norm }, 1.0 / norm)
            };
            let next = sigmas.get(at + 1).map_or(least, |next| next.clamp(least, most));
            let c = self.noise * (next * next - least * least).sqrt();
            let t = if self.sigma_time { *sigma } else { 250.0 * sigma.ln() };
            Step { input_scale, c, clip: self.clip, ..Step::new(t, x0) }
        };
        Ok((sigmas.first().copied().unwrap_or(most), sigmas.iter().enumerate().map(row).collect()))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        self.explicit.counts()
    }
}
