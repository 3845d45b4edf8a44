//! Operators that give the same elements another shape: what they do is mostly bookkeeping.

use limbeck_plan::{Dim, Expand, MAX_RANK, Op};

use super::elementwise::aligned;
use super::{Call, Operator, axes, axis};
use crate::error::{Error, Result};
use crate::import::onnx::importer::{Importer, Item, Laid, Operand, plain};
use crate::import::onnx::sizes::{Size, Sizes};

pub(super) const TABLE: &[(&str, Operator)] = &[
    ("Reshape", reshape),
    ("Flatten", flatten),
    ("Squeeze", squeeze),
    ("Unsqueeze", unsqueeze),
    ("Transpose", transpose),
    ("Expand", expand),
    ("Tile", tile),
];

fn transpose(_: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let rank = |item: &Item| match item {
        Item::Constant(c) => c.shape.len(),
        Item::Sizes(s) => usize::from(!s.scalar),
        Item::Value(laid) => laid.order.len(),
    };
    let turn = match call.node.ints("perm")? {
        Some(perm) => perm.iter().map(|a| axis(*a, rank(item))).collect::<Result<Vec<_>>>()?,
        None => plain(rank(item)).into_iter().rev().collect(),
    };
    let mut seen = turn.clone();
    seen.sort_unstable();
    if seen != plain(rank(item)) {
        return Err(Error::format(format!("its order {turn:?} has not each axis once")));
    }
    Ok(vec![match item {
        Item::Constant(c) => Item::Constant(c.permuted(&turn)),
        Item::Value(Laid { value, order }) => {
            let now = |axis: &usize| turn.iter().position(|from| from == axis).unwrap_or(0);
            Item::Value(Laid { value: *value, order: order.iter().map(now).collect() })
        }
        Item::Sizes(_) => item.clone(),
    }])
}

fn reshape(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let wanted = call.sizes(1)?.ok_or_else(|| Error::format("it has no shape"))?;
    let shape = importer.shape(item);
    let zero_is_zero = call.node.is_set("allowzero")?;
    let mut dims = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (at, size) in wanted.iter().enumerate() {
        dims.push(match size {
            Size::Known(0) if !zero_is_zero => {
                let dim = shape.get(at).cloned();
                dim.ok_or_else(|| Error::format(format!("size {at} is copied from nothing")))?
            }
            Size::Known(-1) if open.replace(at).is_none() => Dim::Const(1),
            size => size.dim().ok_or_else(|| Error::format(format!("size {at} is negative")))?,
        });
    }
    if let Some(at) = open {
        let rest: Vec<Dim> =
            dims.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, d)| d.clone()).collect();
        dims[at] = quotient(&shape, &rest)?;
    }
    Ok(vec![into_shape(importer, item, dims)?])
}

/// What is left of a product when others are divided out.
fn quotient(shape: &[Dim], rest: &[Dim]) -> Result<Dim> {
    let ((above, mut left), (below, others)) = (Dim::factors(shape), Dim::factors(rest));
    let mut divisors = Vec::new();
    for dim in others {
        match left.iter().position(|d| *d == dim) {
            Some(at) => drop(left.remove(at)),
            None => divisors.push(dim.clone()),
        }
    }
    if below == 0 {
        return Err(Error::format("a size cannot be found where another is 0"));
    }
    let product = left.into_iter().cloned().fold(Dim::Const(1), Dim::times);
    let product = divisors.into_iter().fold(product, |p, d| p.over(d));
    let whole = product == Dim::Const(1) && !above.is_multiple_of(below);
    if whole {
        return Err(Error::format(format!("{shape:?} does not divide by its sizes")));
    }
    Ok(match above.is_multiple_of(below) {
        true => product.times(above / below),
        false => product.times(above).over(below),
    })
}

/// An item in another shape. Where axes are only split, or joined where they are stored one after the
/// other, it keeps its order.
pub(super) fn into_shape(importer: &mut Importer<'_>, item: &Item, dims: Vec<Dim>) -> Result<Item> {
    check_rank(dims.len())?;
    if !matches!(item, Item::Sizes(_)) && importer.shape(item) == dims {
        return Ok(item.clone());
    }
    match item {
        Item::Sizes(sizes) if dims.len() < 2 => {
            let scalar = dims.is_empty();
            return Ok(Item::Sizes(Sizes { scalar, values: sizes.values.clone() }));
        }
        Item::Value(laid) if !laid.order.is_sorted() => {
            if let Some(found) = in_order(importer, laid, &dims)? {
                return Ok(found);
            }
        }
        _ => {}
    }
    let operand = importer.plain(item)?;
    let rank = dims.len();
    importer.reshaped(operand, dims, plain(rank))
}

