//! Passes: small rewrites that make a graph cheaper to run and leave its results as they are.
//!
//! A pass looks at one node and its surroundings. It says whether it rewrote anything; what a
//! rewrite leaves unused is pruned afterwards.

mod equalise;
mod fold_gates;
mod fuse_activation;
mod fuse_attention;
mod fuse_bias;
mod fuse_conv;
mod fuse_maps;
mod fuse_norm;
mod fuse_residual;
mod merge_gate_up;
mod merge_qkv;
mod name_maps;
mod single;

use limbeck_graph::{Graph, NodeId, ValueId};
use limbeck_plan::{Activation, Linear, Op};

use crate::error::{Error, Result};

/// A rewrite.
pub struct Pass {
    /// Name, for reports and tests.
    pub name: &'static str,
    /// Tries to rewrite at a node; whether it did.
    apply: fn(&mut Graph, NodeId) -> Result<bool, limbeck_graph::Error>,
}

/// All passes, in the order in which they run.
pub const PASSES: &[Pass] = &[
    Pass { name: "merge-qkv", apply: merge_qkv::apply },
    Pass { name: "merge-gate-up", apply: merge_gate_up::apply },
    Pass { name: "fuse-attention", apply: fuse_attention::apply },
    Pass { name: "fuse-norm", apply: fuse_norm::apply },
    Pass { name: "fuse-bias", apply: fuse_bias::apply },
    Pass { name: "fuse-activation", apply: fuse_activation::apply },
    Pass { name: "fuse-residual", apply: fuse_residual::apply },
    Pass { name: "fuse-conv", apply: fuse_conv::apply },
    Pass { name: "fuse-maps", apply: fuse_maps::apply },
    Pass { name: "name-maps", apply: name_maps::apply },
    // Of what was a few steps before.
    Pass { name: "fuse-named-activation", apply: fuse_activation::apply },
    Pass { name: "fuse-named-conv", apply: fuse_conv::apply },
];

/// Makes gates of several linears one; it may change choices that are nearly ties.
pub const FOLD_GATES: Pass = Pass { name: "fold-gates", apply: fold_gates::apply };

/// Equalises the channels that linears of encoders take, for weights of 8 bits.
pub const EQUALISE: Pass = Pass { name: "equalise", apply: equalise::apply };

impl Pass {
    /// Applies the pass wherever it matches; gives the number of rewrites.
    ///
    /// # Errors
    /// A rewrite that does not type, which is a defect of the pass.
    pub fn run(&self, graph: &mut Graph) -> Result<usize> {
        let mut rewrites = 0;
        let mut at = 0;
        while at < graph.nodes().len() {
            let before = graph.nodes().len();
            let applied = (self.apply)(graph, at).map_err(|e| {
                Error::mismatch(e.to_string()).at(format_args!("pass {}", self.name))
            })?;
            rewrites += usize::from(applied);
            at += 1 + graph.nodes().len() - before;
        }
        graph.prune();
        Ok(rewrites)
    }
}

/// Runs all passes once.
///
/// # Errors
/// As [`Pass::run`].
pub fn run_all(graph: &mut Graph) -> Result<()> {
    PASSES.iter().try_for_each(|pass| pass.run(graph).map(|_| ()))
}

/// A linear without epilogue that only one node reads.
struct PlainLinear {
    input: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
}

/// The plain linear that writes `value`, if that is what it is and nothing else reads it.
fn plain_linear(graph: &Graph, value: ValueId) -> Option<PlainLinear> {
    let node = &graph.nodes()[graph.producer(value)?];
    match &node.op {
        Op::Linear(Linear {
            bias,
            activation: Activation::Identity,
            gated: false,
            residual: false,
            factors: false,
            precise: false,
        }) if graph.uses(value) == 1 => Some(PlainLinear {
            input: *node.inputs.first()?,
            weight: *node.inputs.get(1)?,
            bias: if *bias { node.inputs.get(2).copied() } else { None },
        }),
        _ => None,
    }
}
