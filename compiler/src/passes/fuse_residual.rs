//! The sum of another value and the result of a linear, an adaptive MLP, a mixture of experts, a
//! weighted sum or a convolution moves into that op.

use limbeck_graph::{Error, Graph, NodeId};
use limbeck_plan::{Activation, AdaptiveMlp, Conv2d, Linear, Mix, MoeMlp, Op};

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = &graph.nodes()[at];
    let (Op::Add(_), &[a, b]) = (&node.op, node.inputs.as_slice()) else { return Ok(false) };
    let Some((op, mut inputs, residual)) =
        [(a, b), (b, a)].into_iter().find_map(|(value, other)| {
            let producer = &graph.nodes()[graph.producer(value)?];
            let op = match &producer.op {
                Op::Linear(p) if !p.residual && !p.factors => {
                    Op::Linear(Linear { residual: true, ..p.clone() })
                }
                Op::AdaptiveMlp(p) if !p.residual => {
                    Op::AdaptiveMlp(AdaptiveMlp { residual: true, ..p.clone() })
                }
                Op::MoeMlp(p) if !p.residual => Op::MoeMlp(MoeMlp { residual: true, ..p.clone() }),
                Op::Mix(p) if !p.residual => Op::Mix(Mix { residual: true, ..p.clone() }),
                // Its activation comes after the sum.
                Op::Conv2d(p) if !p.residual && p.activation == Activation::Identity => {
                    Op::Conv2d(Conv2d { residual: true, ..p.clone() })
                }
                _ => return None,
            };
            (graph.uses(value) == 1).then(|| (op, producer.inputs.clone(), other))
        })
    else {
        return Ok(false);
    };
    inputs.push(residual);
    graph.replace(at, op, inputs)?;
    Ok(true)
}