fn check_rank(rank: usize) -> Result<()> {
    match rank {
        0..=MAX_RANK => Ok(()),
        _ => Err(Error::unsupported(format!("a tensor of {rank} axes"))),
    }
}

/// Axes of both shapes that have the same elements, in the model's order.
fn groups(from: &[Dim], to: &[Dim]) -> Option<Vec<(Vec<usize>, Vec<usize>)>> {
    let (mut i, mut j) = (0, 0);
    let mut found = Vec::new();
    while i < from.len() || j < to.len() {
        // The smallest groups whose products are the same.
        let ends = (i..=from.len()).flat_map(|a| (j..=to.len()).map(move |b| (a, b)));
        let mut ends: Vec<(usize, usize)> =
            ends.filter(|(a, b)| *a > i && *b > j || i == from.len() || j == to.len()).collect();
        ends.sort_by_key(|(a, b)| (a - i) + (b - j));
        let (a, b) = ends.into_iter().find(|(a, b)| {
            (*a, *b) != (i, j) && Dim::factors(&from[i..*a]) == Dim::factors(&to[j..*b])
        })?;
        found.push(((i..a).collect(), (j..b).collect()));
        (i, j) = (a, b);
    }
    Some(found)
}

fn in_order(importer: &mut Importer<'_>, laid: &Laid, to: &[Dim]) -> Result<Option<Item>> {
    let from = importer.shape(&Item::Value(laid.clone()));
    let Some(groups) = groups(&from, to) else { return Ok(None) };
    let place = |axis: &usize| laid.order.iter().position(|a| a == axis).unwrap_or(0);
    // A group lies together where its axes follow each other as they are stored.
    let together = |axes: &[usize]| axes.windows(2).all(|w| place(&w[1]) == place(&w[0]) + 1);
    if !groups.iter().all(|(from, _)| together(from)) {
        return Ok(None);
    }
    let mut groups = groups;
    groups.sort_by_key(|(from, _)| from.first().map(place));
    let order: Vec<usize> = groups.into_iter().flat_map(|(_, to)| to).collect();
    let shape = order.iter().map(|axis| to[*axis].clone()).collect();
    importer.reshaped(Operand::Value(laid.value), shape, order).map(Some)
}

fn flatten(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let (shape, at) = (importer.shape(item), call.node.int_or("axis", 1)?);
    let at = if at == shape.len() as i64 { shape.len() } else { axis(at, shape.len().max(1))? };
    let product = |dims: &[Dim]| dims.iter().cloned().fold(Dim::Const(1), Dim::times);
    let dims = vec![product(&shape[..at.min(shape.len())]), product(&shape[at.min(shape.len())..])];
    Ok(vec![into_shape(importer, item, dims)?])
}

fn squeeze(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let shape = importer.shape(item);
    let gone = match call.integers_or("axes", 1)? {
        Some(given) => axes(&given, shape.len())?,
        None => match shape.iter().find(|dim| dim.as_const().is_none()) {
            Some(dim) => {
                let message = format!("without axes, of a size of the call, {dim}, which may be 1");
                return Err(Error::unsupported(message));
            }
            None => (0..shape.len()).filter(|a| shape[*a] == Dim::Const(1)).collect(),
        },
    };
    if let Some(axis) = gone.iter().find(|a| shape[**a].as_const().is_some_and(|n| n != 1)) {
        return Err(Error::format(format!("axis {axis} has the size {}", shape[*axis])));
    }
    Ok(vec![without(importer, item, &gone)?])
}

/// An item one of whose axes has this size in every call: a reshape refuses calls in which it has not.
pub(super) fn known_axis(
    importer: &mut Importer<'_>,
    item: &Item,
    axis: usize,
    size: usize,
) -> Result<Item> {
    let mut shape = importer.shape(item);
    match shape.get_mut(axis) {
        Some(dim) if dim.as_const().is_none() => *dim = Dim::from(size),
        _ => return Ok(item.clone()),
    }
    let order = importer.order(item);
    let shape = order.iter().map(|axis| shape[*axis].clone()).collect();
    let operand = importer.operand(item, &order)?;
    importer.reshaped(operand, shape, order)
}

