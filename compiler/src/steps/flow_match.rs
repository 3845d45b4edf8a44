//! Flow matching: a sample is `(1 - sigma) x0 + sigma eps`, and the student gives the velocity `eps - x0`
//! (`FlowMatchEulerDiscreteScheduler` of diffusers).

use limbeck_models::Config;

use super::{Affine, Rule, Schedules, Step, refuse_true, spread};
use crate::error::Result;

/// The rule.
pub struct FlowMatch {
    trained: f64,
    shift: f64,
    /// Whether each step goes to `x0` and adds fresh noise.
    stochastic: bool,
    /// Before the shift.
    explicit: Schedules,
}

/// Reads its settings.
pub fn read(config: &Config) -> Result<Box<dyn Rule>> {
    let dynamic = "use_dynamic_shifting";
    refuse_true(config, &[dynamic, "invert_sigmas", "use_karras_sigmas"])?;
    refuse_true(config, &["use_exponential_sigmas", "use_beta_sigmas"])?;
    config.discard(|key| {
        // Of dynamic shifting.
        let sizes = ["base_image_seq_len", "max_image_seq_len"];
        sizes.contains(&key) || ["base_shift", "max_shift", "time_shift_type"].contains(&key)
    });
    Ok(Box::new(FlowMatch {
        trained: super::positive(config, "num_train_timesteps", 1000.0)?,
        shift: super::positive(config, "shift", 1.0)?,
        stochastic: config.get("stochastic_sampling")?.unwrap_or(false),
        explicit: Schedules::read(config, "sigmas")?,
    }))
}

/// Moves noise levels towards 1.
pub fn shifted(shift: f64, sigma: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

impl Rule for FlowMatch {
    fn table(&self, steps: usize) -> Result<(f64, Vec<Step>)> {
        let levels = match self.explicit.of(steps)? {
            Some(levels) => levels,
            // The least one is shifted already, and is again.
            None => spread(1.0, shifted(self.shift, 1.0 / self.trained), steps).collect(),
        };
        let sigmas: Vec<f64> = levels.iter().map(|s| shifted(self.shift, *s)).collect();
        let row = |(at, sigma): (usize, &f64)| {
            let next = sigmas.get(at + 1).copied().unwrap_or(0.0);
            let t = sigma * self.trained;
            if self.stochastic {
                let x0 = Affine { x: 1.0, out: -sigma };
                return Step { c: next, ..Step::new(t, x0.scale(1.0 - next)) };
            }
            Step::new(t, Affine { x: 1.0, out: next - sigma })
        };
        Ok((1.0, sigmas.iter().enumerate().map(row).collect()))
    }

    fn counts(&self) -> Option<Vec<usize>> {
        self.explicit.counts()
    }
}
