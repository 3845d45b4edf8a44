//! Import of ONNX models (operator sets 11 to 21): a model becomes one entry of tensors, with its own
//! names for what goes in and out.

mod constant;
mod external;
#[cfg(test)]
mod hostile;
mod importer;
mod node;
mod norm;
mod ops;
mod proto;
mod sizes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use limbeck_graph::ValueSource;
use limbeck_models::{Description, Student};
use limbeck_plan::{DType, Dim, Manifest, Map, MapStep, Op, Symbol, Task};
use prost::Message;
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, TextFiles};
use super::map::FileBytes;
use super::sampler;
use super::tensor::Tensor;
use crate::error::{At, Error, Result};
use constant::Constant;
use external::External;
use importer::{Importer, Item, Laid, plain};
use node::Node;
use ops::Call;
use proto::{
    DimensionProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto,
    dtype,
};
use sizes::Sizes;

/// Versions of ONNX's operator set that are read.
const OPSETS: std::ops::RangeInclusive<i64> = 11..=21;
/// Graphs within graphs.
const MAX_DEPTH: usize = 16;

/// An opened model, as a graph.
pub struct OnnxModel {
    student: String,
    licence: Option<String>,
    description: Description,
    text: TextFiles,
    graph: Student,
    sampler: Option<Value>,
}

impl OnnxModel {
    /// Opens a `.onnx` file and imports it. `fixed` gives values to inputs, which become constants, and to
    /// sizes that have names.
    ///
    /// # Errors
    /// A file that is not a model, data outside of its folder, operators that are not supported (all of
    /// them, with their nodes), a node that does not fit its inputs.
    pub fn open(path: &Path, fixed: &BTreeMap<String, f64>) -> Result<OnnxModel> {
        let bytes = FileBytes::open(path).at(path.display())?;
        let external = External::beside(path).at(path.display())?;
        let student = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into());
        let mut model = OnnxModel::read(&bytes, &external, student, fixed).at(path.display())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        if let Some(beside) = sampler::in_folder(folder, &model.student)? {
            model.sampler = Some(beside);
        }
        Ok(model)
    }

    fn read(
        bytes: &[u8],
        external: &External,
        student: String,
        fixed: &BTreeMap<String, f64>,
    ) -> Result<OnnxModel> {
        let model = ModelProto::decode(bytes)
            .map_err(|e| Error::format(format!("not an ONNX model: {e}")))?;
        let opset = opset(&model)?;
        let graph = model.graph.as_ref().ok_or_else(|| Error::format("it has no graph"))?;
        check_operators(&model, graph, opset)?;
        let graph = import(graph, external, opset, fixed)?;
        let metadata = |key: &str| model.metadata_props.iter().find(|p| p.key == key);
        let (sampler, note) = match metadata("sampler") {
            Some(p) => {
                let parsed = serde_json::from_str(&p.value);
                let parsed = parsed.map_err(|e| Error::format(e.to_string()));
                (Some(parsed.at("metadata \"sampler\"")?), None)
            }
            None => consistency(metadata("architecture"), &graph).unzip(),
        };
        let licence = model.metadata_props.iter().find(|p| p.key.eq_ignore_ascii_case("license"));
        Ok(OnnxModel {
            student: student.clone(),
            licence: licence.map(|p| p.value.clone()),
            description: Description::default(),
            text: TextFiles::default(),
            graph: Student {
                architecture: "onnx".into(),
                task: Task::Tensors,
                context_length: 1,
                vocab_size: 0,
                embedding_size: 0,
                entries: vec![(Manifest::TENSORS_ENTRY.into(), graph)],
                notes: note.into_iter().collect(),
            },
            sampler,
        })
    }
}

