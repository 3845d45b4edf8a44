//! EDM's preconditioning (Karras et al., 2022), for students of few steps: each step goes to
//! `x0 = c_skip x + c_out F(c_in x, ln(sigma) / 4)`, then adds fresh noise of the next level.

use limbeck_models::Config;

use super::consistency::Karras;
use super::{Affine, Rule, Schedules, Step, positive};
use crate::error::Result;

/// The rule.
pub struct Edm {
    levels: Karras,
    sigma_data: f64,
    explicit: Schedules,
}

/// Reads its settings.
pub fn read(config: &Config) -> Result<Box<dyn Rule>> {
    Ok(Box::new(Edm {
        levels: Karras::read(config)?,
        sigma_data: positive(config, "sigma_data", 0.5)?,
        explicit: Schedules::read(config, "sigmas")?,
    }))
}

impl Rule for Edm {
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)> {
        let sigmas = match self.explicit.of(steps)? {
            Some(sigmas) => sigmas,
            None => (0..steps).map(|i| self.levels.level(i as f64 / steps as f64)).collect(),
        };
        let square = self.sigma_data * self.sigma_data;
        let row = |(at, sigma): (usize, &f64)| {
            let total = sigma * sigma + square;
            let x0 = Affine { x: square / total, out: sigma * self.sigma_data / total.sqrt() };
            let c = sigmas.get(at + 1).copied().unwrap_or(0.0);
            Step { input_scale: 1.0 / total.sqrt(), c, ..Step::new(sigma.ln() / 4.0, x0) }
        };
        let start = sigmas.first().copied().unwrap_or(self.levels.most);
        Ok((start, sigmas.iter().enumerate().map(row).collect()))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        self.explicit.counts()
    }
}
