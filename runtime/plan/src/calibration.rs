//! Calibration: what prices of compute lead to on real data, measured once and stored as JSON in
//! a section that readers may ignore.

use serde::{Deserialize, Serialize};

use crate::check::invalid;
use crate::error::Error;

/// What the quality of a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QualityKind {
    /// Perplexity of the data, at least 1; less is better.
    Perplexity,
    /// Mean cosine of embeddings to those at price 0.
    Cosine,
    /// Share of predictions that are those of price 0.
    Agreement,
    /// Share of predictions that are right.
    Accuracy,
}

impl QualityKind {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            QualityKind::Perplexity => "perplexity",
            QualityKind::Cosine => "cosine",
            QualityKind::Agreement => "agreement",
            QualityKind::Accuracy => "accuracy",
        }
    }

    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        self != QualityKind::Perplexity
    }

    /// A quality as a loss: 0 at best, more is worse. Perplexities become nats per token.
    pub fn loss(self, quality: f64) -> f64 {
        match self {
            QualityKind::Perplexity => quality.ln(),
            _ => 1.0 - quality,
        }
    }

    fn allows(self, quality: f64) -> bool {
        match self {
            QualityKind::Perplexity => quality.is_finite() && quality >= 1.0,
            QualityKind::Cosine => (-1.0..=1.0).contains(&quality),
            QualityKind::Agreement | QualityKind::Accuracy => (0.0..=1.0).contains(&quality),
        }
    }
}

/// What one price led to, in the mean over the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationPoint {
    /// The price, finite and at least 0.
    pub price: f64,
    /// Multiply-adds spent over those of full compute, in 0..=1.
    pub fraction: f64,
    /// The same over adaptive ops only.
    pub site_fraction: f64,
    /// As [`Calibration::quality`] says.
    pub quality: f64,
    /// Milliseconds per token on [`Calibration::machine`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms_per_token: Option<f64>,
}

/// A table from prices to what they lead to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// What the points' qualities are.
    pub quality: QualityKind,
    /// File name of the data.
    pub data: String,
    /// Tokens of it that were run.
    pub tokens: u64,
    /// The machine that times were taken on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// By price, each above the one before.
    pub points: Vec<CalibrationPoint>,
}

impl Calibration {
    /// Most points.
    pub const MAX_POINTS: usize = 4096;

    /// Checks that there are at least two points, by price, with numbers in range.
    ///
    /// # Errors
    /// The first point that breaks a rule.
    pub fn check(&self) -> Result<(), Error> {
        let count = self.points.len();
        if !(2..=Calibration::MAX_POINTS).contains(&count) {
            let most = Calibration::MAX_POINTS;
            return Err(invalid("calibration", format!("{count} points are not 2 to {most}")));
        }
        let mut before = None;
        for (index, point) in self.points.iter().enumerate() {
            let fail = |message| Err(invalid(format!("calibration, point {index}"), message));
            let CalibrationPoint { price, fraction, site_fraction, quality, ms_per_token } = *point;
            if !(price.is_finite() && price >= 0.0) {
                return fail(format!("its price {price} is not a number from 0"));
            }
            if before.is_some_and(|before| price <= before) {
                return fail(format!("its price {price} is not above the one before"));
            }
            before = Some(price);
            for share in [fraction, site_fraction] {
                if !(0.0..=1.0).contains(&share) {
                    return fail(format!("its fraction {share} is not in 0..=1"));
                }
            }
            if !self.quality.allows(quality) {
                return fail(format!("{quality} is no {}", self.quality.name()));
            }
            if ms_per_token.is_some_and(|ms| !(ms.is_finite() && ms >= 0.0)) {
                return fail("its time is not a number from 0".into());
            }
        }
        Ok(())
    }

    /// Pairs of price and mean fraction, by price.
    pub fn fractions(&self) -> impl Iterator<Item = (f64, f64)> {
        self.points.iter().map(|p| (p.price, p.fraction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Calibration {
        let point = |price, fraction, quality| CalibrationPoint {
            price,
            fraction,
            site_fraction: fraction,
            quality,
            ms_per_token: Some(0.5),
        };
        Calibration {
            quality: QualityKind::Cosine,
            data: "sentences.txt".into(),
            tokens: 1000,
            machine: None,
            points: vec![point(0.0, 1.0, 1.0), point(0.1, 0.7, 0.98), point(1.0, 0.3, 0.8)],
        }
    }

    fn refused(edit: impl FnOnce(&mut Calibration)) -> String {
        let mut table = table();
        edit(&mut table);
        table.check().expect_err("a broken table").to_string()
    }

    #[test]
    fn a_sound_table_is_accepted_and_reads_back() {
        let table = table();
        table.check().unwrap();
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<Calibration>(&text).unwrap(), table);
        assert_eq!(table.fractions().last(), Some((1.0, 0.3)));
    }

    #[test]
    fn broken_tables_are_refused_by_point() {
        for price in [f64::NAN, f64::INFINITY, -0.1] {
            assert!(refused(|t| t.points[0].price = price).contains("point 0"));
        }
        assert!(refused(|t| t.points.swap(0, 2)).contains("point 1"));
        assert!(refused(|t| t.points[2].price = 0.1).contains("point 2"));
        for share in [f64::NAN, -0.1, 1.1] {
            assert!(refused(|t| t.points[1].fraction = share).contains("point 1"));
            assert!(refused(|t| t.points[1].site_fraction = share).contains("fraction"));
        }
        for quality in [f64::NAN, 1.5, -1.5] {
            assert!(refused(|t| t.points[2].quality = quality).contains("cosine"));
        }
        assert!(refused(|t| t.quality = QualityKind::Perplexity).contains("perplexity"));
        for time in [f64::NAN, -1.0, f64::INFINITY] {
            assert!(refused(|t| t.points[0].ms_per_token = Some(time)).contains("time"));
        }
        assert!(refused(|t| t.points.truncate(1)).contains("1 points"));
        let long = |t: &mut Calibration| {
            let point = |i| CalibrationPoint { price: f64::from(i), ..t.points[0].clone() };
            t.points = (0..5000).map(point).collect();
        };
        assert!(refused(long).contains("5000 points"));
    }
}