/// The sampler of a model that says it is a consistency model and takes noise levels, with the constants
/// of the paper; and a note of it.
fn consistency(
    architecture: Option<&StringStringEntryProto>,
    graph: &limbeck_graph::Graph,
) -> Option<(Value, String)> {
    architecture.filter(|p| p.value.starts_with("consistency"))?;
    let sigma =
        |value: &limbeck_graph::Value| value.source == ValueSource::Input && value.name == "sigma";
    graph.values().iter().find(|value| sigma(value))?;
    graph.outputs().iter().find(|(name, _)| name == "denoised")?;
    let rule = json!({"rule": "consistency", "output": "denoised", "time": "sigma"});
    let note = "the model says that it is a consistency model and not how it is sampled: noise levels from \
                0.002 to 80 are taken for it";
    Some((json!({"scheduler": rule, "output": "denoised", "time": "sigma"}), note.into()))
}

impl Checkpoint for OnnxModel {
    fn format(&self) -> &'static str {
        "onnx"
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn text(&self) -> &TextFiles {
        &self.text
    }

    fn student(&self) -> &str {
        &self.student
    }

    fn licence(&self) -> Option<&str> {
        self.licence.as_deref()
    }

    fn tensors(&self) -> Vec<Tensor<'_>> {
        Vec::new()
    }

    fn tensor(&self, _: &str) -> Option<Tensor<'_>> {
        None
    }

    fn graph(&self) -> Option<&Student> {
        Some(&self.graph)
    }

    fn sampler(&self) -> Option<&Value> {
        self.sampler.as_ref()
    }
}

fn opset(model: &ModelProto) -> Result<i64> {
    let own = |domain: &str| matches!(domain, "" | "ai.onnx");
    let found = model.opset_import.iter().find(|o| own(&o.domain));
    let version = found.ok_or_else(|| Error::format("it names no operator set"))?.version;
    if OPSETS.contains(&version) {
        return Ok(version);
    }
    let (first, last) = (OPSETS.start(), OPSETS.end());
    let message = format!("operator set {version}; those from {first} to {last} are read");
    Err(Error::unsupported(message))
}

/// Refuses a model with operators that are not known: all of them by name, with their nodes.
fn check_operators(model: &ModelProto, graph: &GraphProto, opset: i64) -> Result<()> {
    let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    collect_unknown(graph, opset, 0, &mut unknown)?;
    if unknown.is_empty() {
        return Ok(());
    }
    let functions: BTreeSet<&str> = model.functions.iter().map(|f| f.name.as_str()).collect();
    let listed: Vec<String> = unknown
        .into_iter()
        .map(|(operator, nodes)| {
            let kind = operator.rsplit('.').next().unwrap_or_default();
            let what = if functions.contains(kind) { " (a function of the model)" } else { "" };
            let more = nodes.len().saturating_sub(3);
            let named: Vec<String> = nodes.iter().take(3).map(|n| format!("{n:?}")).collect();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{operator}{what} in {}{more}", named.join(", "))
        })
        .collect();
    Err(Error::unsupported(format!("operators that are not supported: {}", listed.join("; "))))
}

fn collect_unknown(
    graph: &GraphProto,
    opset: i64,
    depth: usize,
    unknown: &mut BTreeMap<String, Vec<String>>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::format("graphs nest too deep"));
    }
    for proto in &graph.node {
        let node = Node { proto, opset };
        if ops::find(&node).is_none() {
            unknown.entry(node.operator()).or_default().push(node.name().to_owned());
        }
        node.graphs().try_for_each(|g| collect_unknown(g, opset, depth + 1, unknown))?;
    }
    Ok(())
}

