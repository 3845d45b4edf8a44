//! A linear of an encoder's normalised stream takes its channels equalised: a few of them are far larger
//! than the others, and all that share a scale with one lose by it.

use limbeck_graph::{Error, Graph, NodeId, TensorExpr};
use limbeck_plan::{Linear, NormKind, Op};

use crate::emit::decides;

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = &graph.nodes()[at];
    let (Op::Linear(linear), Some(&[x, weight])) = (&node.op, node.inputs.first_chunk::<2>())
    else {
        return Ok(false);
    };
    if decides(graph, node) {
        return Ok(false);
    }
    let Some((gain, bias)) = layer_norm(graph, x) else { return Ok(false) };
    let (false, Some(base)) = (linear.factors, graph.weight_expr(weight)) else { return Ok(false) };
    let part = |factors| TensorExpr::Equalised {
        base: Box::new(base.clone()),
        gain: Box::new(gain.clone()),
        bias: bias.clone().map(Box::new),
        factors,
    };
    let (weight, factors) = (part(false), part(true));
    let op = Op::Linear(Linear { factors: true, ..linear.clone() });
    let mut inputs = node.inputs.clone();
    inputs[1] = graph.weight(weight);
    inputs.push(graph.weight(factors));
    graph.replace(at, op, inputs)?;
    Ok(true)
}

/// Gain and bias of the layer norm whose result a value is.
fn layer_norm(graph: &Graph, value: usize) -> Option<(TensorExpr, Option<TensorExpr>)> {
    let node = &graph.nodes()[graph.producer(value)?];
    let Op::Norm(norm) = &node.op else { return None };
    let expr = |at: usize| node.inputs.get(at).and_then(|v| graph.weight_expr(*v)).cloned();
    let bias = if norm.bias { Some(expr(2)?) } else { None };
    (norm.kind == NormKind::Layer).then_some((expr(1)?, bias))
}
