//! Maps that do one thing, as exporters write formulas out.

use limbeck_graph::{Graph, NodeId, ValueId};
use limbeck_plan::{Binary, Map, MapStep, Op, Unary};

/// What a map does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Single {
    /// A function of a value.
    Unary(Unary, ValueId),
    /// A function of two values.
    Binary(Binary, ValueId, ValueId),
    /// A function of a value and a number.
    Right(Binary, ValueId, f32),
    /// A function of a number and a value.
    Left(Binary, f32, ValueId),
    /// A choice between a number and a value: condition, number, value, whether the number is for what holds.
    Fill(ValueId, f32, ValueId, bool),
}

/// The map that gives a value, if it does one thing.
pub(super) fn single(graph: &Graph, value: ValueId) -> Option<Single> {
    single_at(graph, graph.producer(value)?)
}

/// The same of a node.
pub(super) fn single_at(graph: &Graph, at: NodeId) -> Option<Single> {
    let node = &graph.nodes()[at];
    let (steps, inputs) = match &node.op {
        Op::Map(Map { steps, .. }) => (steps.as_slice(), &node.inputs),
        Op::Add(_) => {
            let [a, b] = node.inputs[..] else { return None };
            return Some(Single::Binary(Binary::Add, a, b));
        }
        _ => return None,
    };
    let value = |step: usize| match steps.get(step)? {
        MapStep::Input(index) => inputs.get(*index).copied(),
        _ => None,
    };
    let number = |step: usize| match steps.get(step)? {
        MapStep::Float(v) => Some(*v),
        _ => None,
    };
    let leaves = |steps: &[MapStep]| {
        steps.iter().all(|step| matches!(step, MapStep::Input(_) | MapStep::Float(_)))
    };
    let (last, before) = steps.split_last()?;
    if !leaves(before) {
        return None;
    }
    match *last {
        MapStep::Unary(f, a) => Some(Single::Unary(f, value(a)?)),
        MapStep::Binary(f, a, b) => match (value(a), value(b)) {
            (Some(a), Some(b)) => Some(Single::Binary(f, a, b)),
            (Some(a), None) => Some(Single::Right(f, a, number(b)?)),
            (None, Some(b)) => Some(Single::Left(f, number(a)?, b)),
            (None, None) => None,
        },
        MapStep::Select(c, a, b) => match (value(a), value(b)) {
            (None, Some(b)) => Some(Single::Fill(value(c)?, number(a)?, b, true)),
            (Some(a), None) => Some(Single::Fill(value(c)?, number(b)?, a, false)),
            _ => None,
        },
        _ => None,
    }
}

/// A value that another is multiplied with a number, and the number.
pub(super) fn scaled(graph: &Graph, value: ValueId) -> Option<(ValueId, f32)> {
    match single(graph, value)? {
        Single::Right(Binary::Mul, x, by) | Single::Left(Binary::Mul, by, x) => Some((x, by)),
        Single::Right(Binary::Div, x, by) => Some((x, 1.0 / by)),
        _ => None,
    }
    .filter(|(_, by)| by.is_finite())
}

/// A value that is read once.
pub(super) fn alone(graph: &Graph, value: ValueId) -> Option<ValueId> {
    (graph.uses(value) == 1).then_some(value)
}
