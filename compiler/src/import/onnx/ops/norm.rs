//! Norms.

use limbeck_plan::{Dim, MapStep, Norm, NormKind, Op};

use super::elementwise::map;
use super::layout::into_shape;
use super::{Call, Operator, axis};
use crate::error::{Error, Result};
use crate::import::onnx::constant::Constant;
use crate::import::onnx::importer::{Importer, Item};
use crate::import::onnx::norm::{channel_affine, group_norm};
use limbeck_plan::Binary;

pub(super) const TABLE: &[(&str, Operator)] = &[
    ("BatchNormalization", batch_norm),
    ("InstanceNormalization", instance_norm),
    ("GroupNormalization", groups_norm),
    ("LayerNormalization", layer_norm),
    ("SimplifiedLayerNormalization", super::contrib::simplified),
];

fn batch_norm(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let Some((scale, shift)) = channel_affine(importer, call.node.proto)? else {
        return Err(Error::unsupported("a batch norm whose parameters are not constant"));
    };
    let x = call.get(0)?;
    let ones = std::iter::repeat_n(1, importer.rank(x).saturating_sub(2));
    let shape: Vec<usize> = [scale.len()].into_iter().chain(ones).collect();
    let constant = |v: Vec<f64>| {
        let values: Vec<f32> = v.into_iter().map(|v| v as f32).collect();
        Item::Constant(Constant::floats(shape.clone(), values))
    };
    let steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Input(2),
        MapStep::Binary(Binary::Mul, 0, 1),
        MapStep::Binary(Binary::Add, 3, 2),
    ];
    Ok(vec![map(importer, &[x, &constant(scale), &constant(shift)], steps)?])
}

/// The channels of an input, known.
fn channels(importer: &Importer<'_>, x: &Item) -> Result<usize> {
    let size = importer.shape(x).get(1).and_then(Dim::as_const);
    let size = size.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    size.ok_or_else(|| Error::unsupported("a norm of channels whose number is not known"))
}

fn instance_norm(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let x = call.get(0)?;
    let (channels, eps) = (channels(importer, x)?, call.node.float_or("epsilon", 1e-5)?);
    let of = |index: usize| -> Result<Vec<f32>> {
        let values = call.floats(index)?.unwrap_or_default().to_vec();
        match values.len() == channels {
            true => Ok(values),
            false => Err(Error::format(format!("{} values of {channels} channels", values.len()))),
        }
    };
    Ok(vec![group_norm(importer, x, (channels, eps), of(1)?, of(2)?)?])
}

fn groups_norm(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let x = call.get(0)?;
    let (channels, eps) = (channels(importer, x)?, call.node.float_or("epsilon", 1e-5)?);
    let groups = call.node.int("num_groups")?.and_then(|n| usize::try_from(n).ok());
    let groups = groups.filter(|n| *n > 0 && channels.is_multiple_of(*n));
    let groups = groups.ok_or_else(|| Error::format("its groups do not divide the channels"))?;
    // Before version 21 for each group, since then for each channel.
    let of = |index: usize| -> Result<Vec<f32>> {
        let values = call.floats(index)?.unwrap_or_default();
        match values.len() {
            n if n == channels => Ok(values.to_vec()),
            n if n == groups => {
                let each = channels / groups;
                Ok(values.iter().flat_map(|v| std::iter::repeat_n(*v, each)).collect())
            }
            n => Err(Error::format(format!("{n} values of {channels} channels"))),
        }
    };
    Ok(vec![group_norm(importer, x, (groups, eps), of(1)?, of(2)?)?])
}

fn layer_norm(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let x = call.get(0)?.clone();
    let shape = importer.shape(&x);
    let from = axis(call.node.int_or("axis", -1)?, shape.len())?;
    let eps = call.node.float_or("epsilon", 1e-5)?;
    let joined = shape[from..].iter().cloned().fold(Dim::Const(1), Dim::times);
    let count = joined.as_const().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let count = count.ok_or_else(|| Error::unsupported("a norm over a size of the call"))?;
    let values = |index: usize| -> Result<Option<Vec<f32>>> {
        match call.floats(index)? {
            Some(v) if v.len() != count => Err(Error::unsupported(format!(
                "{} values of {count} that are normalised",
                v.len()
            ))),
            v => Ok(v.map(<[f32]>::to_vec)),
        }
    };
    let weight = values(1)?.unwrap_or_else(|| vec![1.0; count]);
    let bias = values(2)?;
    let flat = if from + 1 == shape.len() {
        x
    } else {
        let dims = shape[..from].iter().cloned().chain([joined]).collect();
        into_shape(importer, &x, dims)?
    };
    let found = over_last(importer, &flat, NormKind::Layer, eps, Some(&weight), bias.as_deref())?;
    if from + 1 == shape.len() {
        return Ok(vec![found]);
    }
    Ok(vec![into_shape(importer, &found, shape)?])
}

/// A norm over the last axis.
pub(super) fn over_last(
    importer: &mut Importer<'_>,
    x: &Item,
    kind: NormKind,
    eps: f32,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
) -> Result<Item> {
    let weight =
        weight.ok_or_else(|| Error::unsupported("a norm whose factors are not constant"))?;
    let last =
        importer.rank(x).checked_sub(1).ok_or_else(|| Error::format("a norm of a number"))?;
    let mut order = importer.order(x);
    order.retain(|axis| *axis != last);
    order.push(last);
    let operand = importer.operand(x, &order)?;
    let mut inputs = vec![importer.value(operand)?, importer.matrix(weight.to_vec(), 1)];
    inputs.extend(bias.map(|bias| importer.matrix(bias.to_vec(), 1)));
    importer.laid(Op::Norm(Norm { kind, eps, bias: bias.is_some() }), &inputs, order)
}
