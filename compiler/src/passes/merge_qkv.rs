//! The three projections before an attention become one linear, whose rows are those of the query,
//! key and value weights in turn.

use limbeck_graph::{Error, Graph, NodeId, TensorExpr};
use limbeck_plan::{Activation, Attention, Linear, Op};

use super::plain_linear;

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = graph.nodes()[at].clone();
    let Op::Attention(attention) = &node.op else { return Ok(false) };
    if attention.fused {
        return Ok(false);
    }
    let found: Option<Vec<_>> = node.inputs[..3].iter().map(|&v| plain_linear(graph, v)).collect();
    let Some(parts) = found else { return Ok(false) };
    let bias = parts[0].bias.is_some();
    if parts.iter().any(|p| p.input != parts[0].input || p.bias.is_some() != bias) {
        return Ok(false);
    }
    let exprs = |values: Vec<usize>| -> Option<Vec<TensorExpr>> {
        values.into_iter().map(|v| graph.weight_expr(v).cloned()).collect()
    };
    let Some(weights) = exprs(parts.iter().map(|p| p.weight).collect()) else { return Ok(false) };
    let Some(biases) = exprs(parts.iter().filter_map(|p| p.bias).collect()) else {
        return Ok(false);
    };
    let weight = TensorExpr::ConcatRows(weights);
    // Parts that are stored differently stay apart, so that each can be kept as it is stored.
    if weight.storage().is_none() {
        return Ok(false);
    }
    let mut inputs = vec![parts[0].input, graph.weight(weight)];
    if bias {
        inputs.push(graph.weight(TensorExpr::ConcatCols(biases)));
    }
    let linear = Op::Linear(Linear {
        bias,
        activation: Activation::Identity,
        gated: false,
        residual: false,
        factors: false,
        precise: false,
    });
    let qkv = graph.insert(at, &format!("{}.qkv", node.name), linear, &inputs)?;
    let op = Op::Attention(Attention { fused: true, ..attention.clone() });
    let inputs = std::iter::once(qkv).chain(node.inputs[3..].iter().copied()).collect();
    graph.replace(at + 1, op, inputs)?;
    Ok(true)
}
