//! Norm and the elementwise ops against their references, on every instruction set.

mod common;

use common::{Random, all_kernels, assert_close, assert_same_bits, poison};
use limbeck_kernels::{
    ErrorKind, Kernels, NormArgs, Pool, activate, add, gate, norm, reference, soft_cap,
};
use limbeck_plan::{Activation, NormKind};

const ACTIVATIONS: [Activation; 10] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Sigmoid,
    Activation::Relu6,
    Activation::HardSwish,
    Activation::Tanh,
];

/// Values over the whole range that matters to an activation, and its far ends.
fn sweep() -> Vec<f32> {
    let mut x: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.005).collect();
    x.extend([0.0, 1e-30, -1e-30, 1e-3, -1e-3, 87.0, -87.0, 88.0, 300.0, -300.0, 1e30, -1e30]);
    x
}

#[test]
fn activations_match_element_by_element() {
    let pool = Pool::new(2);
    let x = sweep();
    for kernels in all_kernels() {
        for activation in ACTIVATIONS {
            let (mut got, mut want) = (poison(x.len()), poison(x.len()));
            activate(&kernels, &pool, activation, &x, &mut got).unwrap();
            reference::activate(activation, &x, &mut want).unwrap();
            for ((x, g), w) in x.iter().zip(&got).zip(&want) {
                let error = (g - w).abs();
                // A rounded exponent e gives a relative error of e times the precision.
                let exponent = (w / x).abs().max(1e-38).ln().abs();
                let allowed = match *x {
                    0.0 => 0.0,
                    // The error function is added to 1, and cancels where it is near -1. What a table is
                    // for is 5e-8 off beyond its first stretch, where the result is as small as `x`.
                    x if activation == Activation::Gelu => {
                        2e-7 * x.abs() + if x.abs() > 0.125 { 5e-8 } else { 0.0 }
                    }
                    // As is the half.
                    x if activation == Activation::HardSwish => 2e-7 * x.abs(),
                    _ => 4e-7 * (2.0 + exponent) * w.abs() + 1e-30,
                };
                assert!(
                    error <= allowed,
                    "{} {activation:?} {x}: {g}, expected {w}",
                    kernels.isa()
                );
            }
        }
    }
}

#[test]
fn nan_and_infinity_go_through_activations() {
    let pool = Pool::new(1);
    for kernels in all_kernels() {
        for activation in ACTIVATIONS {
            let mut out = poison(2);
            activate(&kernels, &pool, activation, &[f32::NAN, f32::INFINITY], &mut out).unwrap();
            assert!(out[0].is_nan(), "{activation:?}");
            let limit = match activation {
                Activation::Tanh | Activation::Sigmoid => 1.0,
                Activation::Relu6 => 6.0,
                _ => f32::INFINITY,
            };
            assert_eq!(out[1], limit, "{activation:?}");
        }
    }
}

#[test]
fn gate_add_and_soft_cap_match() {
    let mut random = Random::new(1);
    for n in [0, 1, 7, 8, 9, 100, 40_000] {
        let (a, b) = (random.floats(n), random.floats(n));
        for kernels in all_kernels() {
            let mut one_thread = Vec::new();
            for threads in [1, 2, 3] {
                let pool = Pool::new(threads);
                let mut got = [poison(n), poison(n), poison(n)];
                let mut want = [poison(n), poison(n), poison(n)];
                gate(&kernels, &pool, Activation::Silu, &a, &b, &mut got[0]).unwrap();
                reference::gate(Activation::Silu, &a, &b, &mut want[0]).unwrap();
                add(&kernels, &pool, &a, &b, &mut got[1]).unwrap();
                reference::add(&a, &b, &mut want[1]).unwrap();
                soft_cap(&kernels, &pool, 0.7, &a, &mut got[2]).unwrap();
                reference::soft_cap(0.7, &a, &mut want[2]).unwrap();
                for (got, want) in got.iter().zip(&want) {
                    assert_close(got, want, 1e-6, &kernels.isa());
                }
                if one_thread.is_empty() {
                    one_thread = got.concat();
                }
                assert_same_bits(&got.concat(), &one_thread, &kernels.isa());
            }
        }
    }
}

#[test]
fn norms_match_and_rows_do_not_depend_on_each_other() {
    let mut random = Random::new(2);
    for cols in [1, 2, 7, 8, 9, 33, 384, 576] {
        for rows in [1, 3, 60] {
            let mut x = random.floats(rows * cols);
            x.iter_mut().for_each(|v| *v += 0.5);
            let (weight, bias) = (random.floats(cols), random.floats(cols));
            for (kind, bias) in [(NormKind::Rms, None), (NormKind::Layer, Some(bias.as_slice()))] {
                let args = NormArgs { kind, weight: &weight, bias, eps: 1e-5 };
                let mut want = poison(x.len());
                reference::norm(&x, &args, &mut want).unwrap();
                for kernels in all_kernels() {
                    let mut got = poison(x.len());
                    norm(&kernels, &Pool::new(3), &x, &args, &mut got).unwrap();
                    assert_close(&got, &want, 1e-5, &format!("{kind:?} {cols}"));
                    for (x, got) in x.chunks(cols).zip(got.chunks(cols)) {
                        let mut row = poison(cols);
                        norm(&kernels, &Pool::new(1), x, &args, &mut row).unwrap();
                        assert_same_bits(&row, got, &format!("{kind:?} {cols}"));
                    }
                }
            }
        }
    }
}

#[test]
fn zero_rows_are_normalised_to_the_bias() {
    for kernels in all_kernels() {
        let args = NormArgs {
            kind: NormKind::Layer,
            weight: &[1.0; 9],
            bias: Some(&[0.25; 9]),
            eps: 1e-12,
        };
        let mut out = poison(18);
        norm(&kernels, &Pool::new(1), &[0.0; 18], &args, &mut out).unwrap();
        assert_eq!(out, [0.25; 18]);
    }
}

#[test]
fn lengths_that_differ_are_refused() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(1));
    let (x, mut out) = ([0.0; 8], [0.0; 7]);
    let args = NormArgs { kind: NormKind::Rms, weight: &[1.0; 3], bias: None, eps: 0.0 };
    let results = [
        add(&kernels, &pool, &x, &x[1..], &mut out),
        activate(&kernels, &pool, Activation::Relu, &x, &mut out),
        gate(&kernels, &pool, Activation::Relu, &x, &x, &mut out),
        soft_cap(&kernels, &pool, 1.0, &x, &mut out),
        norm(&kernels, &pool, &x, &args, &mut out),
    ];
    for result in results {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Shape);
    }
}
