//! Elementwise steps that compute an activation become it, in whatever form an exporter wrote it: they
//! are known by their values.

use limbeck_graph::{Error, Graph, NodeId};
use limbeck_kernels::{Elements, ElementsMut, TensorArg, TensorOut, reference};
use limbeck_plan::{Activate, Activation, DType, Map, MapStep, Op, Unary};

/// What is looked for.
const ACTIVATIONS: [Activation; 8] = [
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu6,
    Activation::HardSwish,
    Activation::Tanh,
];

pub(super) fn apply(graph: &mut Graph, at: NodeId) -> Result<bool, Error> {
    let node = &graph.nodes()[at];
    let (Op::Map(map), &[x]) = (&node.op, node.inputs.as_slice()) else { return Ok(false) };
    let fact = &graph.value(x).fact;
    if fact.dtype != DType::F32 || *fact != graph.value(node.output).fact {
        return Ok(false);
    }
    let points = points();
    let Some(found) = values(map, &points) else { return Ok(false) };
    let same = |activation: &Activation| {
        let steps = vec![MapStep::Input(0), MapStep::Unary(Unary::Activation(*activation), 0)];
        values(&Map { inputs: 1, steps }, &points).is_some_and(|wanted| {
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 2e-6 * b.abs().max(0.05);
            found.iter().zip(&wanted).all(near)
        })
    };
    let Some(activation) = ACTIVATIONS.into_iter().find(|activation| same(activation)) else {
        return Ok(false);
    };
    graph.replace(at, Op::Activate(Activate { activation }), vec![x])?;
    Ok(true)
}

/// Where functions are compared: closely where they bend, and far out.
fn points() -> Vec<f32> {
    let near = (-1600..=1600).map(|i| i as f32 / 133.0);
    let far = (0..24).flat_map(|i| {
        let size = 10f32.powi(i - 12);
        [-size, size]
    });
    near.chain(far).collect()
}

fn values(map: &Map, points: &[f32]) -> Option<Vec<f32>> {
    let shape = [points.len()];
    let mut out = vec![0.0; points.len()];
    let data = ElementsMut::F32(&mut out);
    let argument = TensorArg { shape: &shape, data: Elements::F32(points) };
    let op = Op::Map(map.clone());
    let target = TensorOut { shape: &shape, data };
    reference::tensor(&op, &|_| None, &[argument], target).ok().filter(|ran| *ran)?;
    Some(out)
}
