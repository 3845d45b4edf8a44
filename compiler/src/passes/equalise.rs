//! A linear of an encoder's normalised stream takes its channels equalised: a few of them are far larger
//! than the others, and all that share a scale with one lose by it.

use limbeck_graph::{Error, Graph, Node, NodeId, TensorExpr};
use limbeck_plan::{Linear, NormKind, Op};

use crate::emit::decides;

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = &graph.nodes()[at];
    let (Op::Linear(linear), Some(&[x, weight])) = (&node.op, node.inputs.first_chunk::<2>())
    else {
        return Ok(false);
    };
    if linear.factors || decides(graph, node) || !is_layer_norm(graph, x) {
        return Ok(false);
    }
    let Some(base) = graph.weight_expr(weight).cloned() else { return Ok(false) };
    let by = values(graph, node, &base).unwrap_or_else(|| base.clone());
    let part = |factors| TensorExpr::Equalised {
        base: Box::new(base.clone()),
        by: Box::new(by.clone()),
        factors,
    };
    let op = Op::Linear(Linear { factors: true, ..linear.clone() });
    let mut inputs = node.inputs.clone();
    inputs[1] = graph.weight(part(false));
    inputs.push(graph.weight(part(true)));
    graph.replace(at, op, inputs)?;
    Ok(true)
}

fn is_layer_norm(graph: &Graph, value: usize) -> bool {
    let producer = graph.producer(value).map(|at| &graph.nodes()[at].op);
    matches!(producer, Some(Op::Norm(norm)) if norm.kind == NormKind::Layer)
}

/// Of a projection to queries, keys and values, the rows for values: what they lose is added to the
/// stream, while that of the others only moves attention a little.
fn values(graph: &Graph, node: &Node, base: &TensorExpr) -> Option<TensorExpr> {
    let count = graph.readers(node.output).find_map(|reader| match &reader.op {
        Op::Attention(p) if p.fused => Some(p.kv_heads * p.head_dim),
        _ => None,
    })?;
    let first = base.rows().checked_sub(count)?;
    Some(TensorExpr::Rows { base: Box::new(base.clone()), first, count })
}
