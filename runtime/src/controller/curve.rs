//! The curve of a plan: what fraction of the full compute a price leads to.

use limbeck_plan::Calibration;

use crate::error::{Error, ErrorKind, Result};

/// Prices of the curve of a plan without calibration, from the first that is above 0 to the one
/// where the lowest fraction is reached.
const UNCALIBRATED: (f64, f64) = (1e-3, 1e2);
/// Points between them.
const UNCALIBRATED_POINTS: u32 = 21;
/// Factor from the last calibrated price to the one where the lowest fraction is taken to be
/// reached.
const BEYOND: f64 = 8.0;
/// Most points of a curve.
const MAX_POINTS: usize = 1 << 12;

/// A table from prices to mean fractions of compute, read in both directions.
///
/// The fraction never grows with the price. Between points it is linear in the logarithm of the
/// price, and in the price itself before the first that is above 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// By price: the first is at 0, the last where the lowest fraction is reached.
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// A curve from measured pairs of price and mean fraction, in any order. Measured reversals are
    /// averaged out (pool adjacent violators: Barlow et al., "Statistical Inference under Order
    /// Restrictions", 1972); price 0 is taken to give the fraction 1 where it was not measured.
    ///
    /// # Errors
    /// A price that is negative or not finite, a fraction outside 0..=1, more than 4096 points, or
    /// none above price 0.
    pub fn new(pairs: &[(f64, f64)]) -> Result<Curve> {
        let invalid = |message| Err(Error::new(ErrorKind::InvalidInput, message));
        if pairs.len() > MAX_POINTS {
            return invalid(format!("a curve of {} points is too long", pairs.len()));
        }
        if let Some((price, fraction)) = pairs.iter().find(|(price, fraction)| {
            !(price.is_finite() && *price >= 0.0 && (0.0..=1.0).contains(fraction))
        }) {
            return invalid(format!("price {price} with fraction {fraction} is out of range"));
        }
        if pairs.iter().all(|(price, _)| *price == 0.0) {
            return invalid("a curve needs a point above price 0".into());
        }
        let mut sorted = pairs.to_vec();
        if sorted.iter().all(|(price, _)| *price > 0.0) {
            sorted.push((0.0, 1.0));
        }
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut points = falling(&sorted);
        let lowest = points.last().map_or(1.0, |p| p.1);
        let end = points.iter().position(|p| p.1 <= lowest + 1e-9).unwrap_or(0);
        // A curve that never falls keeps one price above 0 to end at.
        points.truncate(end.max(1) + 1);
        Ok(Curve { points })
    }

    /// The curve that a plan's calibration gives. Data may not reach what the plan can: from the last
    /// point the curve goes on to `lowest`.
    ///
    /// # Errors
    /// As [`Curve::new`].
    pub fn calibrated(calibration: &Calibration, lowest: f64) -> Result<Curve> {
        let mut pairs: Vec<(f64, f64)> = calibration.fractions().collect();
        if let Some((price, fraction)) = pairs.last().copied()
            && price > 0.0
            && fraction > lowest * (1.0 + super::FRACTION_TOLERANCE)
        {
            pairs.push((price * BEYOND, lowest));
        }
        Curve::new(&pairs)
    }

    /// The curve that a plan without calibration begins with: from 1 down to `lowest`, evenly over
    /// the logarithm of the price.
    ///
    /// # Errors
    /// A fraction outside 0..=1.
    pub fn uncalibrated(lowest: f64) -> Result<Curve> {
        let (first, last) = UNCALIBRATED;
        let point = |i: u32| {
            let part = f64::from(i) / f64::from(UNCALIBRATED_POINTS);
            (first * (last / first).powf(part), 1.0 - (1.0 - lowest) * part)
        };
        let points: Vec<_> = (0..=UNCALIBRATED_POINTS).map(point).collect();
        Curve::new(&[&[(0.0, 1.0)], &points[..]].concat())
    }

    /// The mean fraction at a price.
    pub fn fraction(&self, price: f64) -> f64 {
        let above = self.points.partition_point(|p| p.0 <= price);
        let (Some(a), Some(b)) = (self.points.get(above.wrapping_sub(1)), self.points.get(above))
        else {
            return if above == 0 { self.highest() } else { self.lowest() };
        };
        let part = if a.0 > 0.0 { (price / a.0).ln() / (b.0 / a.0).ln() } else { price / b.0 };
        a.1 + (b.1 - a.1) * part
    }

    /// The lowest price whose mean fraction is at most this, or the highest price.
    pub fn price(&self, fraction: f64) -> f64 {
        let below = self.points.partition_point(|p| p.1 > fraction);
        let (Some(a), Some(b)) = (self.points.get(below.wrapping_sub(1)), self.points.get(below))
        else {
            return if below == 0 { 0.0 } else { self.max_price() };
        };
        let part = (a.1 - fraction) / (a.1 - b.1);
        if a.0 > 0.0 { a.0 * (b.0 / a.0).powf(part) } else { b.0 * part }
    }

    /// The fraction at price 0.
    pub fn highest(&self) -> f64 {
        self.points.first().map_or(1.0, |p| p.1)
    }

    /// The lowest fraction.
    pub fn lowest(&self) -> f64 {
        self.points.last().map_or(1.0, |p| p.1)
    }

    /// The price at which the lowest fraction is reached.
    pub fn max_price(&self) -> f64 {
        self.points.last().map_or(0.0, |p| p.0)
    }

    /// By how much the fraction falls where the price grows by a factor of e.
    pub(super) fn slope(&self, price: f64) -> f64 {
        let step = 0.25f64;
        let (less, more) = (price * (-step).exp(), price * step.exp());
        (self.fraction(less) - self.fraction(more)) / (2.0 * step)
    }
}

