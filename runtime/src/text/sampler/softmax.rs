//! Largest logits, and sums of their exponentials.

use crate::{Error, ErrorKind, Result};

/// Writes the natural logarithm of the softmax of `logits` `[vocab]` to `out` `[vocab]`.
///
/// # Errors
/// Invalid input, when the lengths differ; backend, as for [`Sampler::sample`](super::Sampler::sample).
pub fn log_probabilities(logits: &[f32], out: &mut [f32]) -> Result<()> {
    if logits.len() != out.len() {
        let message = format!("{} values for {} logits", out.len(), logits.len());
        return Err(Error::new(ErrorKind::InvalidInput, message).at("log-probabilities"));
    }
    let max = largest(logits)?;
    let log_sum = exp_sum(logits, max, 1.0).ln();
    for (out, logit) in out.iter_mut().zip(logits) {
        *out = logit - max - log_sum;
    }
    Ok(())
}

/// The largest logit; an error when it is none that a token can be chosen by.
pub(super) fn largest(logits: &[f32]) -> Result<f32> {
    let max = peak(logits);
    check_largest(max)?;
    Ok(max)
}

/// The largest logit, or NaN where any is.
fn peak(logits: &[f32]) -> f32 {
    let mut max = f32::NEG_INFINITY;
    let mut nan = false;
    for &logit in logits {
        max = if logit > max { logit } else { max };
        nan |= logit.is_nan();
    }
    if nan { f32::NAN } else { max }
}

/// Refuses a [`peak`] that no token can be chosen by.
pub(super) fn check_largest(max: f32) -> Result<()> {
    let problem = if max.is_nan() {
        "a logit is not a number"
    } else if max == f32::INFINITY {
        "a logit is infinite"
    } else if max == f32::NEG_INFINITY {
        "no token is possible: there is no logit above -inf"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Backend, problem).at("logits"))
}

/// The lowest id with this logit.
pub(super) fn first_at(logits: &[f32], value: f32) -> u32 {
    logits.iter().zip(0..).find(|(logit, _)| **logit == value).map_or(0, |(_, id)| id)
}

/// Sum of `exp((logit - max) / temperature)`, whatever the platform: of 1024 logits in eight partial sums each, so that
/// rounding does not grow with their number.
pub(super) fn exp_sum(logits: &[f32], max: f32, temperature: f32) -> f32 {
    let block = |logits: &[f32]| -> f32 {
        let mut sums = [0.0f32; 8];
        let (chunks, rest) = logits.as_chunks::<8>();
        for chunk in chunks {
            for (sum, logit) in sums.iter_mut().zip(chunk) {
                *sum += exp((logit - max) / temperature);
            }
        }
        for (sum, logit) in sums.iter_mut().zip(rest) {
            *sum += exp((logit - max) / temperature);
        }
        sums.iter().sum()
    };
    logits.chunks(1024).map(|logits| f64::from(block(logits))).sum::<f64>() as f32
}

/// `exp(x)` for `x <= 0` to about one unit in the last place, 0 below -87; without calls or
/// branches, so that loops over it vectorise, and of basic operations alone, so that every
/// platform gets the same bits.
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which then stands in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    /// ln 2 in two parts; a small integer times the first is exact.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (clamped - n * LN2[0]) - n * LN2[1];
    // The series of exp around 0, for |r| <= ln 2 / 2.
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x >= -87.0 { p * power } else { 0.0 }
}
