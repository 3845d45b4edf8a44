//! Operators along one axis in which the order of elements counts.

use limbeck_plan::{Binary, DType, Dim, Op, Pad, Padding, Reduction, Slice};

use super::elementwise::two;
use super::layout::{into_shape, with_axes, without};
use super::products::product;
use super::reduce::reduced;
use super::{Call, Operator, axis};
use crate::error::{Error, Result};
use crate::import::onnx::constant::Constant;
use crate::import::onnx::importer::{Importer, Item, Laid, plain};

pub(super) const TABLE: &[(&str, Operator)] = &[("CumSum", cumulative), ("TopK", top)];

/// Elements of an axis that sums run along, at most.
const MAX_SUMMED: usize = 1 << 16;
/// Elements that one product sums: longer axes are cut into parts.
const SUMMED_AT_ONCE: usize = 256;

/// Running sums: products with ones on one side of the diagonal.
fn cumulative(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let rank = importer.rank(item);
    let along = match call.integers(1)?.as_deref() {
        Some(&[at]) => axis(at, rank)?,
        _ => return Err(Error::format("it has no axis")),
    };
    if importer.fact(item).dtype != DType::F32 {
        return Err(Error::unsupported("running sums of integers"));
    }
    let size = importer.shape(item)[along].as_const().and_then(|n| usize::try_from(n).ok());
    let size = size.filter(|n| (1..=MAX_SUMMED).contains(n));
    let size = size.ok_or_else(|| Error::unsupported("running sums along a size of the call"))?;
    let sides = (call.node.is_set("exclusive")?, call.node.is_set("reverse")?);
    let last = swapped(item, along, rank);
    let found = match size <= SUMMED_AT_ONCE {
        true => product(importer, &last, &ones(size, sides))?,
        false => in_parts(importer, &last, size, sides)?,
    };
    Ok(vec![swapped(&found, along, rank)])
}

/// A matrix of ones where the row counts for the column.
fn ones(size: usize, (exclusive, reverse): (bool, bool)) -> Item {
    let counts = |from: usize, to: usize| match (exclusive, reverse) {
        (false, false) => from <= to,
        (true, false) => from < to,
        (false, true) => from >= to,
        (true, true) => from > to,
    };
    let places = (0..size).flat_map(|from| (0..size).map(move |to| (from, to)));
    let ones: Vec<f32> = places.map(|(from, to)| f32::from(u8::from(counts(from, to)))).collect();
    Item::Constant(Constant::floats(vec![size, size], ones))
}

/// Running sums along the last axis: within parts of it, and over those before each.
fn in_parts(
    importer: &mut Importer<'_>,
    item: &Item,
    size: usize,
    sides: (bool, bool),
) -> Result<Item> {
    let parts = size.div_ceil(SUMMED_AT_ONCE);
    let (whole, shape) = (parts * SUMMED_AT_ONCE, importer.shape(item));
    let rank = shape.len();
    let with = |more: &[usize]| -> Vec<Dim> {
        shape[..rank - 1].iter().cloned().chain(more.iter().map(|n| Dim::from(*n))).collect()
    };
    let mut after = vec![0; rank];
    after[rank - 1] = whole - size;
    let pad = Pad { padding: Padding::Constant, before: vec![0; rank], after, value: 0.0 };
    let operand = importer.plain(item)?;
    let padded = importer.apply(Op::Pad(pad), vec![operand], plain(rank))?;
    let apart = into_shape(importer, &padded, with(&[parts, SUMMED_AT_ONCE]))?;
    let within = product(importer, &apart, &ones(SUMMED_AT_ONCE, sides))?;
    let sums = reduced(importer, &apart, Reduction::Sum, &[rank])?;
    let sums = without(importer, &sums, &[rank])?;
    let before = product(importer, &sums, &ones(parts, (true, sides.1)))?;
    let before = with_axes(importer, &before, &[rank])?;
    let both = two(importer, &within, &before, Binary::Add)?;
    let joined = into_shape(importer, &both, with(&[whole]))?;
    let slice = Slice { axis: rank - 1, start: Dim::Const(0), count: Dim::from(size), step: 1 };
    let operand = importer.plain(&joined)?;
    importer.apply(Op::Slice(slice), vec![operand], plain(rank))
}

/// An item with one axis and the last in each other's places.
fn swapped(item: &Item, along: usize, rank: usize) -> Item {
    let swap = |axis: usize| match axis {
        a if a == along => rank - 1,
        a if a + 1 == rank => along,
        a => a,
    };
    match item {
        Item::Constant(c) => {
            let order: Vec<usize> = (0..rank).map(swap).collect();
            Item::Constant(c.permuted(&order))
        }
        Item::Value(Laid { value, order }) => {
            Item::Value(Laid { value: *value, order: order.iter().map(|a| swap(*a)).collect() })
        }
        Item::Sizes(_) => item.clone(),
    }
}

/// The first of an order: more of them would have to be sorted.
fn top(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let along = axis(call.node.int_or("axis", -1)?, importer.rank(item))?;
    match call.integers(1)?.as_deref() {
        Some([1]) => {}
        _ => return Err(Error::unsupported("more than the first")),
    }
    let (value, index) = match call.node.int_or("largest", 1)? != 0 {
        true => (Reduction::Max, Reduction::ArgMax),
        false => (Reduction::Min, Reduction::ArgMin),
    };
    Ok(vec![reduced(importer, item, value, &[along])?, reduced(importer, item, index, &[along])?])
}
