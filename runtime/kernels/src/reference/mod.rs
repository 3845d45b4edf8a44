//! The slow, obviously right version of each op: plain loops, sums in f64, one thread.
//!
//! Shapes and errors are those of the ops of the same name. `embedding`, `select_rows`,
//! `pool_sequences`, `patches`, `pixels`, `max_pool2d` and the ops that move elements of tensors are plain
//! loops already and have no second version.

mod adaptive;
mod attention;
mod images;
mod linear;
pub(crate) mod math;
mod moe;
mod tensors;

pub use adaptive::{adaptive_mlp, choose};
pub use attention::attention;
pub use images::{conv2d, depthwise_conv2d};
pub use linear::{Products, linear, sparse_linear};
pub use moe::{mix, moe_mlp};
pub use tensors::{conv_transpose2d, tensor};

use crate::error::{Error, check_len};
use crate::norm::NormArgs;
use limbeck_plan::{Activation, NormKind};

/// See [`crate::norm`].
///
/// # Errors
/// As there.
pub fn norm(x: &[f32], args: &NormArgs<'_>, out: &mut [f32]) -> Result<(), Error> {
    let cols = args.weight.len();
    args.check(cols)?;
    if cols == 0 || !x.len().is_multiple_of(cols) {
        return Err(Error::shape(format!("{} values are not rows of {cols}", x.len())));
    }
    check_len("the norm's result", out.len(), x.len())?;
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let mean = match args.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => x.iter().sum::<f64>() / cols as f64,
        };
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / cols as f64;
        let root = (variance + f64::from(args.eps)).sqrt();
        for (i, (v, out)) in x.iter().zip(out).enumerate() {
            let bias = args.bias.map_or(0.0, |b| f64::from(b[i]));
            *out = ((v - mean) / root * f64::from(args.weight[i]) + bias) as f32;
        }
    }
    Ok(())
}

/// See [`crate::add`].
///
/// # Errors
/// As there.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) -> Result<(), Error> {
    check_len("the second term", b.len(), a.len())?;
    check_len("the sum", out.len(), a.len())?;
    for (out, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
        *out = a + b;
    }
    Ok(())
}

/// See [`crate::activate`].
///
/// # Errors
/// As there.
pub fn activate(activation: Activation, x: &[f32], out: &mut [f32]) -> Result<(), Error> {
    check_len("the activation's result", out.len(), x.len())?;
    for (out, x) in out.iter_mut().zip(x) {
        *out = math::apply(activation, f64::from(*x)) as f32;
    }
    Ok(())
}

/// See [`crate::gate`].
///
/// # Errors
/// As there.
pub fn gate(
    activation: Activation,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    check_len("the gate's other operand", up.len(), gate.len())?;
    check_len("the gate's result", out.len(), gate.len())?;
    for (out, (gate, up)) in out.iter_mut().zip(gate.iter().zip(up)) {
        *out = (math::apply(activation, f64::from(*gate)) * f64::from(*up)) as f32;
    }
    Ok(())
}

/// See [`crate::soft_cap`].
///
/// # Errors
/// As there.
pub fn soft_cap(cap: f32, x: &[f32], out: &mut [f32]) -> Result<(), Error> {
    check_len("the capped values", out.len(), x.len())?;
    let cap = f64::from(cap);
    for (out, x) in out.iter_mut().zip(x) {
        *out = (cap * (f64::from(*x) / cap).tanh()) as f32;
    }
    Ok(())
}
