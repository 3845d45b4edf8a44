//! Operators along one axis in which the order of elements counts.

use limbeck_plan::{DType, Reduction};

use super::products::product;
use super::reduce::reduced;
use super::{Call, Operator, axis};
use crate::error::{Error, Result};
use crate::import::onnx::constant::Constant;
use crate::import::onnx::importer::{Importer, Item, Laid};

pub(super) const TABLE: &[(&str, Operator)] = &[("CumSum", cumulative), ("TopK", top)];

/// Elements of an axis that sums run along, at most: they are products with a matrix of as many rows.
const MAX_SUMMED: usize = 4096;

/// Running sums: a product with ones on one side of the diagonal.
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
    let (exclusive, reverse) = (call.node.is_set("exclusive")?, call.node.is_set("reverse")?);
    let counts = |from: usize, to: usize| match (exclusive, reverse) {
        (false, false) => from <= to,
        (true, false) => from < to,
        (false, true) => from >= to,
        (true, true) => from > to,
    };
    let ones = (0..size).flat_map(|from| (0..size).map(move |to| (from, to)));
    let ones: Vec<f32> = ones.map(|(from, to)| f32::from(u8::from(counts(from, to)))).collect();
    let matrix = Item::Constant(Constant::floats(vec![size, size], ones));
    let last = swapped(item, along, rank);
    let found = product(importer, &last, &matrix)?;
    Ok(vec![swapped(&found, along, rank)])
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
