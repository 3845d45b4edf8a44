//! The overlay of the MiniLM student, an ACM for each MLP:
//!
//! - `layers.{i}.acm.w1 [H, K]`, `b1 [H]`, `w2 [H, M]` (a row per hidden unit), and
//!   `bk [learners + 1, M]`, an output bias for each choice;
//! - `layers.{i}.gate.weight [learners + 1, K]` and `gate.bias`: the logarithm of the relative error
//!   of each choice, so that its gain is `-exp(2 g)`.

use limbeck_graph::TensorExpr;
use limbeck_plan::{Activation, GateTransform};

use super::{Module, check_learners, gate, rows};
use crate::{Error, ErrorKind, TensorIndex};

/// The ACM that lies over the MLP `[T, width] -> [T, width]` of a layer, if one does.
pub(crate) fn overlaid_mlp(
    tensors: &TensorIndex,
    layer: usize,
    width: usize,
    activation: Activation,
) -> Result<Option<Module>, Error> {
    let at = |part: &str| format!("layers.{layer}.{part}");
    if !tensors.has(&at("acm.w1")) {
        return Ok(None);
    }
    let hidden = rows(tensors, &at("acm.w1"))?;
    let choices = rows(tensors, &at("acm.bk"))?;
    let gate = gate(tensors, &at("gate"), width)?;
    if let Some(found) = gate.last().map(|(w, _)| w.rows()).filter(|rows| *rows != choices) {
        let (name, bk) = (at("gate.weight"), at("acm.bk"));
        let message = format!("tensor {name:?} has {found} choices, {bk:?} has {choices}");
        return Err(Error::new(ErrorKind::Mismatch, message));
    }
    check_learners(&at("acm.w1"), hidden, choices - 1)?;
    let w2 = tensors.matrix(&at("acm.w2"), hidden, width)?;
    Ok(Some(Module {
        name: at("acm"),
        w1: tensors.matrix(&at("acm.w1"), hidden, width)?,
        b1: Some(tensors.vector(&at("acm.b1"), hidden)?),
        w2: TensorExpr::Transpose(Box::new(w2)),
        out_bias: Some(tensors.matrix(&at("acm.bk"), choices, width)?),
        gated: false,
        activation,
        gate,
        transform: GateTransform::NegExp2,
        learners: choices - 1,
        first: 0,
    }))
}
