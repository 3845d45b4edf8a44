//! Names of values: each is given once, and those that a segment's model has for what goes in and out are
//! kept free.

use std::collections::{HashMap, HashSet};

use limbeck_plan::Onnx;

use super::node::Node;
use super::proto::{GraphProto, NodeProto};
use crate::error::{Error, Result};

/// What values of a model are called within its segments, where their own names are taken there.
pub(super) struct Names(HashMap<String, String>);

impl Names {
    pub fn of(graph: &GraphProto) -> Names {
        let mut all = HashSet::new();
        collect(graph, &mut all);
        let taken: HashSet<String> =
            (0..Onnx::MAX_VALUES).flat_map(|at| [Onnx::input(at), Onnx::output(at)]).collect();
        let mut found = HashMap::new();
        for name in all.iter().filter(|name| taken.contains(**name)) {
            let mut other = format!("{name}_");
            while all.contains(other.as_str()) {
                other.push('_');
            }
            found.insert((*name).to_owned(), other);
        }
        Names(found)
    }

    /// A value's name in a segment.
    pub fn of_value(&self, name: &str) -> String {
        self.0.get(name).map_or_else(|| name.to_owned(), Clone::clone)
    }

    /// Gives values their names in a segment, those of graphs within a node too.
    pub fn rename(&self, node: &mut NodeProto) {
        if self.0.is_empty() {
            return;
        }
        let each = |name: &mut String| {
            if let Some(other) = self.0.get(name.as_str()) {
                name.clone_from(other);
            }
        };
        node.input.iter_mut().chain(&mut node.output).for_each(each);
        for attribute in &mut node.attribute {
            for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
                let infos = graph.input.iter_mut().chain(&mut graph.output);
                infos.chain(&mut graph.value_info).for_each(|info| each(&mut info.name));
                graph.initializer.iter_mut().for_each(|tensor| each(&mut tensor.name));
                graph.node.iter_mut().for_each(|node| self.rename(node));
            }
        }
    }
}

fn collect<'a>(graph: &'a GraphProto, all: &mut HashSet<&'a str>) {
    all.extend(graph.input.iter().chain(&graph.output).map(|info| info.name.as_str()));
    all.extend(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
    for node in &graph.node {
        all.extend(node.input.iter().chain(&node.output).map(String::as_str));
        Node { proto: node, opset: 0 }.graphs().for_each(|graph| collect(graph, all));
    }
}

/// Refuses a graph in which a value is given twice: what reads it could mean either.
pub(super) fn check_given_once(graph: &GraphProto) -> Result<()> {
    let mut given = HashSet::new();
    for info in &graph.input {
        if !given.insert(info.name.as_str()) {
            return Err(Error::format("there are two of it").at(format!("input {:?}", info.name)));
        }
    }
    // Initialisers may be inputs too.
    let mut stored = HashSet::new();
    for tensor in &graph.initializer {
        if !stored.insert(tensor.name.as_str()) {
            let place = format!("initialiser {:?}", tensor.name);
            return Err(Error::format("there are two of it").at(place));
        }
    }
    given.extend(stored);
    for node in &graph.node {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if !given.insert(name) {
                let node = Node { proto: node, opset: 0 };
                let error = Error::format(format!("it gives {name:?}, which is given before"));
                return Err(error.at(format!("node {:?} ({})", node.name(), node.operator())));
            }
        }
    }
    Ok(())
}
