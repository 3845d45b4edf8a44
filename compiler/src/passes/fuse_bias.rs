//! A row that is added to the result of a linear, a convolution or a norm becomes its bias.

use limbeck_graph::{Error, Graph, NodeId, ValueId};
use limbeck_plan::{
    Activation, Binary, Conv2d, ConvTranspose2d, DepthwiseConv2d, Dim, Linear, Map, MapStep, Norm,
    Op,
};

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = &graph.nodes()[at];
    let (Op::Map(Map { steps, .. }), &[a, b]) = (&node.op, node.inputs.as_slice()) else {
        return Ok(false);
    };
    let [MapStep::Input(_), MapStep::Input(_), MapStep::Binary(Binary::Add, 0 | 1, 0 | 1)] =
        steps.as_slice()
    else {
        return Ok(false);
    };
    let shape = &graph.value(node.output).fact.shape;
    let found = [(a, b), (b, a)].into_iter().find_map(|(value, row)| {
        let producer = &graph.nodes()[graph.producer(value)?];
        let fits = graph.uses(value) == 1
            && graph.value(value).fact.shape == *shape
            && is_row(graph, row, shape.last()?);
        let op = with_bias(&producer.op).filter(|_| fits)?;
        Some((op, producer.inputs.clone(), graph.weight_expr(row)?.clone()))
    });
    let Some((op, mut inputs, row)) = found else { return Ok(false) };
    inputs.push(graph.weight(row));
    graph.replace(at, op, inputs)?;
    Ok(true)
}

/// Whether a weight has a value for each column, the same in all rows.
pub(super) fn is_row(graph: &Graph, value: ValueId, cols: &Dim) -> bool {
    let one_row = graph.weight_expr(value).is_some_and(|expr| expr.rows() == 1);
    match graph.value(value).fact.shape.split_last() {
        Some((last, rest)) => one_row && last == cols && rest.iter().all(|d| *d == Dim::Const(1)),
        None => false,
    }
}

/// The op with a bias, where it has none and nothing comes after it.
fn with_bias(op: &Op) -> Option<Op> {
    let plain = Activation::Identity;
    Some(match op {
        Op::Linear(p) if !p.bias && !p.residual && !p.gated && p.activation == plain => {
            Op::Linear(Linear { bias: true, ..p.clone() })
        }
        Op::Conv2d(p) if !p.bias && !p.residual && p.activation == plain => {
            Op::Conv2d(Conv2d { bias: true, ..p.clone() })
        }
        Op::DepthwiseConv2d(p) if !p.bias && p.activation == plain => {
            Op::DepthwiseConv2d(DepthwiseConv2d { bias: true, ..p.clone() })
        }
        Op::Norm(p) if !p.bias => Op::Norm(Norm { bias: true, ..p.clone() }),
        Op::ConvTranspose2d(p) if !p.bias => {
            Op::ConvTranspose2d(ConvTranspose2d { bias: true, ..p.clone() })
        }
        _ => return None,
    })
}
