//! Which nodes ONNX Runtime computes, and the models of the segments that they form.
//!
//! Nodes are put in stages: what is chosen for ONNX Runtime has even ones, what stays native odd ones, and
//! none comes before what it reads. The nodes of an even stage are a segment. A native node's weights are
//! packed; those of a segment lie row after row, where its model's initialisers look.

mod native;
mod part;
mod report;

use std::collections::{BTreeMap, HashMap, HashSet};

use limbeck_graph::{Graph, NodeId};
use limbeck_plan::{InputRole, Op};

use crate::emit::decides;
use crate::error::{Error, Result};
use crate::onnx::lower::refusal;

pub(crate) use native::lower;
pub use part::Part;
pub(crate) use part::place;
pub use report::{Reason, SegmentReport, summary};

/// Who computes what has a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// Native kernels; ONNX Runtime has what they have not.
    #[default]
    Native,
    /// ONNX Runtime, all that can be written as nodes of ONNX.
    Onnx,
}

/// The nodes of a graph for ONNX Runtime, and what stays native though it was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// By node, whether ONNX Runtime computes it.
    pub chosen: HashSet<NodeId>,
    /// By op, why nodes of it stay native and how many.
    pub kept: BTreeMap<(&'static str, &'static str), usize>,
    /// Why the others are chosen, for people.
    pub reason: String,
}

/// Chooses nodes of a native graph.
///
/// # Errors
/// A graph with a KV cache; a pattern that no node is called by, or that names one with no form in ONNX.
pub(crate) fn choose(graph: &Graph, prefer: Prefer, patterns: &[String]) -> Result<Choice> {
    let mut choice = Choice::default();
    if prefer == Prefer::Native && patterns.is_empty() {
        return Ok(choice);
    }
    if let Some(state) = graph.states().first() {
        let message = format!(
            "a student with a KV cache ({}) runs natively: ONNX segments keep no state",
            state.name
        );
        return Err(Error::unsupported(message));
    }
    let mut unused: HashSet<&String> = patterns.iter().collect();
    for (id, node) in graph.nodes().iter().enumerate() {
        // It is a segment already.
        if matches!(node.op, Op::Onnx(_)) {
            unused.clear();
            continue;
        }
        let mut named = patterns.iter().filter(|p| matches(p, &node.name)).peekable();
        let asked = named.peek().is_some();
        for pattern in named {
            unused.remove(pattern);
        }
        if !asked && prefer == Prefer::Native {
            continue;
        }
        let takes_images = matches!(node.op, Op::Patches(_) | Op::Pixels(_));
        let why =
            refusal(&node.op).or_else(|| takes_images.then_some("it says how images are taken"));
        let why = why.or_else(|| {
            decides(graph, node).then_some("a choice depends on it, which rounding could change")
        });
        match why {
            None => {
                choice.chosen.insert(id);
            }
            Some(why) if asked => {
                let message = format!("{} stays native: {why}", node.op.name());
                return Err(Error::unsupported(message).at(format_args!("node {:?}", node.name)));
            }
            Some(why) => *choice.kept.entry((node.op.name(), why)).or_default() += 1,
        }
    }
    if let Some(pattern) = unused.into_iter().min() {
        return Err(Error::missing(format!("--onnx-for {pattern}: no node is called so")));
    }
    choice.reason = match patterns {
        [] => "--prefer onnx".into(),
        patterns if prefer == Prefer::Native => format!("--onnx-for {}", patterns.join(", ")),
        patterns => format!("--prefer onnx, --onnx-for {}", patterns.join(", ")),
    };
    keep_shared_weights(graph, &mut choice);
    Ok(choice)
}

/// A weight is stored once: what shares one with a native node that has it packed stays native too.
fn keep_shared_weights(graph: &Graph, choice: &mut Choice) {
    loop {
        let mut packed = Vec::new();
        for (id, node) in graph.nodes().iter().enumerate() {
            for (role, value) in node.op.input_roles().into_iter().zip(&node.inputs) {
                use InputRole::{AnyMatrix, Matrix, WholeMatrix};
                if !choice.chosen.contains(&id) && [AnyMatrix, Matrix, WholeMatrix].contains(&role)
                {
                    packed.extend(graph.weight_expr(*value));
                }
            }
        }
        let shares = |id: &NodeId| {
            let inputs = graph.nodes()[*id].inputs.iter();
            inputs.filter_map(|v| graph.weight_expr(*v)).any(|expr| packed.contains(&expr))
        };
        let shared: Vec<NodeId> = choice.chosen.iter().copied().filter(shares).collect();
        if shared.is_empty() {
            return;
        }
        for id in shared {
            choice.chosen.remove(&id);
            let why = "its weight is packed for a native node";
            *choice.kept.entry((graph.nodes()[id].op.name(), why)).or_default() += 1;
        }
    }
}

/// Whether a name is of a pattern, in which `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = pattern.contains('*').then(|| parts.next_back()).flatten() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// By node, its stage; `reads` gives the nodes that one reads from.
pub(crate) fn stages(
    count: usize,
    chosen: impl Fn(usize) -> bool,
    reads: impl Fn(usize) -> Vec<usize>,
) -> Vec<i64> {
    let mut stages: Vec<i64> = Vec::with_capacity(count);
    for id in 0..count {
        let parity = if chosen(id) { 0 } else { 1 };
        let from = reads(id).into_iter().filter_map(|of| stages.get(of).copied());
        let least = from.max().unwrap_or(-1);
        stages.push(if least.rem_euclid(2) == parity { least } else { least + 1 });
    }
    stages
}

/// Nodes by stage, as they run.
pub(crate) fn order(stages: &[i64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..stages.len()).collect();
    order.sort_by_key(|id| stages[*id]);
    order
}

/// Names of the models' weights that lie in a plan: by name, where.
pub(crate) type Places = HashMap<String, (u64, u64)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_nodes() {
        for (pattern, name, fits) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("a.*", "a.b", true),
            ("*.b", "a.b", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("*", "", true),
            ("", "a", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn stages_alternate_and_keep_the_order_of_reading() {
        // 0 -> 1 -> 2 -> 3, and 4 reads 0 alone; 1 and 3 are native.
        let reads = |id: usize| match id {
            0 => vec![],
            4 => vec![0],
            id => vec![id - 1],
        };
        let found = stages(5, |id| ![1, 3].contains(&id), reads);
        assert_eq!(found, [0, 1, 2, 3, 0]);
        assert_eq!(order(&found), [0, 4, 1, 2, 3]);
    }
}
