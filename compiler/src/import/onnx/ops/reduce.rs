//! Reductions.

use limbeck_plan::{Op, Reduce, Reduction, Softmax, Unary};

use super::layout::without;
use super::{Call, Operator, axes, axis};
use crate::error::{Error, Result};
use crate::import::onnx::importer::{Importer, Item};
use limbeck_plan::{DType, MapStep};

pub(super) const TABLE: &[(&str, Operator)] = &[
    ("ReduceSum", |i, c| reduce(i, c, Reduction::Sum)),
    ("ReduceMean", |i, c| reduce(i, c, Reduction::Mean)),
    ("ReduceMax", |i, c| reduce(i, c, Reduction::Max)),
    ("ReduceMin", |i, c| reduce(i, c, Reduction::Min)),
    ("ReduceProd", |i, c| reduce(i, c, Reduction::Prod)),
    ("ReduceL1", |i, c| reduce(i, c, Reduction::L1)),
    ("ReduceL2", |i, c| reduce(i, c, Reduction::L2)),
    ("ReduceSumSquare", |i, c| reduce(i, c, Reduction::SumSquares)),
    ("ArgMax", |i, c| index(i, c, Reduction::ArgMax)),
    ("ArgMin", |i, c| index(i, c, Reduction::ArgMin)),
    ("GlobalAveragePool", |i, c| global(i, c, Reduction::Mean)),
    ("GlobalMaxPool", |i, c| global(i, c, Reduction::Max)),
    ("Softmax", |i, c| softmax(i, c, false)),
    ("LogSoftmax", |i, c| softmax(i, c, true)),
];

/// An item with some axes reduced to size 1.
pub(super) fn reduced(
    importer: &mut Importer<'_>,
    item: &Item,
    reduction: Reduction,
    gone: &[usize],
) -> Result<Item> {
    if gone.is_empty() {
        return Ok(item.clone());
    }
    let order = importer.order(item);
    let mut stored: Vec<usize> =
        gone.iter().filter_map(|axis| order.iter().position(|a| a == axis)).collect();
    stored.sort_unstable();
    let operand = importer.operand(item, &order)?;
    importer.apply(Op::Reduce(Reduce { reduction, axes: stored }), vec![operand], order)
}

fn reduce(importer: &mut Importer<'_>, call: &Call<'_>, reduction: Reduction) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let rank = importer.rank(item);
    let gone = match call.integers_or("axes", 1)? {
        Some(given) if !given.is_empty() => axes(&given, rank)?,
        _ if call.node.is_set("noop_with_empty_axes")? => {
            let alone = [Reduction::L1, Reduction::L2, Reduction::SumSquares];
            if alone.contains(&reduction) {
                return Err(Error::unsupported("a norm of each element by itself"));
            }
            Vec::new()
        }
        _ => (0..rank).collect(),
    };
    let mut found = reduced(importer, item, reduction, &gone)?;
    if call.node.int_or("keepdims", 1)? == 0 {
        found = without(importer, &found, &gone)?;
    }
    Ok(vec![found])
}

fn index(importer: &mut Importer<'_>, call: &Call<'_>, reduction: Reduction) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    if call.node.is_set("select_last_index")? {
        return Err(Error::unsupported("the last index among equals"));
    }
    let along = axis(call.node.int_or("axis", 0)?, importer.rank(item))?;
    let mut found = reduced(importer, item, reduction, &[along])?;
    if call.node.int_or("keepdims", 1)? == 0 {
        found = without(importer, &found, &[along])?;
    }
    Ok(vec![found])
}

fn global(importer: &mut Importer<'_>, call: &Call<'_>, reduction: Reduction) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let gone: Vec<usize> = (2..importer.rank(item)).collect();
    Ok(vec![reduced(importer, item, reduction, &gone)?])
}

fn softmax(importer: &mut Importer<'_>, call: &Call<'_>, log: bool) -> Result<Vec<Item>> {
    let item = call.get(0)?.clone();
    let rank = importer.rank(&item);
    // Before version 13 all axes from this one on are one.
    let old = call.node.opset < 13;
    let along = axis(call.node.int_or("axis", if old { 1 } else { -1 })?, rank)?;
    if old && along + 1 < rank {
        let shape = importer.shape(&item);
        let joined =
            shape[along..].iter().cloned().fold(limbeck_plan::Dim::Const(1), |a, b| a.times(b));
        let dims = shape[..along].iter().cloned().chain([joined]).collect();
        let flat = super::layout::into_shape(importer, &item, dims)?;
        let found = last_softmax(importer, &flat, along, log)?;
        return Ok(vec![super::layout::into_shape(importer, &found, shape)?]);
    }
    Ok(vec![last_softmax(importer, &item, along, log)?])
}

fn last_softmax(importer: &mut Importer<'_>, item: &Item, along: usize, log: bool) -> Result<Item> {
    let item = match importer.fact(item).dtype {
        DType::F32 => item.clone(),
        DType::I32 => {
            let steps = vec![MapStep::Input(0), MapStep::Unary(Unary::ToFloat, 0)];
            super::elementwise::map(importer, &[item], steps)?
        }
    };
    let mut order = importer.order(&item);
    order.retain(|axis| *axis != along);
    order.push(along);
    let operand = importer.operand(&item, &order)?;
    importer.apply(Op::Softmax(Softmax { log }), vec![operand], order)
}
