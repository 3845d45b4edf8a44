//! Where a model is cut: which of its nodes make up each segment, and what an import has to know for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use limbeck_plan::Fact;

use super::names::Names;
use super::node::Node;
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use super::types::Types;
use crate::segments::{Part, Reason, order, stages};

/// Which nodes of the outermost graph ONNX Runtime computes, by number, and why.
pub(super) type Chosen = BTreeMap<usize, String>;

/// What one import does to a model: which nodes it cuts out, and what comes of it.
pub(super) struct Cut<'a> {
    pub model: &'a ModelProto,
    pub graph: &'a GraphProto,
    pub tables: &'a Tables<'a>,
    pub chosen: &'a Chosen,
    /// What a native import found.
    pub known: &'a Known,
    /// Segments so far.
    pub parts: Vec<Part>,
    /// Nodes that have to be computed by ONNX Runtime too, and why.
    pub remedy: Chosen,
}

/// What is looked up of a model's outermost graph, whatever is cut out of it.
pub(super) struct Tables<'a> {
    /// By node, the names that it reads.
    pub reads: Vec<BTreeSet<&'a str>>,
    /// By name, the nodes that read it.
    pub readers: HashMap<&'a str, Vec<usize>>,
    /// By name, the node that gives it.
    writers: HashMap<&'a str, usize>,
    pub initialisers: HashMap<&'a str, &'a TensorProto>,
    pub outputs: HashSet<&'a str>,
    pub types: Types,
    pub names: Names,
}

/// By name, what a native import found of the values of a model: their types and sizes do not depend on who
/// computes them.
pub(super) type Known = HashMap<String, Found>;

/// What a native import found of a value.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub fact: Fact,
    /// Whether it is a constant, or made of sizes alone, so that no node computes it.
    pub fixed: bool,
}

impl<'a> Tables<'a> {
    pub fn of(graph: &'a GraphProto) -> Tables<'a> {
        let reads: Vec<BTreeSet<&str>> = graph.node.iter().map(reads).collect();
        let (mut readers, mut writers) = (HashMap::<&str, Vec<usize>>::new(), HashMap::new());
        for (at, (node, names)) in graph.node.iter().zip(&reads).enumerate() {
            names.iter().for_each(|name| readers.entry(*name).or_default().push(at));
            writers.extend(node.output.iter().map(|name| (name.as_str(), at)));
        }
        Tables {
            reads,
            readers,
            writers,
            initialisers: graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect(),
            outputs: graph.output.iter().map(|info| info.name.as_str()).collect(),
            types: Types::of(graph),
            names: Names::of(graph),
        }
    }
}

impl Cut<'_> {
    /// Nodes in the order in which they are imported: by themselves, or several as a segment.
    pub fn groups(&self) -> Vec<(bool, Vec<usize>)> {
        let Tables { reads, writers, .. } = self.tables;
        let written = |at: usize| {
            let from = reads[at].iter().filter_map(|name| writers.get(name).copied());
            from.filter(|from| *from < at).collect::<Vec<usize>>()
        };
        let stages = stages(reads.len(), |at| self.chosen.contains_key(&at), written);
        let mut groups: Vec<(bool, Vec<usize>)> = Vec::new();
        let mut last = None;
        for at in order(&stages) {
            let is_segment = self.chosen.contains_key(&at);
            match groups.last_mut() {
                Some((true, group)) if is_segment && last == Some(stages[at]) => group.push(at),
                _ => groups.push((is_segment, vec![at])),
            }
            last = Some(stages[at]);
        }
        groups
    }

    /// Why the nodes of a segment are in it.
    pub fn reasons(&self, group: &[usize]) -> Vec<Reason> {
        let mut nodes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for at in group {
            let node = Node { proto: &self.graph.node[*at], opset: 0 };
            let why = self.chosen.get(at).map_or("", String::as_str);
            nodes.entry(why).or_default().push(format!("{:?} ({})", node.name(), node.operator()));
        }
        let reason = |(why, nodes): (&str, _)| Reason { reason: why.to_owned(), nodes };
        nodes.into_iter().map(reason).collect()
    }
}

/// Drops the nodes that no output needs, in graphs within nodes too.
pub(super) fn drop_unused(graph: &mut GraphProto) {
    let mut needed: HashSet<String> = graph.output.iter().map(|info| info.name.clone()).collect();
    let mut kept = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|name| needed.contains(name)) {
            node.attribute.iter_mut().filter_map(|a| a.g.as_deref_mut()).for_each(drop_unused);
            needed.extend(reads(&node).into_iter().map(str::to_owned));
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
}

/// The names that a node reads, those of graphs within it too.
fn reads(node: &NodeProto) -> BTreeSet<&str> {
    fn free<'a>(graph: &'a GraphProto, found: &mut BTreeSet<&'a str>) {
        let mut inner = BTreeSet::new();
        graph.node.iter().for_each(|node| inner.extend(reads(node)));
        inner.extend(graph.output.iter().map(|info| info.name.as_str()));
        let own = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
        let own = own.chain(graph.input.iter().map(|info| info.name.as_str()));
        let own = own.chain(graph.initializer.iter().map(|t| t.name.as_str()));
        let own: HashSet<&str> = own.collect();
        found.extend(inner.into_iter().filter(|name| !own.contains(name)));
    }
    let mut found: BTreeSet<&str> = node.input.iter().map(String::as_str).collect();
    Node { proto: node, opset: 0 }.graphs().for_each(|graph| free(graph, &mut found));
    found.remove("");
    found
}
