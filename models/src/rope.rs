//! Rotary frequencies for the scaling kinds of Hugging Face `modeling_rope_utils.py`.

use std::f32::consts::PI;

use serde_json::{Value, json};

use crate::config::Config;
use crate::{Error, ErrorKind};

/// Frequencies and the factor on cosine and sine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotary {
    /// One per pair: `[rotary_dim / 2]`, radians per position.
    pub inv_freq: Vec<f32>,
    /// yarn's attention factor, 1 for the other kinds.
    pub factor: f32,
    /// Elements of a head that turn.
    pub rotary_dim: usize,
}

/// Reads `rope_parameters` (transformers 5) or `rope_theta` + `rope_scaling` (transformers 4).
pub(crate) fn read(config: &Config, head_dim: usize, context: usize) -> Result<Rotary, Error> {
    let theta: Option<f32> = config.get("rope_theta")?;
    let new: Option<Value> = config.get("rope_parameters")?;
    let old: Option<Value> = config.get("rope_scaling")?;
    let nothing = json!({});
    let (value, path) = match (&new, &old) {
        (Some(v), _) => (v, "rope_parameters"),
        (None, Some(v)) => (v, "rope_scaling"),
        (None, None) => (&nothing, "rope_parameters"),
    };
    let params = Config::nested(value, path)?;
    // transformers 4 has it beside the others.
    let holder = |key: &str| if params.has(key) { &params } else { config };
    let theta = params.get("rope_theta")?.or(theta).unwrap_or(10_000.0);
    if !(theta > 1.0 && f32::is_finite(theta)) {
        return Err(holder("rope_theta").unsupported("rope_theta", &theta.to_string()));
    }
    let share: f32 = match params.get("partial_rotary_factor")? {
        Some(share) => share,
        None => config.get("partial_rotary_factor")?.unwrap_or(1.0),
    };
    let rotary_dim = (head_dim as f32 * share) as usize;
    if rotary_dim < 2 || rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
        let message =
            format!("{rotary_dim} of {head_dim} elements of a head cannot be turned in pairs");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let kind: Option<String> = match params.get("rope_type")? {
        Some(kind) => Some(kind),
        None => params.get("type")?,
    };
    let base = base_frequencies(theta, rotary_dim);
    let (inv_freq, factor) = match kind.as_deref() {
        None | Some("default") => (base, 1.0),
        Some("linear") => (linear(&params, base)?, 1.0),
        Some("llama3") => (llama3(&params, base)?, 1.0),
        Some("factors") => (divided(&params, base)?, 1.0),
        Some("yarn") => yarn(&params, base, theta, context)?,
        Some(other) => return Err(params.unsupported("rope_type", other)),
    };
    params.get::<Value>("original_max_position_embeddings")?;
    params.finish(&Default::default())?;
    Ok(Rotary { inv_freq, factor, rotary_dim })
}

fn base_frequencies(theta: f32, rotary_dim: usize) -> Vec<f32> {
    let exponent = |i: usize| (2 * i) as f32 / rotary_dim as f32;
    (0..rotary_dim / 2).map(|i| 1.0 / theta.powf(exponent(i))).collect()
}

fn positive(params: &Config, key: &str) -> Result<f32, Error> {
    let value: f32 = params.require(key)?;
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(params.unsupported(key, &value.to_string()))
    }
}

fn linear(params: &Config, base: Vec<f32>) -> Result<Vec<f32>, Error> {
    let factor = positive(params, "factor")?;
    Ok(base.into_iter().map(|f| f / factor).collect())
}

/// GGUF stores llama3's scaling as one divisor per frequency (`rope_freqs.weight`).
fn divided(params: &Config, base: Vec<f32>) -> Result<Vec<f32>, Error> {
    let factors: Vec<f32> = params.require("factors")?;
    if factors.len() != base.len() || factors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
        let message =
            format!("the checkpoint has {} rope factors, not {}", factors.len(), base.len());
        return Err(Error::new(ErrorKind::Mismatch, message));
    }
    Ok(base.iter().zip(factors).map(|(b, f)| b / f).collect())
}

