//! Adaptive Computation Modules (arXiv 2312.10193) in the place of a layer's MLP, from tensors that
//! lie over a checkpoint:
//!
//! - `layers.{i}.acm.w1 [H, K]`, `b1 [H]`, `w2 [H, M]` (a row per hidden unit), and
//!   `bk [learners + 1, M]`, an output bias for each choice;
//! - `layers.{i}.gate.weight [learners + 1, K]` and `gate.bias`: the logarithm of the relative error
//!   of each choice, so that its gain is `-exp(2 g)`.

use limbeck_graph::{Graph, TensorExpr, ValueId};
use limbeck_plan::{Activation, AdaptiveMlp, Choose, GateTransform, Op, Site, SiteKind};

use crate::{Error, ErrorKind, TensorIndex};

/// Whether a layer's MLP is an ACM.
pub(crate) fn present(tensors: &TensorIndex, layer: usize) -> bool {
    tensors.has(&format!("layers.{layer}.acm.w1"))
}

/// The ACM of a layer on `x [T, width]`: `[T, width]`.
pub(crate) fn build(
    graph: &mut Graph,
    tensors: &TensorIndex,
    layer: usize,
    x: ValueId,
    width: usize,
    activation: Activation,
) -> Result<ValueId, Error> {
    let at = |part: &str| format!("layers.{layer}.{part}");
    let rows = |name: &str| match tensors.shape(name) {
        Some(&[rows, _]) if rows > 0 => Ok(rows),
        Some(shape) => {
            let message = format!("tensor {name:?} has shape {shape:?}, which is no matrix");
            Err(Error::new(ErrorKind::Mismatch, message))
        }
        None => Err(Error::new(ErrorKind::Missing, format!("tensor {name:?} is missing"))),
    };
    let hidden = rows(&at("acm.w1"))?;
    let choices = rows(&at("acm.bk"))?;
    let learners = choices - 1;
    let costs = (0..choices).map(|k| k as f64 / learners.max(1) as f64);
    let name = at("acm");
    let kind = SiteKind::Acm;
    let site = Site { name: name.clone(), kind, first: 0, costs: costs.collect(), weight: 1.0 };
    let site = graph.site(site);
    let gate = tensors.matrix(&at("gate.weight"), choices, width)?;
    let bias = tensors.vector(&at("gate.bias"), choices)?;
    let inputs = [x, graph.weight(gate), graph.weight(bias)];
    let choose = Op::Choose(Choose { site, transform: GateTransform::NegExp2, first: 0 });
    let choice = graph.node(&at("gate"), choose, &inputs)?;
    let w2 = tensors.matrix(&at("acm.w2"), hidden, width)?;
    let weights = [
        tensors.matrix(&at("acm.w1"), hidden, width)?,
        tensors.vector(&at("acm.b1"), hidden)?,
        TensorExpr::Transpose(Box::new(w2)),
        tensors.matrix(&at("acm.bk"), choices, width)?,
    ];
    let weights = weights.map(|expr| graph.weight(expr));
    let inputs: Vec<ValueId> = [x, choice].into_iter().chain(weights).collect();
    let op = Op::AdaptiveMlp(AdaptiveMlp {
        learners,
        activation,
        gated: false,
        bias: true,
        out_bias: true,
        residual: false,
    });
    Ok(graph.node(&name, op, &inputs)?)
}
