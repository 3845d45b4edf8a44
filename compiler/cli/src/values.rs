//! Values of options: what is out of range is wrong usage, whatever the plan.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::builder::RangedU64ValueParser;
use limbeck::text::{SamplerOptions, StopMatcher};
use limbeck::{BackendKind, Budget, Error, ErrorKind, Limits};

/// A budget and the words that it was asked for with.
#[derive(Clone, Debug)]
pub struct Requested {
    pub text: String,
    pub budget: Budget,
}

impl FromStr for Requested {
    type Err = Error;

    fn from_str(text: &str) -> Result<Requested, Error> {
        Ok(Requested { text: text.to_owned(), budget: text.parse()? })
    }
}

/// A number in a range.
pub fn within(range: RangeInclusive<usize>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(*range.start() as u64..=*range.end() as u64)
}

/// A number of at least this.
pub fn at_least(least: usize) -> RangedU64ValueParser<usize> {
    within(least..=usize::MAX)
}

/// The name of a backend, also of one that this build lacks: that is no wrong usage.
pub fn backend(name: &str) -> Result<String, Error> {
    match name.parse::<BackendKind>() {
        Err(e) if e.kind() != ErrorKind::Unsupported => Err(e),
        _ => Ok(name.to_owned()),
    }
}

/// A fraction of compute as a limit.
pub fn limit(text: &str) -> Result<f64, String> {
    let limit: f64 = number(text)?;
    Limits::new(limit, limit).map(|_| limit).map_err(|_| "a limit is in 0..=1".to_owned())
}

/// A text that ends an answer.
pub fn stop(text: &str) -> Result<String, Error> {
    StopMatcher::new(&[text]).map(|_| text.to_owned())
}

pub fn temperature(text: &str) -> Result<f32, String> {
    sampling(text, |options, value| options.temperature = value)
}

pub fn top_p(text: &str) -> Result<f32, String> {
    sampling(text, |options, value| options.top_p = value)
}

pub fn min_p(text: &str) -> Result<f32, String> {
    sampling(text, |options, value| options.min_p = value)
}

pub fn repetition_penalty(text: &str) -> Result<f32, String> {
    sampling(text, |options, value| options.repetition_penalty = value)
}

pub fn presence_penalty(text: &str) -> Result<f32, String> {
    sampling(text, |options, value| options.presence_penalty = value)
}

/// A number that is in the range of the sampler's option which `set` sets.
fn sampling(text: &str, set: fn(&mut SamplerOptions, f32)) -> Result<f32, String> {
    let value = number(text)?;
    let mut options = SamplerOptions::default();
    set(&mut options, value);
    options.validate().map_err(|e| e.to_string())?;
    Ok(value)
}

fn number<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_or_refused() {
        assert_eq!("latency:250us".parse::<Requested>().unwrap().text, "latency:250us");
        assert!("latency:0ms".parse::<Requested>().is_err());
        assert_eq!(
            (backend("wgpu").unwrap(), backend("auto").unwrap()),
            ("wgpu".into(), "auto".into())
        );
        assert!(backend("abacus").is_err());
        assert_eq!((limit("0"), limit("1"), limit("0.25")), (Ok(0.0), Ok(1.0), Ok(0.25)));
        for text in ["-0.1", "1.1", "NaN", "inf", "", "much"] {
            assert!(limit(text).is_err(), "{text}");
        }
        assert_eq!(temperature("0.7"), Ok(0.7));
        for text in ["-1", "NaN", "inf", "1e99", "warm"] {
            assert!(temperature(text).is_err(), "{text}");
        }
        assert!(top_p("0").is_err() && min_p("1.5").is_err());
        assert!(repetition_penalty("0").is_err() && presence_penalty("inf").is_err());
        assert!(stop("").is_err() && stop("end").is_ok());
    }
}
