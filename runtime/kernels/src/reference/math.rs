//! Activations in f64.

use limbeck_plan::Activation;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// Applies `activation`.
pub(crate) fn apply(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Identity => x,
        Activation::Relu => {
            if x.is_nan() {
                x
            } else {
                x.max(0.0)
            }
        }
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => 0.5 * x * erfc(-x * FRAC_1_SQRT_2),
        // 0.5 (1 + tanh u) is the sigmoid of 2u, which keeps its digits far left of 0.
        Activation::GeluTanh => x * sigmoid(2.0 * (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
        Activation::Relu6 if x.is_nan() => x,
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
    }
}

/// The error function.
pub(super) fn erf(x: f64) -> f64 {
    1.0 - erfc(x)
}

/// The complementary error function: the Maclaurin series of erf below 2, a continued fraction
/// (Abramowitz and Stegun 7.1.14) above.
fn erfc(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let z = x.abs();
    let upper = if z < 2.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..80 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        1.0 - 2.0 / PI.sqrt() * sum
    } else {
        let mut f = z;
        for n in (1..200).rev() {
            f = z + f64::from(n) / 2.0 / f;
        }
        (-z * z).exp() / PI.sqrt() / f
    };
    if x < 0.0 { 2.0 - upper } else { upper }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Abramowitz and Stegun, table 7.1, and of Python's `math.erfc`.
    #[test]
    fn erfc_matches_tables() {
        for (x, want) in [
            (0.0, 1.0),
            (0.5, 0.4795001221869535),
            (1.0, 0.15729920705028513),
            (1.9, 0.007209570764742524),
            (2.0, 0.004677734981047266),
            (3.5, 7.430983723414128e-07),
            (-1.0, 1.842700792949715),
        ] {
            assert!((erfc(x) - want).abs() < 1e-12 * want.max(1e-3), "{x}: {}", erfc(x));
        }
    }
}
