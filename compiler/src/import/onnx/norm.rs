//! Norms whose parameters are constants, and the forms in which exporters write them.

use limbeck_plan::{Activation, Dim, GroupNorm, Op};

use super::constant::Constant;
use super::importer::{Importer, Item};
use super::node::Node;
use super::proto::NodeProto;
use super::sizes::Size;
use crate::error::{Error, Result};

impl<'a> Importer<'a> {
    /// The constant that a name stands for.
    pub(super) fn constant(&self, name: &str) -> Option<&Constant> {
        match self.find(name)? {
            Item::Constant(c) => Some(c),
            _ => None,
        }
    }

    /// The floats of a constant with so many elements, in whatever shape.
    fn channels(&self, name: &str, count: usize) -> Option<Vec<f32>> {
        let constant = self.constant(name)?;
        let values = constant.as_floats().ok()?;
        (values.len() == count).then(|| values.to_vec())
    }
}

/// What a batch norm does with each channel: times, and plus; `None` where that is not constant.
pub(super) fn channel_affine(
    importer: &Importer<'_>,
    norm: &NodeProto,
) -> Result<Option<(Vec<f64>, Vec<f64>)>> {
    let node = Node { proto: norm, opset: 0 };
    let floats = |index: usize| -> Option<Vec<f64>> {
        let constant = importer.constant(node.input(index)?)?;
        Some(constant.as_floats().ok()?.iter().map(|v| f64::from(*v)).collect())
    };
    let (Some(gamma), Some(beta), Some(mean), Some(variance)) =
        (floats(1), floats(2), floats(3), floats(4))
    else {
        return Ok(None);
    };
    if node.is_set("training_mode")? || norm.output.len() > 1 {
        return Err(Error::unsupported("a batch norm that is trained"));
    }
    if beta.len() != gamma.len() || mean.len() != gamma.len() || variance.len() != gamma.len() {
        return Err(Error::format("its parameters are not of as many channels"));
    }
    let eps = f64::from(node.float_or("epsilon", 1e-5)?);
    let scale: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + eps).sqrt()).collect();
    let moved = beta.iter().zip(mean.iter().zip(&scale));
    let shift = moved.map(|(b, (m, s))| b - m * s).collect();
    Ok(Some((scale, shift)))
}

/// A group norm of `[batch, channels, ..]`, with a factor and a term for each channel.
pub(super) fn group_norm(
    importer: &mut Importer<'_>,
    x: &Item,
    (groups, eps): (usize, f32),
    weight: Vec<f32>,
    bias: Vec<f32>,
) -> Result<Item> {
    let mut order: Vec<usize> = (0..importer.rank(x)).filter(|axis| *axis != 1).collect();
    order.push(1);
    let operand = importer.operand(x, &order)?;
    let x = importer.value(operand)?;
    let inputs = [x, importer.matrix(weight, 1), importer.matrix(bias, 1)];
    importer.laid(
        Op::GroupNorm(GroupNorm { groups, eps, bias: true, activation: Activation::Identity }),
        &inputs,
        order,
    )
}

/// PyTorch's export of a group norm: a reshape to `[batch, groups, rest]`, an instance norm, a reshape
/// back, and the channels' factors and terms. Where a reshape begins one, the whole is imported.
pub(super) fn reshaped_group_norm(importer: &mut Importer<'_>, first: &NodeProto) -> Result<()> {
    let Some(found) = GroupNormParts::find(importer, first)? else { return Ok(()) };
    let GroupNormParts { x, groups, eps, mut weight, mut bias, mut last } = found;
    // What each channel is multiplied with and what is added then.
    let sides = importer.rank(&x).saturating_sub(2);
    if let Some((next, values)) = channel_step(importer, last, "Mul", (weight.len(), sides)) {
        weight.iter_mut().zip(&values).for_each(|(w, v)| *w *= v);
        bias.iter_mut().zip(&values).for_each(|(b, v)| *b *= v);
        last = next;
    }
    if let Some((next, values)) = channel_step(importer, last, "Add", (weight.len(), sides)) {
        bias.iter_mut().zip(&values).for_each(|(b, v)| *b += v);
        last = next;
    }
    let item = group_norm(importer, &x, (groups, eps), weight, bias)?;
    importer.finish(last, item);
    Ok(())
}

struct GroupNormParts<'a> {
    x: Item,
    groups: usize,
    eps: f32,
    /// For each channel.
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// The node that gives the norm.
    last: &'a NodeProto,
}

impl<'a> GroupNormParts<'a> {
    fn find(importer: &Importer<'a>, first: &NodeProto) -> Result<Option<GroupNormParts<'a>>> {
        let named = |index: usize| first.input.get(index).map_or("", String::as_str);
        let (Some(x), Some(shape)) = (importer.find(named(0)), importer.constant(named(1))) else {
            return Ok(None);
        };
        let sizes = importer.shape(x);
        let channels = sizes.get(1).and_then(Dim::as_const).and_then(|n| usize::try_from(n).ok());
        let (Some(channels), Ok(&[batch, groups, -1])) = (channels, shape.as_integers()) else {
            return Ok(None);
        };
        let groups = usize::try_from(groups).unwrap_or(0);
        let same_batch = batch == 0 || Size::Known(batch) == Size::from(&sizes[0]);
        let output = first.output.first().map_or("", String::as_str);
        let norm = importer.only_reader(output, "InstanceNormalization");
        let Some(norm) = norm.filter(|_| {
            same_batch && groups > 0 && channels.is_multiple_of(groups) && sizes.len() > 2
        }) else {
            return Ok(None);
        };
        let node = Node { proto: norm, opset: 0 };
        let of = |index: usize| importer.channels(node.input(index).unwrap_or(""), groups);
        let (Some(scale), Some(bias)) = (of(1), of(2)) else { return Ok(None) };
        let normed = norm.output.first().map_or("", String::as_str);
        let Some(last) = importer.only_reader(normed, "Reshape") else { return Ok(None) };
        let to = last.input.get(1).map_or("", String::as_str);
        if !importer.is_shape_of(to, named(0), &sizes) {
            return Ok(None);
        }
        let eps = node.float_or("epsilon", 1e-5)?;
        let each = channels / groups;
        let spread =
            |v: Vec<f32>| v.into_iter().flat_map(|v| std::iter::repeat_n(v, each)).collect();
        let (weight, bias) = (spread(scale), spread(bias));
        Ok(Some(GroupNormParts { x: x.clone(), groups, eps, weight, bias, last }))
    }
}

/// The node that alone reads another's result, and does this with a constant for each channel: `[C]` or
/// `[1, C]`, and then 1 for each of an image's sides.
fn channel_step<'a>(
    importer: &Importer<'a>,
    before: &NodeProto,
    op: &str,
    (channels, sides): (usize, usize),
) -> Option<(&'a NodeProto, Vec<f32>)> {
    let output = before.output.first()?;
    let next = importer.only_reader(output, op)?;
    let other = next.input.iter().find(|name| *name != output)?;
    let shape = &importer.constant(other)?.shape;
    let (before, rest) = shape.split_at(shape.len().checked_sub(sides)?);
    let fits = matches!(before, [c] | [1, c] if *c == channels) && rest.iter().all(|n| *n == 1);
    let values = importer.channels(other, channels)?;
    fits.then_some((next, values))
}
