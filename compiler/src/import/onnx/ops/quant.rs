//! Quantised operators. Floats hold their integers, so that products are those of floats: sums of up to 258 products
//! of 8 bits are exact, and longer ones round as floats do. What is constant becomes floats when the model is compiled.

use limbeck_plan::{Binary, MapStep, Reduction, Unary};

use super::elementwise::map;
use super::products::product;
use super::reduce::reduced;
use super::{Call, Operator, axis};
use crate::error::{Error, Result};
use crate::import::onnx::constant::Constant;
use crate::import::onnx::importer::{Importer, Item};
use crate::import::onnx::proto::dtype;
use crate::import::onnx::types;

pub(super) const TABLE: &[(&str, Operator)] = &[
    ("DequantizeLinear", dequantise),
    ("QuantizeLinear", quantise),
    ("DynamicQuantizeLinear", dynamic),
    ("MatMulInteger", mat_mul_integer),
];

/// A scale or zero point for each index of an axis, in the axes of what it belongs to.
fn along(
    importer: &mut Importer<'_>,
    call: &Call<'_>,
    index: usize,
    x: &Item,
) -> Result<Option<Item>> {
    let Some(item) = call.optional(index) else { return Ok(None) };
    let rank = importer.rank(x);
    if call.node.int_or("block_size", 0)? != 0 || importer.rank(item) > 1 {
        return Err(Error::unsupported("scales of blocks"));
    }
    let one = match item {
        Item::Constant(c) => c.len() == 1,
        item => importer.rank(item) == 0,
    };
    if one || importer.rank(item) == 0 {
        return Ok(Some(item.clone()));
    }
    let at = axis(call.node.int_or("axis", 1)?, rank)?;
    let new: Vec<usize> = (0..rank).filter(|axis| *axis != at).collect();
    super::layout::with_axes(importer, item, &new).map(Some)
}

fn dequantise(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let x = call.get(0)?;
    let scale = along(importer, call, 1, x)?.ok_or_else(|| Error::format("it has no scale"))?;
    let zero = along(importer, call, 2, x)?;
    let mut steps = vec![MapStep::Input(0), MapStep::Unary(Unary::ToFloat, 0), MapStep::Input(1)];
    let mut items = vec![x, &scale];
    let mut value = 1;
    if let Some(zero) = &zero {
        items.push(zero);
        steps.push(MapStep::Input(2));
        steps.push(MapStep::Unary(Unary::ToFloat, 3));
        steps.push(MapStep::Binary(Binary::Sub, 1, 4));
        value = 5;
    }
    steps.push(MapStep::Binary(Binary::Mul, value, 2));
    Ok(vec![map(importer, &items, steps)?])
}

/// The bounds of a zero point's type.
pub(super) fn bounds(zero: Option<&Item>) -> Result<(f32, f32)> {
    match zero {
        None => bounds_of(dtype::UINT8),
        Some(Item::Constant(zero)) => bounds_of(zero.dtype),
        Some(_) => Err(Error::unsupported("a zero point that is not constant")),
    }
}

fn bounds_of(quantised: i32) -> Result<(f32, f32)> {
    match quantised {
        dtype::UINT8 => Ok((0.0, 255.0)),
        dtype::INT8 => Ok((-128.0, 127.0)),
        of => Err(Error::unsupported(format!("quantisation to {}", types::name(of)))),
    }
}

/// `clamp(round(x / scale) + zero)`, from steps that have `x`, `scale` and, as a float, `zero`.
fn rounded(steps: &mut Vec<MapStep>, x: usize, scale: usize, zero: usize, (low, high): (f32, f32)) {
    let at = steps.len();
    steps.extend([
        MapStep::Binary(Binary::Div, x, scale),
        MapStep::Unary(Unary::Round, at),
        MapStep::Binary(Binary::Add, at + 1, zero),
        MapStep::Float(low),
        MapStep::Binary(Binary::Max, at + 2, at + 3),
        MapStep::Float(high),
        MapStep::Binary(Binary::Min, at + 4, at + 5),
        MapStep::Unary(Unary::ToInteger, at + 6),
    ]);
}

fn quantise(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let x = call.get(0)?;
    let scale = along(importer, call, 1, x)?.ok_or_else(|| Error::format("it has no scale"))?;
    let zero = call.optional(2);
    let bounds = match call.node.int_or("output_dtype", 0)? {
        // Where both are given they are the same.
        of if of != 0 && zero.is_none() => bounds_of(i32::try_from(of).unwrap_or(0))?,
        _ => bounds(zero)?,
    };
    let zero = along(importer, call, 2, x)?;
    let zero = zero.unwrap_or_else(|| Item::Constant(Constant::integers(Vec::new(), vec![0i64])));
    let mut steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Input(2),
        MapStep::Unary(Unary::ToFloat, 2),
    ];
    rounded(&mut steps, 0, 1, 3, bounds);
    Ok(vec![map(importer, &[x, &scale, &zero], steps)?])
}

/// 8 bits without a sign over the range of a tensor, which 0 is a part of.
fn dynamic(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let x = call.get(0)?;
    let all: Vec<usize> = (0..importer.rank(x)).collect();
    let mut end = |reduction, f| -> Result<Item> {
        let found = reduced(importer, x, reduction, &all)?;
        let found = super::layout::without(importer, &found, &all)?;
        let steps = vec![MapStep::Input(0), MapStep::Float(0.0), MapStep::Binary(f, 0, 1)];
        map(importer, &[&found], steps)
    };
    let (low, high) = (end(Reduction::Min, Binary::Min)?, end(Reduction::Max, Binary::Max)?);
    let steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Binary(Binary::Sub, 1, 0),
        MapStep::Float(255.0),
        MapStep::Binary(Binary::Div, 2, 3),
    ];
    let scale = map(importer, &[&low, &high], steps)?;
    let mut steps = vec![
        MapStep::Input(0),
        MapStep::Unary(Unary::Neg, 0),
        MapStep::Input(1),
        MapStep::Float(0.0),
    ];
    rounded(&mut steps, 1, 2, 3, (0.0, 255.0));
    let zero = map(importer, &[&low, &scale], steps)?;
    let mut steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Input(2),
        MapStep::Unary(Unary::ToFloat, 2),
    ];
    rounded(&mut steps, 0, 1, 3, (0.0, 255.0));
    let y = map(importer, &[x, &scale, &zero], steps)?;
    Ok(vec![y, scale, zero])
}

/// Integers less their zero point, as floats.
pub(super) fn centred(
    importer: &mut Importer<'_>,
    x: &Item,
    zero: Option<&Item>,
    rows: bool,
) -> Result<Item> {
    let Some(zero) = zero else {
        let steps = vec![MapStep::Input(0), MapStep::Unary(Unary::ToFloat, 0)];
        return map(importer, &[x], steps);
    };
    // A zero point for each row is a column.
    let zero = match importer.rank(zero) {
        1 if rows => super::layout::with_axes(importer, zero, &[1])?,
        _ => zero.clone(),
    };
    let steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Binary(Binary::Sub, 0, 1),
        MapStep::Unary(Unary::ToFloat, 2),
    ];
    map(importer, &[x, &zero], steps)
}

fn mat_mul_integer(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let a = centred(importer, call.get(0)?, call.optional(2), true)?;
    let b = centred(importer, call.get(1)?, call.optional(3), false)?;
    let found = product(importer, &a, &b)?;
    let steps = vec![
        MapStep::Input(0),
        MapStep::Unary(Unary::Round, 0),
        MapStep::Unary(Unary::ToInteger, 1),
    ];
    Ok(vec![map(importer, &[&found], steps)?])
}
