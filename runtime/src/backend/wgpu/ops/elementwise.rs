//! Elementwise ops.

use limbeck_plan::Activation;

use super::{LANES, number};
use crate::backend::slots::Value;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::Shader;
use crate::error::Result;

pub(super) fn add(rec: &mut Recorder<'_>, a: Value, b: Value, out: Value) -> Result<()> {
    dispatch(rec, 0, Activation::Identity, 1.0, [a, b, out])
}

pub(super) fn activate(
    rec: &mut Recorder<'_>,
    activation: Activation,
    x: Value,
    out: Value,
) -> Result<()> {
    dispatch(rec, 1, activation, 1.0, [x, x, out])
}

pub(super) fn gate(
    rec: &mut Recorder<'_>,
    activation: Activation,
    gate: Value,
    up: Value,
    out: Value,
) -> Result<()> {
    dispatch(rec, 2, activation, 1.0, [gate, up, out])
}

pub(super) fn soft_cap(rec: &mut Recorder<'_>, cap: f32, x: Value, out: Value) -> Result<()> {
    dispatch(rec, 3, Activation::Identity, cap, [x, x, out])
}

fn dispatch(
    rec: &mut Recorder<'_>,
    what: u32,
    activation: Activation,
    cap: f32,
    [a, b, out]: [Value; 3],
) -> Result<()> {
    let count = rec.sizes.len(out);
    let params = [count as u32, what, number(activation), cap.to_bits()];
    let (a, b, out) = (rec.value(a)?, rec.value(b)?, rec.value(out)?);
    rec.dispatch(Shader::Elementwise, &params, &[&a, &b, &out], count.div_ceil(LANES))
}
