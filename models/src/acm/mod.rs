//! Adaptive Computation Modules (arXiv 2312.10193): nested learners in the place of an MLP or of a
//! projection, and the gate that says how many of them a token uses.
//!
//! A [`Module`] is one of them as expressions over the checkpoint's tensors. Three layouts give
//! one: Limbeck's own (`layout.rs`, any module of BERT and of the decoders), the overlay of the
//! MiniLM student (`overlay.rs`), and that of the released code (`released.rs`, vision
//! transformers).

mod layout;
mod overlay;
mod released;

use limbeck_graph::{Graph, TensorExpr, ValueId};
use limbeck_plan::{
    Activation, AdaptiveMlp, Choose, GATE_GROUP, GateTransform, Op, QUANT_BLOCK, Site, SiteKind,
};

use crate::decoder::plain_linear;
use crate::{Error, ErrorKind, TensorIndex};

pub(crate) use layout::{Role, Settings};
pub(crate) use overlay::overlaid_mlp;
pub(crate) use released::Released;

/// Most linears of a gate.
const MAX_DEPTH: usize = 16;

/// A linear's weight `[rows, cols]` and bias `[rows]`.
type Affine = (TensorExpr, TensorExpr);

/// One module, `[T, K] -> [T, M]`, of `H` hidden units.
pub(crate) struct Module {
    /// Of the site and its nodes.
    pub name: String,
    /// `[H, K]`, or `[2 H, K]` interleaved when `gated`.
    pub w1: TensorExpr,
    /// As many as `w1` has rows.
    pub b1: Option<TensorExpr>,
    /// `[M, H]`.
    pub w2: TensorExpr,
    /// `[learners + 1, M]`.
    pub out_bias: Option<TensorExpr>,
    /// Whether the hidden units are `act(gate) * up`.
    pub gated: bool,
    /// Of the hidden units.
    pub activation: Activation,
    /// The gate's linears, the first on the module's own input; at least one.
    pub gate: Vec<Affine>,
    /// What the gate's outputs mean.
    pub transform: GateTransform,
    /// Learners of `H / learners` units.
    pub learners: usize,
    /// The smallest choice.
    pub first: usize,
}

impl Module {
    /// Adds the module on `x [T, K]` to a graph: `[T, M]`.
    pub fn place(self, graph: &mut Graph, x: ValueId) -> Result<ValueId, Error> {
        let learners = self.learners;
        let costs = (self.first..=learners).map(|k| k as f64 / learners.max(1) as f64);
        let site = graph.site(Site {
            name: self.name.clone(),
            kind: SiteKind::Acm,
            first: self.first,
            costs: costs.collect(),
            weight: 1.0,
        });
        let choice = self.choose(graph, x, site)?;
        let mut inputs = vec![x, choice, graph.weight(self.w1)];
        let (bias, out_bias) = (self.b1.is_some(), self.out_bias.is_some());
        for expr in self.b1.into_iter().chain([self.w2]).chain(self.out_bias) {
            inputs.push(graph.weight(expr));
        }
        let op = Op::AdaptiveMlp(AdaptiveMlp {
            learners,
            activation: self.activation,
            gated: self.gated,
            bias,
            out_bias,
            residual: false,
        });
        Ok(graph.node(&self.name, op, &inputs)?)
    }

    /// The gate: all but its last linear as they are, so that they round as they were trained.
    fn choose(&self, graph: &mut Graph, x: ValueId, site: usize) -> Result<ValueId, Error> {
        let (mut x, last) = (x, self.gate.len().saturating_sub(1));
        for (i, (weight, bias)) in self.gate.iter().enumerate() {
            let inputs = [x, graph.weight(weight.clone()), graph.weight(bias.clone())];
            let (op, name) = match i == last {
                true => {
                    let (transform, first) = (self.transform, self.first);
                    let op = Op::Choose(Choose { site, transform, first });
                    (op, format!("{}.gate", self.name))
                }
                false => (plain_linear(true), format!("{}.gate.{i}", self.name)),
            };
            x = graph.node(&name, op, &inputs)?;
        }
        Ok(x)
    }
}

/// The linears `{prefix}.{0, 1, ...}`, or the one that is `{prefix}` itself, on `width` inputs.
/// Each takes what the one before gives; the last gives one gain for each choice.
fn gate(tensors: &TensorIndex, prefix: &str, width: usize) -> Result<Vec<Affine>, Error> {
    let numbered = |i: usize| format!("{prefix}.{i}");
    let one = tensors.has(&format!("{prefix}.weight")) || !tensors.has(&weight_of(&numbered(0)));
    let mut names = vec![if one { prefix.to_owned() } else { numbered(0) }];
    if !one {
        names.extend((1..).map(numbered).take_while(|name| tensors.has(&weight_of(name))));
    }
    if names.len() > MAX_DEPTH {
        let message = format!("gate {prefix:?} has {} layers, more than {MAX_DEPTH}", names.len());
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let mut layers: Vec<Affine> = Vec::with_capacity(names.len());
    for name in names {
        let cols = layers.last().map_or(width, |(weight, _)| weight.rows());
        let rows = rows(tensors, &weight_of(&name))?;
        let weight = tensors.matrix(&weight_of(&name), rows, cols)?;
        layers.push((weight, tensors.vector(&format!("{name}.bias"), rows)?));
    }
    Ok(layers)
}

fn weight_of(name: &str) -> String {
    format!("{name}.weight")
}

/// Rows of a matrix that must be there.
fn rows(tensors: &TensorIndex, name: &str) -> Result<usize, Error> {
    match tensors.shape(name) {
        Some(&[rows, _]) if rows > 0 => Ok(rows),
        Some(shape) => {
            let message = format!("tensor {name:?} has shape {shape:?}, which is no matrix");
            Err(Error::new(ErrorKind::Mismatch, message))
        }
        None => Err(Error::new(ErrorKind::Missing, format!("tensor {name:?} is missing"))),
    }
}

/// Checks that hidden units divide into learners; `name` is the tensor that has them.
fn check_learners(name: &str, hidden: usize, learners: usize) -> Result<(), Error> {
    let fail = |message: String| Err(Error::new(ErrorKind::Mismatch, message));
    if learners == 0 {
        return fail(format!(
            "the module of tensor {name:?} has no learner: its gate has one choice"
        ));
    }
    if !hidden.is_multiple_of(learners.saturating_mul(QUANT_BLOCK)) {
        return fail(format!(
            "tensor {name:?} has {hidden} hidden units, which are not {learners} learners of a \
             multiple of {QUANT_BLOCK}"
        ));
    }
    Ok(())
}

/// Gate and up rows as a gated linear reads them.
fn interleave_rows(gate: TensorExpr, up: TensorExpr) -> TensorExpr {
    TensorExpr::InterleaveRows { first: Box::new(gate), second: Box::new(up), group: GATE_GROUP }
}

/// The same for their biases.
fn interleave_cols(gate: TensorExpr, up: TensorExpr) -> TensorExpr {
    TensorExpr::InterleaveCols { first: Box::new(gate), second: Box::new(up), group: GATE_GROUP }
}
