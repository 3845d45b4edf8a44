//! The nodes of a graph, imported one after the other, and what is known of their surroundings.

use std::collections::{HashMap, HashSet};

use limbeck_plan::Dim;

use super::constant::Constant;
use super::cut::{Chosen, Cut};
use super::importer::{Importer, Item};
use super::node::Node;
use super::ops::{self, Call};
use super::proto::{GraphProto, NodeProto};
use super::sizes::{Size, Sizes};
use super::{MAX_DEPTH, names, norm};
use crate::error::{At, Error, ErrorKind, Result};

/// Constants and symbols of a size.
const MAX_TERMS: usize = 64;

impl<'a> Importer<'a> {
    /// The constants of a graph. Those of types that are not read are missed by the nodes that read them.
    pub(super) fn initialise(&mut self, proto: &'a GraphProto) -> Result<()> {
        for tensor in &proto.initializer {
            let constant = Constant::read(tensor, self.external)
                .at(format_args!("initialiser {:?}", tensor.name));
            match constant {
                Ok(constant) => self.set(&tensor.name, Item::Constant(constant)),
                Err(e) if e.kind() == ErrorKind::Unsupported => {
                    self.unread.insert(tensor.name.clone(), e.to_string());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Imports the nodes of the outermost graph, some of them as segments. Nodes `apart` are not imported with
    /// others.
    pub(super) fn run_cut(&mut self, cut: &mut Cut<'a>, apart: &Chosen, opset: i64) -> Result<()> {
        (self.readers, self.producers) = (readers(cut.graph), producers(cut.graph));
        for at in cut.chosen.keys().chain(apart.keys()) {
            let (node, reads) = (&cut.graph.node[*at], &cut.tables.reads[*at]);
            let around = reads.iter().copied().chain(node.output.iter().map(String::as_str));
            self.readers.extend(around.map(|name| (name, None)));
        }
        let native = |at: &usize| !cut.chosen.contains_key(at);
        let nodes = (0..cut.graph.node.len()).filter(native).map(|at| &cut.graph.node[at]);
        self.constants(nodes, opset);
        let (graph, tables) = (cut.graph, cut.tables);
        let (mut first, mut lost) = (None, HashSet::new());
        for (is_segment, group) in cut.groups() {
            let [at, ..] = group[..] else { continue };
            let given = group.iter().flat_map(|at| &graph.node[*at].output).map(String::as_str);
            let given = given.filter(|name| !name.is_empty());
            if group.iter().flat_map(|at| &tables.reads[*at]).any(|name| lost.contains(name)) {
                lost.extend(given);
                continue;
            }
            let (node, remedies) = (Node { proto: &graph.node[at], opset }, cut.remedy.len());
            let imported =
                if is_segment { self.segment(cut, &group) } else { self.import_node(&node) };
            let Err(error) = imported else { continue };
            if !is_segment && error.kind() == ErrorKind::Unsupported {
                cut.remedy.insert(at, format!("no native form: {error}"));
            }
            let error = error.at(format!("node {:?} ({})", node.name(), node.operator()));
            if cut.remedy.len() == remedies {
                return Err(error);
            }
            // Nodes that do not read what it would have given may have no native form either.
            lost.extend(given);
            first = first.or(Some(error));
        }
        first.map_or(Ok(()), Err)
    }

    /// Imports the constants among nodes, so that what looks ahead of a node finds them. Those that cannot be
    /// are met again in their turn.
    fn constants(&mut self, nodes: impl Iterator<Item = &'a NodeProto>, opset: i64) {
        for node in nodes.filter(|node| node.op_type == "Constant") {
            if self.import_node(&Node { proto: node, opset }).is_ok() {
                self.done.insert(node);
            }
        }
    }

    /// Imports the nodes of a graph within another, in their order.
    fn run(&mut self, proto: &'a GraphProto, opset: i64) -> Result<()> {
        let outside = std::mem::replace(&mut self.readers, readers(proto));
        let producers = std::mem::replace(&mut self.producers, producers(proto));
        self.constants(proto.node.iter(), opset);
        let imported = proto.node.iter().try_for_each(|node| {
            let node = Node { proto: node, opset };
            let place = || format!("node {:?} ({})", node.name(), node.operator());
            self.import_node(&node).map_err(|e| e.at(place()))
        });
        (self.readers, self.producers) = (outside, producers);
        imported
    }

    fn import_node(&mut self, node: &Node<'a>) -> Result<()> {
        if self.done.remove(&std::ptr::from_ref(node.proto)) {
            return Ok(());
        }
        self.node = node.name().to_owned();
        if node.proto.op_type == "Reshape" {
            norm::reshaped_group_norm(self, node.proto)?;
        }
        let mut inputs = Vec::with_capacity(node.proto.input.len());
        for name in &node.proto.input {
            inputs.push(match name.as_str() {
                "" => None,
                name => Some(self.find(name).cloned().ok_or_else(|| {
                    if let Some(why) = self.unread.get(name) {
                        return Error::unsupported(why.clone());
                    }
                    let message = format!(
                        "it reads {name:?}, which nothing before it gives: the nodes are not in \
                         order, or go round in a circle"
                    );
                    Error::format(message)
                })?),
            });
        }
        let operator = ops::find(node).ok_or_else(|| Error::unsupported("it is not supported"))?;
        let outputs = operator(self, &Call { node: *node, inputs })?;
        let names: Vec<&String> =
            node.proto.output.iter().filter(|name| !name.is_empty()).collect();
        if outputs.len() < names.len() && node.proto.output.len() > outputs.len() {
            return Err(Error::unsupported(format!("its output {:?}", names[outputs.len()])));
        }
        for (name, item) in node.proto.output.iter().zip(outputs) {
            let item = match item {
                Item::Sizes(sizes) => sizes.known().map_or(Item::Sizes(sizes), Item::Constant),
                item => item,
            };
            self.check_sizes(&item)?;
            if !name.is_empty() {
                self.set(name, item);
            }
        }
        Ok(())
    }

    /// Refuses sizes that nest as deep as no plan's may, or are longer; what is computed with them grows
    /// further. Those that no call can have are refused too.
    pub(super) fn check_sizes(&self, item: &Item) -> Result<()> {
        let involved = |dim: &Dim| !dim.is_within(MAX_TERMS) || dim.depth() > Dim::MAX_DEPTH / 2;
        let found = match item {
            Item::Constant(_) => false,
            Item::Sizes(sizes) => sizes.values.iter().filter_map(Size::as_dim).any(involved),
            Item::Value(laid) => self.graph.value(laid.value).fact.shape.iter().any(involved),
        };
        if found {
            return Err(Error::unsupported("its sizes are too involved"));
        }
        let shape = self.shape(item);
        let known = |dim: &&Dim| {
            let mut symbols = Vec::new();
            dim.symbols(&mut symbols);
            symbols.is_empty()
        };
        match shape.iter().filter(known).find(|dim| dim.as_const().is_none()) {
            Some(dim) => Err(Error::format(format!("its result would have the size {dim}"))),
            None => Ok(()),
        }
    }

    /// Imports a graph within a node and gives what its outputs stand for.
    pub(super) fn inner(&mut self, proto: &'a GraphProto, opset: i64) -> Result<Vec<Item>> {
        if self.scopes.len() > MAX_DEPTH {
            return Err(Error::format("graphs nest too deep"));
        }
        names::check_given_once(proto)?;
        self.scopes.push(HashMap::new());
        let node = self.node.clone();
        let imported = self.initialise(proto).and_then(|()| self.run(proto, opset));
        self.node = node;
        let found = proto.output.iter().map(|info| {
            let found = self.find(&info.name).cloned();
            found.ok_or_else(|| Error::format(format!("nothing gives {:?}", info.name)))
        });
        let found = imported.and_then(|()| found.collect());
        self.scopes.pop();
        found
    }

    /// The node of this kind that alone reads a value of the graph at hand.
    pub(super) fn only_reader(&self, name: &str, op: &str) -> Option<&'a NodeProto> {
        let found = self.readers.get(name).copied().flatten()?;
        (found.op_type == op && found.domain.is_empty()).then_some(found)
    }

    /// Says what a node gives that need not be imported any more.
    pub(super) fn finish(&mut self, node: &'a NodeProto, item: Item) {
        if let Some(name) = node.output.first() {
            self.set(name, item);
        }
        self.done.insert(node);
    }

    /// Whether a name stands for the shape of a value of these sizes.
    pub(super) fn is_shape_of(&self, name: &str, of: &str, sizes: &[Dim]) -> bool {
        let whole = |node: &NodeProto| {
            node.op_type == "Shape"
                && node.input.first().is_some_and(|input| input == of)
                && node.attribute.iter().all(|a| a.name == "start" && a.i == 0)
        };
        if self.producers.get(name).is_some_and(|node| whole(node)) {
            return true;
        }
        let known = match self.find(name) {
            Some(Item::Constant(c)) => Sizes::of(c),
            Some(Item::Sizes(sizes)) => Some(sizes.clone()),
            _ => None,
        };
        known.is_some_and(|known| {
            known.values.iter().eq(&sizes.iter().map(Into::into).collect::<Vec<_>>())
        })
    }
}

/// By name, the node that gives it.
fn producers(proto: &GraphProto) -> HashMap<&str, &NodeProto> {
    proto.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n))).collect()
}

/// By name, the node that reads it; none where several do, or where it leaves the graph.
fn readers(proto: &GraphProto) -> HashMap<&str, Option<&NodeProto>> {
    let mut found: HashMap<&str, Option<&NodeProto>> = HashMap::new();
    fn read<'a>(
        proto: &'a GraphProto,
        outside: Option<&'a NodeProto>,
        found: &mut HashMap<&'a str, Option<&'a NodeProto>>,
    ) {
        for node in &proto.node {
            for name in &node.input {
                let reader = if outside.is_some() { None } else { Some(node) };
                found.entry(name).and_modify(|reader| *reader = None).or_insert(reader);
            }
            for graph in (Node { proto: node, opset: 0 }).graphs() {
                read(graph, Some(node), found);
            }
        }
        for info in &proto.output {
            found.insert(&info.name, None);
        }
    }
    read(proto, None, &mut found);
    found
}
