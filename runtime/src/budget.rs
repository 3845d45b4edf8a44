//! Budgets: what compute a caller allows, and whether it was kept.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// What compute is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Budget {
    /// Everything the student was trained with.
    #[default]
    Full,
    /// A share of the full compute, in (0, 1], as a running mean.
    Fraction(f64),
    /// The raw price of compute, >= 0.
    Price(f64),
    /// Time per token of a sequence: sequences that are decoded as one batch share it.
    Latency(Duration),
    /// Time for the call in progress, from its start or from when the budget was set in its midst.
    Deadline(Duration),
}

/// Bounds on the fraction of compute that is aimed at, whatever the budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Never below this fraction.
    pub floor: f64,
    /// Never above this fraction.
    pub ceiling: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { floor: 0.0, ceiling: 1.0 }
    }
}

impl Limits {
    /// Checked limits.
    ///
    /// # Errors
    /// A limit outside 0..=1, or a floor above the ceiling.
    pub fn new(floor: f64, ceiling: f64) -> Result<Limits> {
        let limits = Limits { floor, ceiling };
        if limits.in_range() {
            return Ok(limits);
        }
        let message =
            format!("floor {floor} and ceiling {ceiling} are not 0 <= floor <= ceiling <= 1");
        Err(Error::new(ErrorKind::InvalidInput, message))
    }

    /// Whether 0 <= floor <= ceiling <= 1.
    pub fn in_range(self) -> bool {
        0.0 <= self.floor && self.floor <= self.ceiling && self.ceiling <= 1.0
    }
}

impl Budget {
    /// Checks the number in it.
    ///
    /// # Errors
    /// NaN, a negative price, a fraction outside (0, 1], a time of zero.
    pub fn check(self) -> Result<Budget> {
        if self.in_range() {
            return Ok(self);
        }
        Err(Error::new(ErrorKind::InvalidInput, format!("budget {self} is out of range")))
    }

    /// Whether [`Budget::check`] would pass it.
    pub fn in_range(self) -> bool {
        match self {
            Budget::Full => true,
            Budget::Fraction(f) => f > 0.0 && f <= 1.0,
            Budget::Price(p) => p.is_finite() && p >= 0.0,
            Budget::Latency(t) | Budget::Deadline(t) => !t.is_zero(),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Full => f.write_str("full"),
            Budget::Fraction(v) => write!(f, "{v}"),
            Budget::Price(v) => write!(f, "price:{v}"),
            Budget::Latency(t) => write!(f, "latency:{}ms", t.as_secs_f64() * 1e3),
            Budget::Deadline(t) => write!(f, "deadline:{}ms", t.as_secs_f64() * 1e3),
        }
    }
}

impl FromStr for Budget {
    type Err = Error;

    /// Reads `full`, `0.6`, `price:0.02`, `latency:8ms`, `deadline:400ms` (or `s`, `us`).
    fn from_str(s: &str) -> Result<Budget> {
        let bad = || {
            let forms = "full, 0.6, price:0.02, latency:8ms or deadline:400ms";
            Error::new(ErrorKind::InvalidInput, format!("budget {s:?} is not of the form {forms}"))
        };
        let number = |s: &str| s.parse::<f64>().map_err(|_| bad());
        let budget = match s.split_once(':') {
            None if s == "full" => Budget::Full,
            None => Budget::Fraction(number(s)?),
            Some(("price", v)) => Budget::Price(number(v)?),
            Some(("latency", v)) => Budget::Latency(duration(v).ok_or_else(bad)?),
            Some(("deadline", v)) => Budget::Deadline(duration(v).ok_or_else(bad)?),
            Some(_) => return Err(bad()),
        };
        budget.check()
    }
}

fn duration(s: &str) -> Option<Duration> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let (digits, scale) = units.iter().find_map(|(u, scale)| Some((s.strip_suffix(u)?, scale)))?;
    let seconds = digits.parse::<f64>().ok()? * scale;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back_as_it_prints() {
        for text in ["full", "0.6", "price:0.02", "latency:8ms", "deadline:400ms"] {
            let budget: Budget = text.parse().unwrap();
            assert_eq!(budget.to_string(), text);
        }
        let micro: Budget = "latency:250us".parse().unwrap();
        assert_eq!(micro, Budget::Latency(Duration::from_micros(250)));
    }

    #[test]
    fn nonsense_is_refused_with_the_forms() {
        for text in [
            "",
            "NaN",
            "-1",
            "0",
            "1.5",
            "price:-1",
            "price:inf",
            "latency:8",
            "latency:0ms",
            "latency:-3ms",
            "speed:9",
            "deadline:1e300s",
        ] {
            let e = text.parse::<Budget>().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput, "{text}");
        }
    }

    #[test]
    fn limits_are_ordered() {
        assert!(Limits::new(0.2, 0.8).is_ok());
        for (floor, ceiling) in [(0.8, 0.2), (-0.1, 1.0), (0.0, 1.1), (f64::NAN, 1.0)] {
            assert!(Limits::new(floor, ceiling).is_err());
        }
    }
}
