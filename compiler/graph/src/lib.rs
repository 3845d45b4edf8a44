//! The typed graph between a checkpoint and a plan: values with facts, nodes with ops, weights as
//! expressions over the checkpoint's tensors.
//!
//! The ops and their shape rules are those of `limbeck-plan`, so that a graph that types here
//! becomes a plan that a reader accepts.
#![forbid(unsafe_code)]

mod cost;
mod graph;
mod weight;

pub use cost::macs;
pub use graph::{Error, Graph, Node, NodeId, Value, ValueId, ValueSource};
pub use limbeck_plan as plan;
pub use weight::{BatchNorm, TensorExpr};