fn import(
    proto: &GraphProto,
    external: &External,
    opset: i64,
    fixed: &BTreeMap<String, f64>,
) -> Result<limbeck_graph::Graph> {
    if !proto.sparse_initializer.is_empty() {
        return Err(Error::unsupported("sparse initialisers"));
    }
    let mut importer = Importer::new(external);
    importer.initialise(proto)?;
    let mut unused: BTreeSet<&str> = fixed.keys().map(String::as_str).collect();
    for (at, info) in proto.input.iter().enumerate() {
        // Before IR version 4 initialisers are inputs too.
        if importer.find(&info.name).is_some() {
            continue;
        }
        let item = input(&mut importer, info, at, fixed, &mut unused);
        let item = item.at(format_args!("input {:?}", info.name))?;
        importer.set(&info.name, item);
    }
    if let Some(name) = unused.first() {
        return Err(Error::missing(format!("there is no input and no size {name:?} to fix")));
    }
    importer.run(proto, opset)?;
    let mut taken = BTreeSet::new();
    for info in &proto.output {
        let place = format!("output {:?}", info.name);
        let item = importer.find(&info.name).cloned();
        let item = item.ok_or_else(|| Error::format("nothing gives it")).at(&place)?;
        importer.node = info.name.clone();
        let mut value = importer.plain_value(&item).at(&place)?;
        // An output is a value of its own, of a node.
        if importer.graph.producer(value).is_none() || !taken.insert(value) {
            let op = Op::Map(Map { inputs: 1, steps: vec![MapStep::Input(0)] });
            let Item::Value(copy) = importer.laid(op, &[value], Vec::new()).at(&place)? else {
                continue;
            };
            value = copy.value;
            taken.insert(value);
        }
        importer.graph.output(&info.name, value);
    }
    let mut graph = importer.graph;
    graph.prune();
    Ok(graph)
}

fn input(
    importer: &mut Importer<'_>,
    info: &ValueInfoProto,
    at: usize,
    fixed: &BTreeMap<String, f64>,
    unused: &mut BTreeSet<&str>,
) -> Result<Item> {
    let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| Error::unsupported("it is not a tensor"))?;
    let float = match tensor.elem_type {
        dtype::FLOAT | dtype::DOUBLE | dtype::FLOAT16 | dtype::BFLOAT16 => true,
        dtype::INT64 | dtype::INT32 | dtype::BOOL | dtype::UINT8 | dtype::INT8 => false,
        other => return Err(Error::unsupported(format!("its data type {other}"))),
    };
    let dims = tensor.shape.as_ref().map_or(&[][..], |shape| shape.dim.as_slice());
    let mut shape = Vec::with_capacity(dims.len());
    for (axis, dim) in dims.iter().enumerate() {
        let found = size(dim, &info.name, at, axis)?;
        let value = match &found {
            Dim::Symbol(s) => fixed.get_key_value(s.name()),
            _ => None,
        };
        shape.push(match value {
            Some((name, n)) if n.fract() == 0.0 && (1.0..2e9).contains(n) => {
                unused.remove(name.as_str());
                Dim::Const(*n as u64)
            }
            Some((name, n)) => return Err(Error::mismatch(format!("{n} is no size {name:?}"))),
            None => found,
        });
    }
    if let Some(value) = fixed.get(&info.name) {
        unused.remove(info.name.as_str());
        let known: Option<Vec<usize>> = shape
            .iter()
            .map(|d| d.as_const().and_then(|n| usize::try_from(n).ok()).filter(|n| *n == 1))
            .collect();
        let known = known.ok_or_else(|| Error::mismatch("it is not a single number to fix"))?;
        return Ok(Item::Constant(match float {
            true => Constant::floats(known, vec![*value as f32]),
            false => Constant::integers(known, vec![*value as i64]),
        }));
    }
    let rank = shape.len();
    if rank > limbeck_plan::MAX_RANK {
        return Err(Error::unsupported(format!("it has {rank} axes")));
    }
    let dtype = if float { DType::F32 } else { DType::I32 };
    let value = importer.graph.input(&info.name, dtype, shape);
    Ok(Item::Value(Laid { value, order: plain(rank) }))
}

