//! The sum of a linear's result and another value moves into the linear's epilogue.

use limbeck_graph::{Error, Graph, NodeId};
use limbeck_plan::{Linear, Op};

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = &graph.nodes()[at];
    let (Op::Add(_), &[a, b]) = (&node.op, node.inputs.as_slice()) else { return Ok(false) };
    let Some((linear, residual)) = [(a, b), (b, a)].into_iter().find_map(|(value, other)| {
        let producer = &graph.nodes()[graph.producer(value)?];
        let Op::Linear(p) = &producer.op else { return None };
        let fits = !p.residual && graph.uses(value) == 1;
        fits.then(|| ((p.clone(), producer.inputs.clone()), other))
    }) else {
        return Ok(false);
    };
    let (params, mut inputs) = linear;
    inputs.push(residual);
    graph.replace(at, Op::Linear(Linear { residual: true, ..params }), inputs)?;
    Ok(true)
}