fn llama3(params: &Config, base: Vec<f32>) -> Result<Vec<f32>, Error> {
    let factor = positive(params, "factor")?;
    let low = positive(params, "low_freq_factor")?;
    let high = positive(params, "high_freq_factor")?;
    let original = positive(params, "original_max_position_embeddings")?;
    if high <= low {
        return Err(params.unsupported("high_freq_factor", &high.to_string()));
    }
    let scaled = |f: f32| {
        let wavelength = 2.0 * PI / f;
        if wavelength > original / low {
            f / factor
        } else if wavelength < original / high {
            f
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * f / factor + smooth * f
        }
    };
    Ok(base.into_iter().map(scaled).collect())
}

/// Arguments as in `_compute_yarn_parameters`; the formula is that of the YaRN paper
/// (arXiv 2309.00071).
fn yarn(
    params: &Config,
    base: Vec<f32>,
    theta: f32,
    context: usize,
) -> Result<(Vec<f32>, f32), Error> {
    let factor = positive(params, "factor")?;
    let original: Option<f32> = params.get("original_max_position_embeddings")?;
    let original = original.unwrap_or(context as f32);
    let beta_fast: f32 = params.get("beta_fast")?.unwrap_or(32.0);
    let beta_slow: f32 = params.get("beta_slow")?.unwrap_or(1.0);
    let truncate = params.get("truncate")?.unwrap_or(true);
    let dim = (2 * base.len()) as f32;
    let correction = |turns: f32| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (correction(beta_fast), correction(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    let blend = |(i, f): (usize, f32)| {
        let ramp = ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
        f / factor * ramp + f * (1.0 - ramp)
    };
    let inv_freq = base.into_iter().enumerate().map(blend).collect();
    Ok((inv_freq, yarn_attention_factor(params, factor)?))
}

fn yarn_attention_factor(params: &Config, factor: f32) -> Result<f32, Error> {
    let mscale: Option<f32> = params.get("mscale")?;
    let all_dim: Option<f32> = params.get("mscale_all_dim")?;
    if let Some(given) = params.get("attention_factor")? {
        return Ok(given);
    }
    let scale = |m: f32| {
        if factor > 1.0 { 0.1 * m * factor.ln() + 1.0 } else { 1.0 }
    };
    Ok(match (mscale, all_dim) {
        (Some(m), Some(a)) if m != 0.0 && a != 0.0 => scale(m) / scale(a),
        _ => scale(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotary(config: Value) -> Result<Rotary, Error> {
        read(&Config::new(&config).unwrap(), 8, 64)
    }

    #[test]
    fn both_spellings_of_a_configuration_agree() {
        let scaling = json!({"rope_type": "linear", "factor": 4.0});
        let old = rotary(json!({"rope_theta": 100.0, "rope_scaling": scaling})).unwrap();
        let new = rotary(json!({
            "rope_parameters": {"rope_theta": 100.0, "rope_type": "linear", "factor": 4.0}
        }));
        assert_eq!(old, new.unwrap());
        assert!((old.inv_freq[1] - 100f32.powf(-0.25) / 4.0).abs() < 1e-7);
    }

    #[test]
    fn unknown_kinds_and_bad_factors_are_refused_by_name() {
        for (scaling, word) in [
            (json!({"rope_type": "dynamic", "factor": 2.0}), "dynamic"),
            (json!({"rope_type": "linear", "factor": 0.0}), "factor"),
            (json!({"rope_type": "linear"}), "factor"),
            (json!({"rope_type": "default", "wobble": 1}), "wobble"),
            (json!({"rope_type": "factors", "factors": [1.0]}), "rope factors"),
        ] {
            let e = rotary(json!({"rope_scaling": scaling})).unwrap_err();
            assert!(e.to_string().contains(word), "{e}");
        }
    }
}
