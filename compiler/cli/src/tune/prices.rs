//! Which prices to measure: those between which the fraction falls.

use std::collections::BTreeMap;

use crate::output::Failure;

/// A price at which nothing is worth its cost.
pub const ENDLESS: f64 = 1e12;
/// Prices below this are none.
const LEAST: f64 = 1e-9;
/// Share of the whole fall that is taken to be its beginning.
const BEGINNING: f64 = 0.03;
/// Share of the whole fall that is taken to be its end.
const END: f64 = 0.01;
/// Halvings of a decade in which the fraction passes an edge.
const HALVINGS: usize = 4;

/// `count` prices: 0, then evenly spaced in the logarithm from where the fraction begins to fall to
/// where it reaches its lowest. `fraction` measures it at a price.
pub fn find(
    count: usize,
    mut fraction: impl FnMut(f64) -> Result<f64, Failure>,
) -> Result<Vec<f64>, Failure> {
    let (highest, lowest) = (fraction(0.0)?, fraction(ENDLESS)?);
    let span = highest - lowest;
    if span <= 1e-6 {
        let message = format!("the student spends {highest:.4} of its compute at any price");
        return Err(Failure::new(format!("{message}: its sites have no choice on this data")));
    }
    // Both edges are looked for in the same decades.
    let mut known = BTreeMap::new();
    let mut at = |price: f64| -> Result<f64, Failure> {
        if let Some(found) = known.get(&price.to_bits()) {
            return Ok(*found);
        }
        let found = fraction(price)?;
        known.insert(price.to_bits(), found);
        Ok(found)
    };
    let first = crossing(|price| Ok(at(price)? < highest - BEGINNING * span))?;
    let last = crossing(|price| Ok(at(price)? <= lowest + END * span))?;
    let last = last.max(first * 2.0);
    let steps = count.saturating_sub(2).max(1) as f64;
    let price = |i: usize| first * (last / first).powf(i as f64 / steps);
    Ok(std::iter::once(0.0).chain((0..count.saturating_sub(1)).map(price)).collect())
}

/// The price where `fallen` begins to hold, to within a few per cent.
fn crossing(mut fallen: impl FnMut(f64) -> Result<bool, Failure>) -> Result<f64, Failure> {
    let mut high = 1.0;
    if fallen(high)? {
        while high > LEAST && fallen(high / 10.0)? {
            high /= 10.0;
        }
    } else {
        high *= 10.0;
        while high < ENDLESS && !fallen(high)? {
            high *= 10.0;
        }
    }
    let mut low = high / 10.0;
    for _ in 0..HALVINGS {
        let middle = (low * high).sqrt();
        if fallen(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Falls from 0.98 to 0.3, evenly in the logarithm.
    fn falls(first: f64, last: f64) -> impl Fn(f64) -> f64 {
        move |price: f64| {
            let part = (price / first).ln() / (last / first).ln();
            0.98 - 0.68 * part.clamp(0.0, 1.0)
        }
    }

    #[test]
    fn prices_span_the_fall_wherever_it_is() {
        for (first, last) in [(2e-3, 4.0), (30.0, 5e5), (1e-7, 1e-6)] {
            let (curve, mut measured) = (falls(first, last), 0);
            let prices = find(16, |price| {
                measured += 1;
                Ok(curve(price))
            });
            let prices = prices.unwrap();
            assert_eq!((prices.len(), prices[0]), (16, 0.0));
            assert!(prices.is_sorted_by(|a, b| a < b), "{prices:?}");
            let found = (curve(prices[1]), curve(prices[15]));
            assert!((0.9..0.98).contains(&found.0), "{found:?}");
            assert!((0.299..0.31).contains(&found.1), "{found:?}");
            let ratios: Vec<f64> = prices[1..].windows(2).map(|w| w[1] / w[0]).collect();
            assert!(ratios.iter().all(|r| (r / ratios[0] - 1.0).abs() < 1e-9));
            assert!(measured <= 40, "{measured} runs");
        }
    }

    #[test]
    fn a_fraction_that_never_falls_is_an_error() {
        assert!(find(16, |_| Ok(0.7)).is_err());
        let failing = find(16, |price| match price > 2.0 {
            true => Err(Failure::new("broken")),
            false => Ok(1.0),
        });
        assert!(failing.is_err());
    }
}
