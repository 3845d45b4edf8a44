//! What a student loses at which fraction, and how two such curves compare.

/// Fractions at which curves are compared.
const TARGETS: usize = 9;
/// Loss below which a difference is noise: of a cosine, or in nats.
const LEAST_LOSS: f64 = 1e-3;

/// Measured pairs of fraction and loss.
pub struct Frontier {
    /// By fraction, the largest first.
    points: Vec<(f64, f64)>,
}

impl Frontier {
    /// From pairs in any order; at least one.
    pub fn new(mut points: Vec<(f64, f64)>) -> Frontier {
        points.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.total_cmp(&b.1)));
        Frontier { points }
    }

    /// The pairs, by fraction, the largest first.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    fn ends(&self) -> ((f64, f64), (f64, f64)) {
        let none = (1.0, 0.0);
        (*self.points.first().unwrap_or(&none), *self.points.last().unwrap_or(&none))
    }

    /// The loss at a fraction above `least`, interpolated in its logarithm: losses grow by orders
    /// of magnitude.
    fn excess(&self, fraction: f64, least: f64) -> f64 {
        let log = |loss: f64| ((loss - least).max(0.0) + LEAST_LOSS).ln();
        let below = self.points.partition_point(|p| p.0 > fraction);
        let (first, last) = self.ends();
        let (Some(a), Some(b)) = (self.points.get(below.wrapping_sub(1)), self.points.get(below))
        else {
            return log(if below == 0 { first.1 } else { last.1 }).exp();
        };
        let part = (a.0 - fraction) / (a.0 - b.0);
        (log(a.1) + (log(b.1) - log(a.1)) * part).exp()
    }
}

/// The share of the loss of `old` that `new` has at equal fractions, in the geometric mean over the
/// fractions that `old` spans: below 1 is better.
pub fn advantage(old: &Frontier, new: &Frontier) -> f64 {
    let (first, last) = old.ends();
    let least = first.1;
    let ratios = (1..=TARGETS).map(|i| {
        let fraction = first.0 + (last.0 - first.0) * i as f64 / (TARGETS + 1) as f64;
        (new.excess(fraction, least) / old.excess(fraction, least)).ln()
    });
    (ratios.sum::<f64>() / TARGETS as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_loss_at_equal_fractions_is_an_advantage_wherever_points_lie() {
        let curve = |scale: f64, count: u32| {
            let point = |i| {
                let fraction = 1.0 - 0.7 * f64::from(i) / f64::from(count);
                (fraction, scale * ((1.0 - fraction) * 8.0).exp() - scale)
            };
            Frontier::new((0..=count).map(point).collect())
        };
        let old = curve(0.01, 12);
        assert!((advantage(&old, &curve(0.01, 12)) - 1.0).abs() < 1e-12);
        assert!((advantage(&old, &curve(0.01, 17)) - 1.0).abs() < 0.03);
        let better = advantage(&old, &curve(0.005, 17));
        assert!((0.5..0.6).contains(&better), "{better}");
        assert!(advantage(&old, &curve(0.02, 9)) > 1.7);
    }

    #[test]
    fn a_curve_that_ends_early_is_read_at_its_end() {
        let old = Frontier::new(vec![(1.0, 0.0), (0.5, 0.1)]);
        let new = Frontier::new(vec![(0.9, 0.2)]);
        assert!(advantage(&old, &new) > 1.0);
        // A student that loses nothing has nothing to win.
        let none = Frontier::new(vec![(1.0, 0.0), (0.5, 0.0)]);
        assert_eq!(advantage(&none, &none), 1.0);
    }
}
