//! Operators on quantised values that give such: floats in between, whose sums are as exact as `quant.rs` says.

use limbeck_plan::{Binary, MapStep, Unary};

use super::conv::conv;
use super::elementwise::{map, two};
use super::layout::with_axes;
use super::products::product;
use super::quant::{bounds, centred};
use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::constant::Constant;
use crate::import::onnx::importer::{Importer, Item};

pub(super) const TABLE: &[(&str, Operator)] = &[
    ("ConvInteger", conv_integer),
    ("QLinearConv", linear_conv),
    ("QLinearMatMul", linear_mat_mul),
];

/// Those of ONNX Runtime's own.
pub(super) const MICROSOFT: &[(&str, Operator)] = &[
    ("MatMulIntegerToFloat", mat_mul_to_float),
    ("QLinearAdd", |i, c| linear_pair(i, c, Binary::Add)),
    ("QLinearMul", |i, c| linear_pair(i, c, Binary::Mul)),
    ("QLinearSigmoid", linear_sigmoid),
];

/// A zero point or a scale for each output, with axes behind it.
fn by_output(importer: &mut Importer<'_>, item: &Item, rank: usize) -> Result<Item> {
    match importer.rank(item) {
        1 => with_axes(importer, item, &(1..rank).collect::<Vec<_>>()),
        _ => Ok(item.clone()),
    }
}

/// The convolution of centred integers, as floats.
fn centred_conv(
    importer: &mut Importer<'_>,
    call: &Call<'_>,
    [x, x_zero, w, w_zero]: [usize; 4],
    bias: Option<usize>,
) -> Result<Item> {
    let weight = call.get(w)?;
    let rank = importer.rank(weight);
    let zero = match call.optional(w_zero) {
        Some(zero) => Some(by_output(importer, zero, rank)?),
        None => None,
    };
    let x = centred(importer, call.get(x)?, call.optional(x_zero), false)?;
    let weight = centred(importer, weight, zero.as_ref(), false)?;
    let bias = match bias.and_then(|index| call.optional(index)) {
        Some(bias) => {
            let steps = vec![MapStep::Input(0), MapStep::Unary(Unary::ToFloat, 0)];
            Some(map(importer, &[bias], steps)?)
        }
        None => None,
    };
    let inputs = vec![Some(x), Some(weight), bias];
    let found = conv(importer, &Call { node: call.node, inputs })?;
    found.into_iter().next().ok_or_else(|| Error::format("a convolution gives nothing"))
}

fn conv_integer(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let found = centred_conv(importer, call, [0, 2, 1, 3], None)?;
    let steps = vec![
        MapStep::Input(0),
        MapStep::Unary(Unary::Round, 0),
        MapStep::Unary(Unary::ToInteger, 1),
    ];
    Ok(vec![map(importer, &[&found], steps)?])
}

/// `clamp(round(x factor) + zero)`.
fn requantised(
    importer: &mut Importer<'_>,
    x: &Item,
    factor: &Item,
    zero: Option<&Item>,
) -> Result<Item> {
    let (low, high) = bounds(zero)?;
    let none = Item::Constant(Constant::integers(Vec::new(), vec![0i64]));
    let steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Binary(Binary::Mul, 0, 1),
        MapStep::Unary(Unary::Round, 2),
        MapStep::Input(2),
        MapStep::Unary(Unary::ToFloat, 4),
        MapStep::Binary(Binary::Add, 3, 5),
        MapStep::Float(low),
        MapStep::Binary(Binary::Max, 6, 7),
        MapStep::Float(high),
        MapStep::Binary(Binary::Min, 8, 9),
        MapStep::Unary(Unary::ToInteger, 10),
    ];
    map(importer, &[x, factor, zero.unwrap_or(&none)], steps)
}

/// `a b / c`, of scales.
fn factor(importer: &mut Importer<'_>, [a, b, c]: [&Item; 3]) -> Result<Item> {
    let steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Binary(Binary::Mul, 0, 1),
        MapStep::Input(2),
        MapStep::Binary(Binary::Div, 2, 3),
    ];
    map(importer, &[a, b, c], steps)
}

fn linear_conv(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let found = centred_conv(importer, call, [0, 2, 3, 5], Some(8))?;
    let rank = importer.rank(&found);
    let scale = factor(importer, [call.get(1)?, call.get(4)?, call.get(6)?])?;
    // For each output, which is the second axis.
    let scale = match importer.rank(&scale) {
        1 => with_axes(importer, &scale, &(1..rank - 1).collect::<Vec<_>>())?,
        _ => scale,
    };
    Ok(vec![requantised(importer, &found, &scale, call.optional(7))?])
}

fn linear_mat_mul(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let a = centred(importer, call.get(0)?, call.optional(2), true)?;
    let b = centred(importer, call.get(3)?, call.optional(5), false)?;
    if importer.rank(call.get(1)?) > 0 && importer.shape(call.get(1)?)[0].as_const() != Some(1) {
        return Err(Error::unsupported("a scale for each row"));
    }
    let found = product(importer, &a, &b)?;
    let scale = factor(importer, [call.get(1)?, call.get(4)?, call.get(6)?])?;
    Ok(vec![requantised(importer, &found, &scale, call.optional(7))?])
}

/// The product of integers times both scales, and a bias.
fn mat_mul_to_float(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let a = centred(importer, call.get(0)?, call.optional(4), true)?;
    let b = centred(importer, call.get(1)?, call.optional(5), false)?;
    let found = product(importer, &a, &b)?;
    let scale = two(importer, call.get(2)?, call.get(3)?, Binary::Mul)?;
    let found = two(importer, &found, &scale, Binary::Mul)?;
    Ok(vec![match call.optional(6) {
        Some(bias) => two(importer, &found, bias, Binary::Add)?,
        None => found,
    }])
}

/// `scale (x - zero)`.
fn dequantised(importer: &mut Importer<'_>, call: &Call<'_>, first: usize) -> Result<Item> {
    let x = centred(importer, call.get(first)?, call.optional(first + 2), false)?;
    two(importer, &x, call.get(first + 1)?, Binary::Mul)
}

/// `clamp(round(x / scale) + zero)`, of the scale and the zero point at these inputs.
fn quantised(importer: &mut Importer<'_>, call: &Call<'_>, x: &Item, scale: usize) -> Result<Item> {
    let one = Item::Constant(Constant::floats(Vec::new(), vec![1.0]));
    let scaled = two(importer, x, call.get(scale)?, Binary::Div)?;
    requantised(importer, &scaled, &one, call.optional(scale + 1))
}

fn linear_pair(importer: &mut Importer<'_>, call: &Call<'_>, f: Binary) -> Result<Vec<Item>> {
    let (a, b) = (dequantised(importer, call, 0)?, dequantised(importer, call, 3)?);
    let found = two(importer, &a, &b, f)?;
    Ok(vec![quantised(importer, call, &found, 6)?])
}

fn linear_sigmoid(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let x = dequantised(importer, call, 0)?;
    let sigmoid = Unary::Activation(limbeck_plan::Activation::Sigmoid);
    let found = map(importer, &[&x], vec![MapStep::Input(0), MapStep::Unary(sigmoid, 0)])?;
    Ok(vec![quantised(importer, call, &found, 3)?])
}
