//! An activation after a linear moves into the linear's epilogue.

use limbeck_graph::{Error, Graph, NodeId};
use limbeck_plan::{Linear, Op};

use super::plain_linear;

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = &graph.nodes()[at];
    let Op::Activate(params) = &node.op else { return Ok(false) };
    let activation = params.activation;
    let Some(linear) = plain_linear(graph, node.inputs[0]) else { return Ok(false) };
    let bias = linear.bias.is_some();
    let inputs = [linear.input, linear.weight].into_iter().chain(linear.bias).collect();
    let op = Op::Linear(Linear {
        bias,
        activation,
        gated: false,
        residual: false,
        factors: false,
        precise: false,
    });
    graph.replace(at, op, inputs)?;
    Ok(true)
}
