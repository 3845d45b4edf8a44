//! Which nodes of a model ONNX Runtime computes, as far as that is known before it is imported.

use std::collections::{BTreeMap, BTreeSet};

use super::cut::Chosen;
use super::node::Node;
use super::proto::{GraphProto, ModelProto, NodeProto};
use super::types::{self, Types};
use super::{MAX_DEPTH, ops, runtime_ops};
use crate::error::{At, Error, Result};
use crate::segments;

/// The nodes that ONNX Runtime computes since they have no native operator. A model with operators that
/// are not known at all is refused: all of them by name, with their nodes.
pub(super) fn without_native(model: &ModelProto, graph: &GraphProto, opset: i64) -> Result<Chosen> {
    let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut chosen = Chosen::new();
    for (at, proto) in graph.node.iter().enumerate() {
        let mut found = BTreeSet::new();
        collect(model, proto, opset, 0, &mut found, &mut unknown)
            .at(format_args!("node {:?} ({})", proto.name, proto.op_type))?;
        if !found.is_empty() {
            let found: Vec<String> = found.into_iter().collect();
            chosen.insert(at, format!("no native operator {}", found.join(", ")));
        }
    }
    if unknown.is_empty() {
        return Ok(chosen);
    }
    let listed: Vec<String> = unknown
        .into_iter()
        .map(|(operator, nodes)| {
            let more = nodes.len().saturating_sub(3);
            let named: Vec<String> = nodes.iter().take(3).map(|n| format!("{n:?}")).collect();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{operator} in {}{more}", named.join(", "))
        })
        .collect();
    let message = format!(
        "operators that are not supported, unless the ONNX Runtime that runs the plan has them, which --prefer onnx \
         leaves to it: {}",
        listed.join("; ")
    );
    Err(Error::unsupported(message))
}

/// The operators of a node and of graphs within it that are not native, and those that are not known.
fn collect(
    model: &ModelProto,
    proto: &NodeProto,
    opset: i64,
    depth: usize,
    found: &mut BTreeSet<String>,
    unknown: &mut BTreeMap<String, Vec<String>>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::format("graphs nest too deep"));
    }
    let node = Node { proto, opset };
    if ops::find(&node).is_none() {
        let (domain, kind) = (proto.domain.as_str(), proto.op_type.as_str());
        let is_function = model.functions.iter().any(|f| f.domain == domain && f.name == kind);
        if is_function || runtime_ops::has(domain, kind) {
            found.insert(node.operator());
        } else {
            unknown.entry(node.operator()).or_default().push(node.name().to_owned());
        }
    }
    for graph in node.graphs() {
        for inner in &graph.node {
            collect(model, inner, opset, depth + 1, found, unknown)?;
        }
    }
    Ok(())
}

/// Nodes whose results wrap at fewer bits than a plan's integers have.
pub(super) fn wrapping(graph: &GraphProto, types: &Types) -> Chosen {
    const OPERATORS: [&str; 7] = ["Add", "Sub", "Mul", "Neg", "Abs", "Sum", "Pow"];
    let nodes = graph.node.iter().enumerate();
    let found = nodes.filter(|(_, node)| {
        let narrow = node.input.first().is_some_and(|name| types::is_narrow(types.find(name)));
        narrow && node.domain.is_empty() && OPERATORS.contains(&node.op_type.as_str())
    });
    found.map(|(at, _)| (at, "integers of 8 or 16 bits wrap".to_owned())).collect()
}

/// The nodes that are asked for, by name.
pub(super) fn asked_for(graph: &GraphProto, patterns: &[String]) -> Result<Chosen> {
    let mut chosen = Chosen::new();
    for pattern in patterns {
        let mut found = false;
        for (at, proto) in graph.node.iter().enumerate() {
            if segments::matches(pattern, (Node { proto, opset: 0 }).name()) {
                chosen.insert(at, format!("--onnx-for {pattern}"));
                found = true;
            }
        }
        if !found {
            return Err(Error::missing(format!("--onnx-for {pattern}: no node is called so")));
        }
    }
    Ok(chosen)
}