/// A size of an input: known, or a symbol, of the model's name or of its place.
fn size(dim: &DimensionProto, input: &str, at: usize, axis: usize) -> Result<Dim> {
    if let Some(n) = dim.dim_value.filter(|n| *n > 0) {
        let n = u64::try_from(n).ok().filter(|n| *n < 1 << 31);
        return n.map(Dim::Const).ok_or_else(|| Error::format("a size is out of range"));
    }
    if dim.dim_value.is_some_and(|n| n < -1) {
        return Err(Error::format("a size is negative"));
    }
    let place =
        || if input.is_empty() { format!("input{at}.{axis}") } else { format!("{input}.{axis}") };
    let named = dim.dim_param.as_deref().filter(|name| !matches!(*name, "" | "?"));
    let mut name = named.map_or_else(place, str::to_owned);
    // Those of calls with tokens and sequences mean something else.
    if Symbol::OF_CALLS.contains(&name.as_str()) {
        name.push('_');
    }
    Ok(Dim::symbol(&name))
}

impl<'a> Importer<'a> {
    /// The constants of a graph.
    fn initialise(&mut self, proto: &'a GraphProto) -> Result<()> {
        for tensor in &proto.initializer {
            let constant = Constant::read(tensor, self.external)
                .at(format_args!("initialiser {:?}", tensor.name))?;
            self.set(&tensor.name, Item::Constant(constant));
        }
        Ok(())
    }

    /// Imports the nodes of a graph, in their order.
    fn run(&mut self, proto: &'a GraphProto, opset: i64) -> Result<()> {
        let outside = std::mem::replace(&mut self.readers, readers(proto));
        let producers =
            proto.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n)));
        let producers = std::mem::replace(&mut self.producers, producers.collect());
        for node in &proto.node {
            let node = Node { proto: node, opset };
            let place = || format!("node {:?} ({})", node.name(), node.operator());
            self.import_node(&node).map_err(|e| e.at(place()))?;
        }
        (self.readers, self.producers) = (outside, producers);
        Ok(())
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
            self.check_depth(&item)?;
            if !name.is_empty() {
                self.set(name, item);
            }
        }
        Ok(())
    }

    /// Refuses sizes that nest as deep as no plan's may; what is computed with them nests deeper still.
    pub(super) fn check_depth(&self, item: &Item) -> Result<()> {
        let deep = |dim: &Dim| dim.depth() > Dim::MAX_DEPTH / 2;
        let found = match item {
            Item::Constant(_) => false,
            Item::Sizes(sizes) => sizes.values.iter().filter_map(|s| s.dim()).any(|d| deep(&d)),
            Item::Value(laid) => self.graph.value(laid.value).fact.shape.iter().any(deep),
        };
        if found { Err(Error::unsupported("its sizes are too involved")) } else { Ok(()) }
    }

    /// Imports a graph within a node and gives what its outputs stand for.
    fn inner(&mut self, proto: &'a GraphProto, opset: i64) -> Result<Vec<Item>> {
        if self.scopes.len() > MAX_DEPTH {
            return Err(Error::format("graphs nest too deep"));
        }
        self.scopes.push(HashMap::new());
        self.initialise(proto)?;
        let node = self.node.clone();
        self.run(proto, opset)?;
        self.node = node;
        let found = proto.output.iter().map(|info| {
            let found = self.find(&info.name).cloned();
            found.ok_or_else(|| Error::format(format!("nothing gives {:?}", info.name)))
        });
        let found = found.collect();
        self.scopes.pop();
        found
    }

    /// The node of this kind that alone reads a value of the graph at hand.
    fn only_reader(&self, name: &str, op: &str) -> Option<&'a NodeProto> {
        let found = self.readers.get(name).copied().flatten()?;
        (found.op_type == op && found.domain.is_empty()).then_some(found)
    }

    /// Says what a node gives that need not be imported any more.
    fn finish(&mut self, node: &'a NodeProto, item: Item) {
        if let Some(name) = node.output.first() {
            self.set(name, item);
        }
        self.done.insert(node);
    }

    /// Whether a name stands for the shape of a value of these sizes.
    fn is_shape_of(&self, name: &str, of: &str, sizes: &[Dim]) -> bool {
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
            for graph in node.attribute.iter().filter_map(|a| a.g.as_deref()) {
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
