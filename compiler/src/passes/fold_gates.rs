//! The linears of a gate become one, which the choice then makes of the gate's own input. It rounds
//! otherwise than they do, so that a choice between two that are nearly as good may change.

use limbeck_graph::{Error, Graph, NodeId, TensorExpr};
use limbeck_plan::Op;

use super::plain_linear;

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = graph.nodes()[at].clone();
    let (Op::Choose(_), &[x, weight, bias]) = (&node.op, node.inputs.as_slice()) else {
        return Ok(false);
    };
    let pair = |graph: &Graph, weight, bias| {
        Some((graph.weight_expr(weight)?.clone(), graph.weight_expr(bias)?.clone()))
    };
    let (mut input, mut layers) = (x, Vec::new());
    while let Some(linear) = plain_linear(graph, input)
        && let Some(layer) = linear.bias.and_then(|bias| pair(graph, linear.weight, bias))
    {
        layers.push(layer);
        input = linear.input;
    }
    if layers.is_empty() {
        return Ok(false);
    }
    layers.reverse();
    let Some(last) = pair(graph, weight, bias) else { return Ok(false) };
    layers.push(last);
    let folded = |bias| TensorExpr::Folded { layers: layers.clone(), bias };
    let inputs = vec![input, graph.weight(folded(false)), graph.weight(folded(true))];
    graph.replace(at, node.op, inputs)?;
    Ok(true)
}