/// An item without axes whose size is 1.
pub(super) fn without(importer: &mut Importer<'_>, item: &Item, gone: &[usize]) -> Result<Item> {
    let shape = importer.shape(item);
    if let Item::Sizes(sizes) = item {
        let scalar = sizes.scalar || !gone.is_empty();
        return Ok(Item::Sizes(Sizes { scalar, values: sizes.values.clone() }));
    }
    let left = |axis: &usize| !gone.contains(axis);
    let number = |axis: usize| axis - gone.iter().filter(|g| **g < axis).count();
    let before = importer.order(item);
    let kept: Vec<usize> = before.iter().copied().filter(left).collect();
    let dims = kept.iter().map(|axis| shape[*axis].clone()).collect();
    let order: Vec<usize> = kept.iter().map(|axis| number(*axis)).collect();
    let operand = importer.operand(item, &before)?;
    importer.reshaped(operand, dims, order)
}

fn unsqueeze(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let given = call.integers_or("axes", 1)?.ok_or_else(|| Error::format("it has no axes"))?;
    let rank = importer.rank(item) + given.len();
    check_rank(rank)?;
    let new = axes(&given, rank)?;
    Ok(vec![with_axes(importer, item, &new)?])
}

/// An item with new axes of size 1, numbered as in the result. They are stored in front.
pub(super) fn with_axes(importer: &mut Importer<'_>, item: &Item, new: &[usize]) -> Result<Item> {
    if let (Item::Sizes(sizes), 1, true) = (item, new.len(), importer.rank(item) == 0) {
        return Ok(Item::Sizes(Sizes { scalar: false, values: sizes.values.clone() }));
    }
    let (shape, before) = (importer.shape(item), importer.order(item));
    let rank = shape.len() + new.len();
    let old: Vec<usize> = (0..rank).filter(|axis| !new.contains(axis)).collect();
    let stored = before.iter().map(|axis| old[*axis]);
    let mut order: Vec<usize> = new.iter().copied().chain(stored).collect();
    if before.is_sorted() {
        order = plain(rank);
    }
    let dim = |axis: &usize| match old.iter().position(|o| o == axis) {
        Some(at) => shape[at].clone(),
        None => Dim::Const(1),
    };
    let dims = order.iter().map(dim).collect();
    let operand = importer.operand(item, &before)?;
    importer.reshaped(operand, dims, order)
}

/// Repeats along axes: each becomes two, of which the first repeats.
fn tile(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let times = call.sizes(1)?.ok_or_else(|| Error::format("it has no repeats"))?;
    let times: Option<Vec<Dim>> = times.iter().map(Size::dim).collect();
    let times = times.ok_or_else(|| Error::format("a repeat is negative"))?;
    let shape = importer.shape(item);
    if times.len() != shape.len() {
        return Err(Error::format(format!("{} repeats of {} axes", times.len(), shape.len())));
    }
    check_rank(2 * shape.len())?;
    let pairs = |first: &dyn Fn(usize) -> Dim| -> Vec<Dim> {
        shape.iter().enumerate().flat_map(|(axis, size)| [first(axis), size.clone()]).collect()
    };
    let apart = into_shape(importer, item, pairs(&|_| Dim::Const(1)))?;
    let apart = importer.plain(&apart)?;
    let op = Op::Expand(Expand { shape: pairs(&|axis| times[axis].clone()) });
    let repeated = importer.apply(op, vec![apart], plain(2 * shape.len()))?;
    let whole = times.into_iter().zip(shape).map(|(times, size)| times.times(size));
    Ok(vec![into_shape(importer, &repeated, whole.collect())?])
}

fn expand(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let wanted = call.sizes(1)?.ok_or_else(|| Error::format("it has no shape"))?;
    let wanted: Option<Vec<Dim>> = wanted.iter().map(Size::dim).collect();
    let wanted = wanted.ok_or_else(|| Error::format("a size is negative"))?;
    let have = importer.shape(item);
    // Both repeat, so that a wanted size of 1 leaves what there is.
    let shape = limbeck_plan::broadcast(&[&have, &wanted]).map_err(Error::format)?;
    if shape == have {
        return Ok(vec![item.clone()]);
    }
    let rank = shape.len();
    let mut order = importer.order(item);
    if order.len() < rank {
        order = plain(rank);
    }
    let operand = aligned(importer, item, &order)?;
    let shape = order.iter().map(|axis| shape[*axis].clone()).collect();
    Ok(vec![importer.apply(Op::Expand(Expand { shape }), vec![operand], order)?])
}
