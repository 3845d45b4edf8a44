//! Fits the time of a token to the fraction of compute that it spent.

/// Weight that an observation keeps when the next arrives: the level of the time.
const KEEP_LEVEL: f64 = 0.94;
/// The same for the share of the time that follows the fraction. A device that heats up scales all
/// of its times, so the share changes far more slowly than the level.
const KEEP_SHARE: f64 = 0.99;
/// The same for the mean that a budget is judged by: noise must not show as a change of mind.
const KEEP_PACE: f64 = 0.97;
/// Weight of the assumption that all of the time follows the fraction, in squared deviations of the
/// fraction. It errs to the safe side: corrections come out smaller.
const PRIOR: f64 = 0.1;
/// Smallest share of the time that is taken to follow the fraction.
const MIN_SHARE: f64 = 0.15;
/// Deviations beyond this many times the usual one are clipped, and beyond this relative one.
const CLIP: f64 = 3.0;
const MIN_CLIP: f64 = 0.15;
/// So many clipped observations in a row on one side mean that the machine has changed.
const STRIKES: usize = 3;

/// `seconds = a + b * fraction` with `a, b >= 0`, by recursive least squares with forgetting, around
/// the recent mean of both.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    /// Sum of weights behind the means, at most `1 / (1 - KEEP_LEVEL)`.
    weight: f64,
    /// Means of the fraction and of the seconds.
    fraction: f64,
    seconds: f64,
    /// Weighted squares of the fraction's deviations, and their products with those of the seconds,
    /// scaled so that a time proportional to the fraction gives equal sums.
    squares: f64,
    products: f64,
    /// Mean relative deviation from the fit.
    spread: f64,
    /// Ratios of the last clipped observations in a row to the fit, all on one side of 1.
    strikes: [f64; STRIKES],
    struck: usize,
    /// Mean of the seconds since the last restart, outliers clipped, with its weight.
    pace: f64,
    pace_weight: f64,
}

impl Default for Fit {
    fn default() -> Fit {
        Fit {
            weight: 0.0,
            fraction: 0.0,
            seconds: 0.0,
            squares: 0.0,
            products: 0.0,
            spread: 0.05,
            strikes: [1.0; STRIKES],
            struck: 0,
            pace: 0.0,
            pace_weight: 0.0,
        }
    }
}