/// One point per price with fractions that never grow, closest to those given.
fn falling(sorted: &[(f64, f64)]) -> Vec<(f64, f64)> {
    // Runs of points with a common mean: prices, sum, count.
    let mut runs: Vec<(Vec<f64>, f64, f64)> = Vec::new();
    for &(price, fraction) in sorted {
        let mut run = (vec![price], fraction, 1.0);
        while let Some(before) = runs.pop() {
            let same = before.0.last() == run.0.first();
            if !same && before.1 / before.2 > run.1 / run.2 {
                runs.push(before);
                break;
            }
            let mut prices = before.0;
            prices.append(&mut run.0);
            run = (prices, before.1 + run.1, before.2 + run.2);
        }
        runs.push(run);
    }
    let mut points: Vec<(f64, f64)> = runs
        .into_iter()
        .flat_map(|(prices, sum, count)| prices.into_iter().map(move |p| (p, sum / count)))
        .collect();
    points.dedup_by_key(|p| p.0);
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_met_and_read_both_ways() {
        let pairs = [(1.0, 0.5), (0.0, 1.0), (0.01, 0.9), (10.0, 0.3)];
        let curve = Curve::new(&pairs).unwrap();
        for (price, fraction) in pairs {
            assert!((curve.fraction(price) - fraction).abs() < 1e-12);
            assert!((curve.price(fraction) - price).abs() < 1e-9);
        }
        // Halfway in the logarithm, and in the price before the first point.
        assert!((curve.fraction(0.1) - 0.7).abs() < 1e-12);
        assert!((curve.fraction(0.005) - 0.95).abs() < 1e-12);
        assert_eq!((curve.highest(), curve.lowest(), curve.max_price()), (1.0, 0.3, 10.0));
        // Beyond the ends.
        assert_eq!((curve.price(2.0), curve.price(0.1)), (0.0, 10.0));
        assert_eq!((curve.fraction(-1.0), curve.fraction(1e9)), (1.0, 0.3));
    }

    #[test]
    fn reversals_and_repeats_are_averaged() {
        let pairs = [(0.0, 1.0), (1.0, 0.6), (2.0, 0.8), (3.0, 0.4), (3.0, 0.2), (4.0, 0.3)];
        let curve = Curve::new(&pairs).unwrap();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(close(curve.fraction(1.0), 0.7) && close(curve.fraction(2.0), 0.7));
        assert!(close(curve.fraction(3.0), 0.3));
        // The curve ends where its lowest fraction is reached.
        assert_eq!(curve.max_price(), 3.0);
        assert!(close(curve.price(0.7), 1.0));
    }

    #[test]
    fn a_curve_without_price_0_begins_at_1() {
        let curve = Curve::new(&[(2.0, 0.5)]).unwrap();
        assert_eq!(
            (curve.fraction(0.0), curve.fraction(1.0), curve.fraction(2.0)),
            (1.0, 0.75, 0.5)
        );
        let flat = Curve::new(&[(2.0, 1.0), (3.0, 1.0)]).unwrap();
        assert_eq!((flat.lowest(), flat.max_price()), (1.0, 2.0));
    }

    #[test]
    fn the_uncalibrated_curve_spans_the_interval() {
        let curve = Curve::uncalibrated(0.25).unwrap();
        assert!((curve.lowest() - 0.25).abs() < 1e-12 && curve.highest() == 1.0);
        assert!((curve.max_price() - 1e2).abs() < 1e-9);
        assert!((curve.price(0.625).log10() + 0.5).abs() < 1e-9, "{}", curve.price(0.625));
    }

    #[test]
    fn nonsense_is_refused() {
        let cases: &[&[(f64, f64)]] = &[
            &[],
            &[(0.0, 1.0)],
            &[(f64::NAN, 0.5)],
            &[(-1.0, 0.5)],
            &[(f64::INFINITY, 0.5)],
            &[(1.0, f64::NAN)],
            &[(1.0, 1.5)],
        ];
        for pairs in cases {
            assert_eq!(Curve::new(pairs).unwrap_err().kind(), ErrorKind::InvalidInput, "{pairs:?}");
        }
        assert!(Curve::new(&vec![(1.0, 0.5); MAX_POINTS + 1]).is_err());
        assert!(Curve::uncalibrated(f64::NAN).is_err());
        assert!(Curve::uncalibrated(-0.1).is_err());
    }
}
