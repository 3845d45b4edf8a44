//! An activation after a convolution, and the sum that went into it before, moves into the
//! convolution's epilogue; one after a group norm into that.

use limbeck_graph::{Error, Graph, NodeId};
use limbeck_plan::{Activation, Conv2d, DepthwiseConv2d, GroupNorm, Op};

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = &graph.nodes()[at];
    let (Op::Activate(params), &[value]) = (&node.op, node.inputs.as_slice()) else {
        return Ok(false);
    };
    let activation = params.activation;
    let Some(producer) = graph.producer(value).filter(|_| graph.uses(value) == 1) else {
        return Ok(false);
    };
    let producer = &graph.nodes()[producer];
    let op = match &producer.op {
        Op::Conv2d(p) if p.activation == Activation::Identity => {
            Op::Conv2d(Conv2d { activation, ..p.clone() })
        }
        Op::DepthwiseConv2d(p) if p.activation == Activation::Identity => {
            Op::DepthwiseConv2d(DepthwiseConv2d { activation, ..p.clone() })
        }
        Op::GroupNorm(p) if p.activation == Activation::Identity => {
            Op::GroupNorm(GroupNorm { activation, ..p.clone() })
        }
        _ => return Ok(false),
    };
    let inputs = producer.inputs.clone();
    graph.replace(at, op, inputs)?;
    Ok(true)
}
