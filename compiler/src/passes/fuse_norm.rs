//! Norms over the last axis that are written out: layer norms and RMS norms, and the factors that follow.

use std::sync::Arc;

use limbeck_graph::{Error, Graph, NodeId, TensorExpr, ValueId};
use limbeck_plan::{Binary, Dim, Norm, NormKind, Op, Reduce, Reduction, Unary};

use super::fuse_bias::is_row;
use super::single::{Single, alone, single, single_at};

/// Channels of a norm at most, which get factors that no model stores.
const MAX_CHANNELS: usize = 1 << 20;

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    if let Some((norm, inputs)) = factors(graph, at) {
        graph.replace(at, Op::Norm(norm), inputs)?;
        return Ok(true);
    }
    let Some((kind, x, eps)) = written(graph, at) else { return Ok(false) };
    let count = graph.value(x).fact.shape.last().and_then(Dim::as_const);
    let count =
        count.and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=MAX_CHANNELS).contains(n));
    let Some(count) = count else { return Ok(false) };
    let values: Arc<[f32]> = vec![1.0; count].into();
    let name = format!("{} factors", graph.nodes()[at].name);
    let ones = graph.weight(TensorExpr::Inline { name, rows: 1, values });
    graph.replace(at, Op::Norm(Norm { kind, eps, bias: false }), vec![x, ones])?;
    Ok(true)
}

/// A norm whose factors are all 1 and a row that it is multiplied with, as one norm.
fn factors(graph: &mut Graph, at: NodeId) -> Option<(Norm, Vec<ValueId>)> {
    let Single::Binary(Binary::Mul, a, b) = single_at(graph, at)? else { return None };
    let shape = &graph.value(graph.nodes()[at].output).fact.shape;
    let (norm, x, row) = [(a, b), (b, a)].into_iter().find_map(|(value, row)| {
        let node = &graph.nodes()[graph.producer(value)?];
        let (Op::Norm(norm), &[x, weight]) = (&node.op, node.inputs.as_slice()) else {
            return None;
        };
        let TensorExpr::Inline { values, .. } = graph.weight_expr(weight)? else { return None };
        let fits = graph.uses(value) == 1
            && graph.value(value).fact.shape == *shape
            && values.iter().all(|v| *v == 1.0)
            && is_row(graph, row, shape.last()?);
        Some((norm.clone(), x, graph.weight_expr(row)?.clone())).filter(|_| fits)
    })?;
    Some((norm, vec![x, graph.weight(row)]))
}

/// A norm without factors: `x` or its distance from the mean, over the root of its mean square.
fn written(graph: &Graph, at: NodeId) -> Option<(NormKind, ValueId, f32)> {
    let output = graph.nodes()[at].output;
    let (value, square, eps) = quotient(graph, at)?;
    if graph.value(value).fact != graph.value(output).fact {
        return None;
    }
    let mean = mean_of(graph, square)?;
    let (squared, read) = match single(graph, alone(graph, mean)?)? {
        Single::Right(Binary::Pow, x, 2.0) => (x, 1),
        Single::Binary(Binary::Mul, a, b) if a == b => (a, reads(graph, mean, a)),
        _ => return None,
    };
    // Some exporters take the distance twice.
    let layer = distance(graph, value).filter(|x| match squared == value {
        true => graph.uses(value) == read + 1,
        false => {
            let same = distance(graph, squared) == Some(*x);
            same && graph.uses(squared) == read && graph.uses(value) == 1
        }
    });
    match layer {
        Some(x) => Some((NormKind::Layer, x, eps)),
        None => (squared == value).then_some((NormKind::Rms, value, eps)),
    }
}

/// A value over the square root of another plus a number: the value, what is under the root, the number.
fn quotient(graph: &Graph, at: NodeId) -> Option<(ValueId, ValueId, f32)> {
    let (value, under) = match single_at(graph, at)? {
        Single::Binary(Binary::Div, value, root) => (value, root_of(graph, root)?),
        Single::Binary(Binary::Mul, a, b) => [(a, b), (b, a)]
            .into_iter()
            .find_map(|(value, factor)| Some((value, inverse_root_of(graph, factor)?)))?,
        _ => return None,
    };
    let (Single::Right(Binary::Add, square, eps) | Single::Left(Binary::Add, eps, square)) =
        single(graph, under)?
    else {
        return None;
    };
    // No norm is of a plan where it is not in this range.
    let in_range = eps.is_finite() && eps >= 0.0;
    (in_range && graph.uses(square) == 1).then_some((value, square, eps))
}

/// What a value is the square root of; both are read once.
fn root_of(graph: &Graph, value: ValueId) -> Option<ValueId> {
    match single(graph, alone(graph, value)?)? {
        Single::Unary(Unary::Sqrt, x) | Single::Right(Binary::Pow, x, 0.5) => alone(graph, x),
        _ => None,
    }
}

/// The same of one over the root.
fn inverse_root_of(graph: &Graph, value: ValueId) -> Option<ValueId> {
    match single(graph, alone(graph, value)?)? {
        Single::Unary(Unary::Reciprocal, root) | Single::Left(Binary::Div, 1.0, root) => {
            root_of(graph, root)
        }
        Single::Right(Binary::Pow, x, -0.5) => alone(graph, x),
        _ => None,
    }
}

/// The value whose distance from its mean another is; nothing else reads the mean.
fn distance(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let found = single(graph, value)?;
    let Single::Binary(Binary::Sub, x, mean) = found else { return None };
    let only = graph.readers(mean).all(|n| single(graph, n.output) == Some(found))
        && graph.outputs().iter().all(|(_, v)| *v != mean);
    let same = graph.value(x).fact == graph.value(value).fact;
    (same && only && mean_of(graph, mean) == Some(x)).then_some(x)
}

/// What a value is the mean of, over the last axis.
fn mean_of(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let node = &graph.nodes()[graph.producer(value)?];
    let (Op::Reduce(Reduce { reduction: Reduction::Mean, axes }), &[x]) =
        (&node.op, node.inputs.as_slice())
    else {
        return None;
    };
    let last = graph.value(x).fact.shape.len().checked_sub(1)?;
    (*axes == [last]).then_some(x)
}

/// How often the node that gives a value reads another.
fn reads(graph: &Graph, value: ValueId, of: ValueId) -> usize {
    let node = graph.producer(value).map(|at| &graph.nodes()[at]);
    node.map_or(0, |node| node.inputs.iter().filter(|input| **input == of).count())
}