impl Fit {
    /// The recent mean of the seconds, once there is one.
    pub fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then_some(self.seconds)
    }

    /// The mean of the seconds that a budget is judged by, once there is one.
    pub fn pace(&self) -> Option<f64> {
        (self.pace_weight > 0.0).then_some(self.pace)
    }

    /// Begins the mean that a budget is judged by anew.
    pub fn restart(&mut self) {
        self.pace_weight = 0.0;
    }

    /// The seconds of a token that spends this fraction.
    pub fn seconds(&self, fraction: f64) -> Option<f64> {
        let mean = self.mean()?;
        Some(mean * (1.0 + self.share() * (fraction / self.fraction - 1.0)))
    }

    /// The fraction at which a token takes these seconds; it may lie outside 0..=1.
    pub fn fraction(&self, seconds: f64) -> Option<f64> {
        let mean = self.mean()?;
        Some(self.fraction * (1.0 + (seconds / mean - 1.0) / self.share()))
    }

    /// The share of the mean time that follows the fraction, `b * fraction / seconds`.
    fn share(&self) -> f64 {
        ((self.products + PRIOR) / (self.squares + PRIOR)).clamp(MIN_SHARE, 1.0)
    }

    /// Takes note of a token. Times that are not positive say nothing.
    pub fn observe(&mut self, fraction: f64, seconds: f64) {
        let usable = |v: f64| v.is_finite() && v > 1e-12 && v < 1e12;
        if !usable(fraction) || !usable(seconds) {
            return;
        }
        let Some(expected) = self.seconds(fraction).filter(|e| usable(*e)) else {
            *self = Fit { weight: 1.0, fraction, seconds, ..Fit::default() };
            self.add_pace(seconds);
            return;
        };
        let ratio = self.clip(seconds / expected);
        let seconds = ratio * self.seconds(fraction).unwrap_or(expected);
        self.add(fraction, seconds);
        self.add_pace(seconds);
    }

    fn add_pace(&mut self, seconds: f64) {
        self.pace_weight = self.pace_weight * KEEP_PACE + 1.0;
        self.pace += (seconds - self.pace) / self.pace_weight;
    }

    /// A ratio to the fit, pulled in where it is beyond what is usual; where such ratios come in a
    /// row, the fit is scaled to them instead.
    fn clip(&mut self, ratio: f64) -> f64 {
        let limit = (CLIP * self.spread).max(MIN_CLIP);
        let (low, high) = (1.0 / (1.0 + limit), 1.0 + limit);
        let clipped = ratio.clamp(low, high);
        self.spread += (1.0 - KEEP_LEVEL) * ((clipped - 1.0).abs() - self.spread);
        if clipped == ratio {
            self.struck = 0;
            return ratio;
        }
        let first = self.strikes.first().copied().unwrap_or(1.0);
        if self.struck > 0 && (first > 1.0) != (ratio > 1.0) {
            self.struck = 0;
        }
        if let Some(strike) = self.strikes.get_mut(self.struck) {
            *strike = ratio;
        }
        self.struck += 1;
        if self.struck < STRIKES {
            return clipped;
        }
        self.struck = 0;
        self.strikes.sort_by(f64::total_cmp);
        let scale = self.strikes.get(STRIKES / 2).copied().unwrap_or(1.0);
        self.seconds *= scale;
        // What was seen before the change now counts as much as the strikes.
        self.weight = self.weight.min(STRIKES as f64);
        (ratio / scale).clamp(low, high)
    }

    fn add(&mut self, fraction: f64, seconds: f64) {
        let deviation = fraction - self.fraction;
        let scaled = (seconds / self.seconds - 1.0) * self.fraction;
        self.squares = self.squares * KEEP_SHARE + deviation * deviation;
        self.products = self.products * KEEP_SHARE + deviation * scaled;
        self.weight = self.weight * KEEP_LEVEL + 1.0;
        self.fraction += deviation / self.weight;
        self.seconds += (seconds - self.seconds) / self.weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_from_its_points() {
        let line = |f: f64| 0.002 + 0.006 * f;
        let mut fit = Fit::default();
        assert_eq!((fit.mean(), fit.seconds(0.5), fit.fraction(0.01)), (None, None, None));
        for i in 0..200 {
            let f = 0.3 + 0.1 * f64::from(i % 7);
            fit.observe(f, line(f));
        }
        for f in [0.3, 0.6, 0.9] {
            assert!((fit.seconds(f).unwrap() / line(f) - 1.0).abs() < 0.02, "{f}");
            assert!((fit.fraction(line(f)).unwrap() - f).abs() < 0.02, "{f}");
        }
    }

    #[test]
    fn one_outlier_moves_little_and_a_change_moves_all() {
        let mut fit = Fit::default();
        for _ in 0..50 {
            fit.observe(0.5, 1.0);
        }
        fit.observe(0.5, 50.0);
        assert!((fit.mean().unwrap() - 1.0).abs() < 0.02, "{fit:?}");
        for _ in 0..4 {
            fit.observe(0.5, 2.0);
        }
        assert!((fit.mean().unwrap() - 2.0).abs() < 0.02, "{fit:?}");
    }

    #[test]
    fn times_that_say_nothing_are_left_out() {
        let mut fit = Fit::default();
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            fit.observe(0.5, seconds);
        }
        for fraction in [0.0, f64::NAN] {
            fit.observe(fraction, 1.0);
        }
        assert_eq!(fit.mean(), None);
    }
}
