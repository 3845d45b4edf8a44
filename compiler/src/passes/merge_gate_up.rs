//! The gate and up projections of a gated MLP and their product become one gated linear.

use limbeck_graph::{Error, Graph, NodeId, TensorExpr};
use limbeck_plan::{GATE_GROUP, Linear, Op};

use super::plain_linear;

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = &graph.nodes()[at];
    let Op::Gate(params) = &node.op else { return Ok(false) };
    let activation = params.activation;
    let [gate, up] = node.inputs[..] else { return Ok(false) };
    let (Some(gate), Some(up)) = (plain_linear(graph, gate), plain_linear(graph, up)) else {
        return Ok(false);
    };
    if gate.input != up.input || gate.bias.is_some() != up.bias.is_some() {
        return Ok(false);
    }
    let pair = |a, b| Some((graph.weight_expr(a)?.clone(), graph.weight_expr(b)?.clone()));
    let Some((first, second)) = pair(gate.weight, up.weight) else { return Ok(false) };
    if !first.rows().is_multiple_of(GATE_GROUP) || first.storage() != second.storage() {
        return Ok(false);
    }
    let biases = gate.bias.zip(up.bias).and_then(|(a, b)| pair(a, b));
    let weight = TensorExpr::InterleaveRows {
        first: Box::new(first),
        second: Box::new(second),
        group: GATE_GROUP,
    };
    let mut inputs = vec![gate.input, graph.weight(weight)];
    let bias = biases.is_some();
    if let Some((first, second)) = biases {
        inputs.push(graph.weight(TensorExpr::InterleaveCols {
            first: Box::new(first),
            second: Box::new(second),
            group: GATE_GROUP,
        }));
    }
    let op = Op::Linear(Linear {
        bias,
        activation,
        gated: true,
        residual: false,
        factors: false,
        precise: false,
    });
    graph.replace(at, op, inputs)?;
    Ok(true)
}
