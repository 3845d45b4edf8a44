//! Attention that is written out, scores, their softmax and what they weigh, becomes one op. Its heads have
//! been turned to axes of their own before; transpositions of keys have become a form of the product.

use limbeck_graph::{Error, Graph, NodeId, ValueId};
use limbeck_plan::{Attend, Binary, Fact, Map, MapStep, MatMul, Op, Softmax, Unary};

use super::single::{Single, alone, scaled, single};

/// Transpositions and reshapes of a head that may follow its scale.
const MOVES: usize = 4;
/// What fills masked scores is at most this: beside it no score counts.
const MASKED: f32 = -1e30;

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let Some(found) = Written::find(graph, at) else { return Ok(false) };
    let name = graph.nodes()[at].name.clone();
    let mut at = at;
    // Each goes before the product, which moves on by one.
    let mut insert = |graph: &mut Graph, op: Op, inputs: &[ValueId]| {
        at += 1;
        graph.insert(at - 1, &name, op, inputs)
    };
    let mut inputs = Vec::new();
    for Operand { mut value, moves } in [found.q, found.k] {
        for op in moves {
            value = insert(graph, op, &[value])?;
        }
        inputs.push(value);
    }
    inputs.push(found.v);
    match found.mask {
        Mask::None => {}
        Mask::Added(mask) => inputs.push(mask),
        Mask::Filled { condition, number, holds } => {
            let (a, b) = if holds { (1, 2) } else { (2, 1) };
            let steps = vec![
                MapStep::Input(0),
                MapStep::Float(number),
                MapStep::Float(0.0),
                MapStep::Select(0, a, b),
            ];
            inputs.push(insert(graph, Op::Map(Map { inputs: 1, steps }), &[condition])?);
        }
    }
    let op = Op::Attend(Attend {
        scale: found.scale,
        mask: inputs.len() > 3,
        keys_turned: found.keys_turned,
        values_turned: found.values_turned,
        zero_nan: found.zero_nan,
    });
    // Sizes that are different expressions may come together otherwise than in the products.
    let facts: Vec<Fact> = inputs.iter().map(|id| graph.value(*id).fact.clone()).collect();
    let output = &graph.value(graph.nodes()[at].output).fact;
    if !op.infer(&facts).is_ok_and(|found| found.first() == Some(output)) {
        return Ok(false);
    }
    graph.replace(at, op, inputs)?;
    Ok(true)
}

/// What is added to scores.
enum Mask {
    None,
    Added(ValueId),
    /// A number where a condition holds, or where it does not, and else nothing.
    Filled {
        condition: ValueId,
        number: f32,
        holds: bool,
    },
}

/// A value, and what moves its elements then.
struct Operand {
    value: ValueId,
    moves: Vec<Op>,
}

/// Attention over four nodes or more.
struct Written {
    q: Operand,
    k: Operand,
    keys_turned: bool,
    values_turned: bool,
    v: ValueId,
    scale: f32,
    mask: Mask,
    zero_nan: bool,
}

impl Written {
    /// The attention whose last product is a node.
    fn find(graph: &Graph, at: NodeId) -> Option<Written> {
        let (mixing, &[weights, v]) = product(graph, at)? else { return None };
        if mixing.scale != 1.0 {
            return None;
        }
        let (weights, zero_nan) = match numbers(graph, weights) {
            Some(weights) => (weights, true),
            None => (alone(graph, weights)?, false),
        };
        let softmax = &graph.nodes()[graph.producer(weights)?];
        let (Op::Softmax(Softmax { log: false }), &[scores]) =
            (&softmax.op, softmax.inputs.as_slice())
        else {
            return None;
        };
        let fact = graph.value(scores).fact.clone();
        let (scores, mask) = masked(graph, alone(graph, scores)?, &fact)?;
        let (scores, by) = match scaled(graph, scores) {
            Some((scores, by)) => (alone(graph, scores)?, by),
            None => (scores, 1.0),
        };
        let (scoring, &[q, k]) = product(graph, graph.producer(scores)?)? else { return None };
        let mut written = Written {
            q: Operand { value: q, moves: Vec::new() },
            k: Operand { value: k, moves: Vec::new() },
            keys_turned: !scoring.transposed,
            values_turned: mixing.transposed,
            v,
            scale: scoring.scale * by,
            mask,
            zero_nan,
        };
        // Scores have the shape of the product, and no mask repeats them.
        let whole = graph.value(scores).fact == fact;
        for operand in [&mut written.q, &mut written.k] {
            if let Some((unscaled, by)) = unscaled(graph, operand.value) {
                (*operand, written.scale) = (unscaled, written.scale * by);
            }
        }
        Some(written).filter(|w| whole && w.scale.is_finite())
    }
}

/// The operand that a value is times a number, also where its elements are moved after that, and the number.
fn unscaled(graph: &Graph, value: ValueId) -> Option<(Operand, f32)> {
    let (mut at, mut moves) = (alone(graph, value)?, Vec::new());
    while moves.len() <= MOVES {
        if let Some((value, by)) = scaled(graph, at)
            && graph.value(value).fact == graph.value(at).fact
        {
            moves.reverse();
            return Some((Operand { value, moves }, by));
        }
        let node = &graph.nodes()[graph.producer(at)?];
        let (Op::Transpose(_) | Op::Reshape(_), &[x]) = (&node.op, node.inputs.as_slice()) else {
            return None;
        };
        moves.push(node.op.clone());
        at = alone(graph, x)?;
    }
    None
}

fn product(graph: &Graph, at: NodeId) -> Option<(&MatMul, &[ValueId])> {
    match &graph.nodes()[at] {
        node if node.others.is_empty() => match &node.op {
            Op::MatMul(p) => Some((p, &node.inputs)),
            _ => None,
        },
        _ => None,
    }
}

/// The weights of which those that are NaN are taken for 0.
fn numbers(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let Single::Fill(condition, 0.0, weights, true) = single(graph, alone(graph, value)?)? else {
        return None;
    };
    let is_nan = single(graph, alone(graph, condition)?)? == Single::Unary(Unary::IsNan, weights);
    (is_nan && graph.uses(weights) == 2).then_some(weights)
}

/// Scores of these sizes before they are masked, and the mask.
fn masked(graph: &Graph, scores: ValueId, fact: &Fact) -> Option<(ValueId, Mask)> {
    let same = |value: ValueId| graph.value(value).fact == *fact && graph.uses(value) == 1;
    let is_product = |value: ValueId| {
        let value = scaled(graph, value).map_or(value, |(value, _)| value);
        graph.producer(value).is_some_and(|at| matches!(graph.nodes()[at].op, Op::MatMul(_)))
    };
    match single(graph, scores) {
        Some(Single::Binary(Binary::Add, a, b)) => {
            let (scores, mask) =
                [(a, b), (b, a)].into_iter().find(|(x, _)| same(*x) && is_product(*x))?;
            Some((scores, Mask::Added(mask)))
        }
        Some(Single::Fill(condition, number, scores, holds)) if number <= MASKED => {
            same(scores).then_some((scores, Mask::Filled { condition, number, holds }))
        }
        _ => Some((scores, Mask::None)),
    }
}
