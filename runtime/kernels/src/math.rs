//! Vector functions: exponential, hyperbolic tangent, error function, and the
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

/// `2^x` within 2.5e-7 relative, for `x` up to 127: 0 below -126, NaN for NaN.
///
/// `x = n + r` with `|r| <= 1/2`; `2^r` by a polynomial of degree 6, a fit of ours by least squares
/// with weights that level the relative error (Lawson), 2e-9 off before rounding.
#[inline(always)]
pub(crate) fn exp2<S: Lanes>(s: S, x: S::V) -> S::V {
    const P: [f32; 7] = [
        1.0,
        std::f32::consts::LN_2,
        0.240_226_48,
        5.550_332_5e-2,
        9.618_437e-3,
        1.339_887_5e-3,
        1.535_336e-4,
    ];
    let low = s.splat(-126.0);
    let held = s.max(low, x);
    let (n, power) = s.round_exp2(held);
    let y = s.mul(polynomial(s, &P, s.sub(held, n)), power);
    s.select_lt(x, low, s.splat(0.0), y)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid<S: Lanes>(s: S, x: S::V) -> S::V {
    let e = s.exp(s.sub(s.splat(0.0), x));
    s.div(s.splat(1.0), s.add(s.splat(1.0), e))
}

/// `tanh x`: Taylor's polynomial near 0, `1 - 2 / (e^2|x| + 1)` with the sign of `x` elsewhere.
#[inline(always)]
pub(crate) fn tanh<S: Lanes>(s: S, x: S::V) -> S::V {
    let a = s.abs(x);
    let e = s.exp(s.add(a, a));
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

/// The error function within 3e-7.
///
/// `x P(x^2) / Q(x^2)` below 3.8, a fit of ours by least squares with weights that level the error
/// (Lawson), 3e-8 off before rounding; 1 with the sign of `x` elsewhere.
#[inline(always)]
pub(crate) fn erf<S: Lanes>(s: S, x: S::V) -> S::V {
    const P: [f32; 7] = [
        1.128_378_9,
        0.195_148,
        4.996_616e-2,
        3.532_024_6e-3,
        1.406_279_2e-4,
        -2.019_917_5e-6,
        2.124_053_8e-8,
    ];
    const Q: [f32; 5] = [1.0, 0.506_275_5, 0.113_052_43, 1.397_398e-2, 9.243_096e-4];
    let a = s.abs(x);
    let end = s.splat(3.8);
    let t = s.mul(a, a);
    let y = s.div(s.mul(a, polynomial(s, &P, t)), polynomial(s, &Q, t));
    // A NaN lane is not beyond the end.
    s.with_sign(s.select_lt(end, a, s.splat(1.0), y), x)
}

/// `x Phi(x)`, with `Phi` the normal distribution's, within 3e-7 max(1, |x|).
#[inline(always)]
pub(crate) fn gelu<S: Lanes>(s: S, x: S::V) -> S::V {
    let half = s.mul(s.splat(0.5), x);
    s.fma(half, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
}

/// `c[0] + c[1] x + ...`.
#[inline(always)]
fn polynomial<S: Lanes, const N: usize>(s: S, c: &[f32; N], x: S::V) -> S::V {
    let mut p = s.splat(c[N - 1]);
    for c in c[..N - 1].iter().rev() {
        p = s.fma(p, x, s.splat(*c));
    }
    p
}

/// Applies `activation` to each lane.
#[inline(always)]
pub(crate) fn apply<S: Lanes>(s: S, activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::Identity => x,
        Activation::Relu => s.max(s.splat(0.0), x),
        Activation::Silu => s.mul(x, sigmoid(s, x)),
        Activation::Gelu => s.gelu(x),
        Activation::GeluTanh => {
            // 0.5 (1 + tanh u) is the sigmoid of 2u.
            let inner = s.fma(s.mul(s.mul(x, x), x), s.splat(0.044_715), x);
            s.mul(x, sigmoid(s, s.mul(inner, s.splat(1.595_769))))
        }
        Activation::QuickGelu => s.mul(x, sigmoid(s, s.mul(x, s.splat(1.702)))),
        Activation::Tanh => tanh(s, x),
        Activation::Sigmoid => sigmoid(s, x),
        // The second operand is what is kept of two where one is NaN.
        Activation::Relu6 => s.min(s.splat(6.0), s.max(s.splat(0.0), x)),
        Activation::HardSwish => {
            let gate = s.fma(x, s.splat(1.0 / 6.0), s.splat(0.5));
            s.mul(x, s.min(s.splat(1.0), s.max(s.splat(0.0), gate)))
        }
    }
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub(crate) fn soft_cap<S: Lanes>(s: S, cap: f32, x: S::V) -> S::V {
    s.mul(s.splat(cap), tanh(s, s.div(x, s.splat(cap))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Portable;
    use crate::reference::math as reference;
    use crate::simd::{LANES, Simd};

    /// Calls a check with the token of each instruction set that this CPU has.
    macro_rules! on_each {
        ($check:ident) => {
            $check(Portable::TOKEN);
            #[cfg(target_arch = "x86_64")]
            crate::isa::Avx2::new().map($check);
            #[cfg(target_arch = "x86_64")]
            crate::isa::Avx512::new().map($check);
            #[cfg(target_arch = "aarch64")]
            crate::isa::Neon::new().map($check);
        };
    }

    /// A lane of what a function makes of `x`, which all lanes agree on.
    fn lane<S: Simd>(s: S, narrow: S::V, wide: crate::simd::WideV<S>) -> f32 {
        let mut lanes = [0.0; 3 * LANES];
        s.store_some(&mut lanes, 0, narrow);
        // SAFETY: 16 of the array's 24 f32 are left.
        unsafe { s.wide().store(lanes.as_mut_ptr().add(LANES), wide) };
        assert!(lanes.iter().all(|v| v.to_bits() == lanes[0].to_bits()));
        lanes[0]
    }

    #[test]
    fn gelu_is_within_its_bound() {
        fn check<S: Simd>(s: S) {
            let of = |x| lane(s, s.gelu(s.splat(x)), s.wide().gelu(s.wide().splat(x)));
            for i in -120_000..=120_000 {
                let x = i as f32 / 10_000.0;
                let want = reference::apply(Activation::Gelu, f64::from(x));
                let error = (f64::from(of(x)) - want).abs() / f64::from(x).abs().max(1.0);
                assert!(error <= 3e-7, "gelu({x}) is off by {error:.1e}");
            }
            assert_eq!((of(0.0), of(100.0), of(-100.0)), (0.0, 100.0, 0.0));
            assert_eq!(of(f32::INFINITY), f32::INFINITY);
            assert!(of(f32::NAN).is_nan());
        }
        on_each!(check);
    }

    #[test]
    fn powers_of_two_are_within_their_bound() {
        fn check<S: Simd>(s: S) {
            let of = |x| lane(s, s.exp2(s.splat(x)), s.wide().exp2(s.wide().splat(x)));
            for i in -126_000..=127_000 {
                let x = i as f32 / 1000.0;
                let want = f64::from(x).exp2();
                let error = (f64::from(of(x)) - want).abs() / want;
                assert!(error <= 2.5e-7, "2^{x} is off by {error:.1e}");
            }
            let some = (of(0.0), of(-3.0), of(-126.5), of(f32::NEG_INFINITY));
            assert_eq!(some, (1.0, 0.125, 0.0, 0.0));
            assert!(of(f32::NAN).is_nan());
        }
        on_each!(check);
    }
}
