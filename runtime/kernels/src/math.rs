//! Vector functions: exponential, hyperbolic tangent, complementary error function, and the
//! activations made of them. Each lane's result depends on that lane alone.

use crate::simd::Lanes;
use limbeck_plan::Activation;

/// `e^x` within 2e-7 relative: 0 below -87.33, infinity above 88.37, NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, `ln 2` in two parts (Cody and Waite); `e^r` by its
/// Taylor polynomial to degree 7, whose remainder is below 1e-8 there.
#[inline(always)]
pub(crate) fn exp<S: Lanes>(s: S, x: S::V) -> S::V {
    let (low, high) = (s.splat(-87.33), s.splat(88.37));
    let held = s.min(high, s.max(low, x));
    let (n, power) = s.round_exp2(s.mul(held, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-0.693_359_4), held);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let p = s.fma(s.mul(p, r), r, s.add(r, s.splat(1.0)));
    let y = s.mul(p, power);
    let y = s.select_lt(x, low, s.splat(0.0), y);
    s.select_lt(high, x, s.splat(f32::INFINITY), y)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid<S: Lanes>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(s.splat(1.0), s.add(s.splat(1.0), e))
}

/// `tanh x`: Taylor's polynomial near 0, `1 - 2 / (e^2|x| + 1)` with the sign of `x` elsewhere.
#[inline(always)]
pub(crate) fn tanh<S: Lanes>(s: S, x: S::V) -> S::V {
    let a = s.abs(x);
    let e = exp(s, s.add(a, a));
    let far = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
    let far = s.with_sign(far, x);
    let xx = s.mul(x, x);
    let mut p = s.splat(-929_569.0 / 638_512_900.0);
    for c in [
        21_844.0 / 6_081_075.0,
        -1_382.0 / 155_925.0,
        62.0 / 2_835.0,
        -17.0 / 315.0,
        2.0 / 15.0,
        -1.0 / 3.0,
    ] {
        p = s.fma(p, xx, s.splat(c));
    }
    let near = s.fma(s.mul(p, xx), x, x);
    // A NaN lane is not less than anything, takes `far`, and is NaN there.
    s.select_lt(a, s.splat(0.55), near, far)
}

/// The complementary error function, within 2e-7 relative plus the rounding of `x^2`.
///
/// Chebyshev fit of Numerical Recipes, "Special Functions" (`erfcc`).
#[inline(always)]
fn erfc<S: Lanes>(s: S, x: S::V) -> S::V {
    let z = s.abs(x);
    let t = s.div(s.splat(1.0), s.fma(s.splat(0.5), z, s.splat(1.0)));
    let mut p = s.splat(0.170_872_77);
    for c in [
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = s.fma(p, t, s.splat(c));
    }
    let upper = s.mul(t, exp(s, s.sub(p, s.mul(z, z))));
    s.select_lt(x, s.splat(0.0), s.sub(s.splat(2.0), upper), upper)
}

/// Applies `activation` to each lane.
#[inline(always)]
pub(crate) fn apply<S: Lanes>(s: S, activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::Identity => x,
        Activation::Relu => s.max(s.splat(0.0), x),
        Activation::Silu => s.mul(x, sigmoid(s, x)),
        Activation::Gelu => {
            let half = s.mul(s.splat(0.5), x);
            s.mul(half, erfc(s, s.mul(x, s.splat(-std::f32::consts::FRAC_1_SQRT_2))))
        }
        Activation::GeluTanh => {
            // 0.5 (1 + tanh u) is the sigmoid of 2u.
            let inner = s.fma(s.mul(s.mul(x, x), x), s.splat(0.044_715), x);
            s.mul(x, sigmoid(s, s.mul(inner, s.splat(1.595_769))))
        }
        Activation::QuickGelu => s.mul(x, sigmoid(s, s.mul(x, s.splat(1.702)))),
        Activation::Tanh => tanh(s, x),
    }
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub(crate) fn soft_cap<S: Lanes>(s: S, cap: f32, x: S::V) -> S::V {
    s.mul(s.splat(cap), tanh(s, s.div(x, s.splat(cap))))
}
