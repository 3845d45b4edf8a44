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
mod runtime_ops;
mod segment;
mod sizes;
mod types;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use limbeck_graph::ValueSource;
use limbeck_models::{Description, Student};
use limbeck_plan::{DType, Dim, Fact, Manifest, Map, MapStep, Op, Symbol, Task};
use prost::Message;
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, TextFiles};
use super::map::FileBytes;
use super::sampler;
use super::tensor::Tensor;
use crate::error::{At, Error, ErrorKind, Result};
use crate::onnx::proto;
use crate::segments::{self, Part, Prefer};
use constant::Constant;
use external::External;
use importer::{Importer, Item, Laid, plain};
use node::Node;
use ops::Call;
use proto::{
    DimensionProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto,
    dtype,
};
use segment::{Chosen, Cut};
use sizes::Sizes;

/// Versions of ONNX's operator set that are read.
const OPSETS: std::ops::RangeInclusive<i64> = 11..=21;
/// Graphs within graphs.
const MAX_DEPTH: usize = 16;
/// Imports of a model, each with more of its nodes in segments.
const MAX_ATTEMPTS: usize = 256;

/// What is chosen of a model.
#[derive(Clone, Debug, Default)]
pub struct OnnxChoices {
    /// Values of inputs, which become constants, and of sizes that have names.
    pub fixed: BTreeMap<String, f64>,
    /// Who computes its nodes.
    pub prefer: Prefer,
    /// Names of nodes for ONNX Runtime, in which `*` stands for any text.
    pub onnx_for: Vec<String>,
}

/// An opened model, as a graph.
pub struct OnnxModel {
    student: String,
    licence: Option<String>,
    description: Description,
    text: TextFiles,
    graph: Student,
    parts: Vec<Part>,
    sampler: Option<Value>,
}

impl OnnxModel {
    /// Opens a `.onnx` file and imports it.
    ///
    /// # Errors
    /// A file that is not a model, data outside of its folder, operators that are not supported (all of
    /// them, with their nodes), a node that does not fit its inputs.
    pub fn open(path: &Path, choices: &OnnxChoices) -> Result<OnnxModel> {
        let bytes = FileBytes::open(path).at(path.display())?;
        let external = External::beside(path).at(path.display())?;
        let student = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into());
        let mut model = OnnxModel::read(&bytes, &external, student, choices).at(path.display())?;
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
        choices: &OnnxChoices,
    ) -> Result<OnnxModel> {
        let model = ModelProto::decode(bytes)
            .map_err(|e| Error::format(format!("not an ONNX model: {e}")))?;
        let opset = opset(&model, choices.prefer)?;
        let graph = model.graph.as_ref().ok_or_else(|| Error::format("it has no graph"))?;
        let source = Source { model: &model, graph, external, opset, fixed: &choices.fixed };
        let (graph, parts) = if choices.prefer == Prefer::Onnx {
            source.whole()?
        } else {
            let mut chosen = without_native(&model, graph, opset)?;
            chosen.extend(asked_for(graph, &choices.onnx_for)?);
            source.import(chosen)?
        };
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
            parts,
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

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn sampler(&self) -> Option<&Value> {
        self.sampler.as_ref()
    }
}

fn opset(model: &ModelProto, prefer: Prefer) -> Result<i64> {
    let own = |domain: &str| matches!(domain, "" | "ai.onnx");
    let found = model.opset_import.iter().find(|o| own(&o.domain));
    let version = found.ok_or_else(|| Error::format("it names no operator set"))?.version;
    if OPSETS.contains(&version) || prefer == Prefer::Onnx {
        return Ok(version);
    }
    let (first, last) = (OPSETS.start(), OPSETS.end());
    let message = format!(
        "operator set {version}; those from {first} to {last} are read, others pass with --prefer onnx"
    );
    Err(Error::unsupported(message))
}

/// The nodes that ONNX Runtime computes since they have no native operator. A model with operators that
/// are not known at all is refused: all of them by name, with their nodes.
fn without_native(model: &ModelProto, graph: &GraphProto, opset: i64) -> Result<Chosen> {
    let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut chosen = Chosen::new();
    for (at, proto) in graph.node.iter().enumerate() {
        let mut found = BTreeSet::new();
        collect(model, proto, opset, 0, &mut found, &mut unknown)?;
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
    Err(Error::unsupported(format!("operators that are not supported: {}", listed.join("; "))))
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

/// The nodes that are asked for, by name.
fn asked_for(graph: &GraphProto, patterns: &[String]) -> Result<Chosen> {
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

/// An import that failed, and the nodes that ONNX Runtime would have to compute for it to succeed.
struct Failed {
    error: Error,
    remedy: Chosen,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, remedy: Chosen::new() }
    }
}

/// A model to import.
struct Source<'a> {
    model: &'a ModelProto,
    graph: &'a GraphProto,
    external: &'a External,
    opset: i64,
    fixed: &'a BTreeMap<String, f64>,
}

impl Source<'_> {
    /// Imports it with these nodes in segments, and with those too that turn out to have no native form.
    fn import(&self, mut chosen: Chosen) -> Result<(limbeck_graph::Graph, Vec<Part>)> {
        let known = HashMap::new();
        for _ in 0..MAX_ATTEMPTS {
            match import(self, &chosen, &known) {
                Ok(found) => return Ok(found),
                Err(failed) => {
                    let before = chosen.len();
                    chosen.extend(failed.remedy);
                    if chosen.len() == before {
                        return Err(failed.error);
                    }
                }
            }
        }
        Err(Error::unsupported("too many nodes have no native form: compile with --prefer onnx"))
    }

    /// Imports it as one segment. What a native import would know of its outputs' sizes is kept.
    fn whole(&self) -> Result<(limbeck_graph::Graph, Vec<Part>)> {
        let native = OPSETS
            .contains(&self.opset)
            .then(|| import(self, &Chosen::new(), &HashMap::new()).ok())
            .flatten();
        let known = native.map_or_else(HashMap::new, |(graph, _)| segment::facts(&graph));
        let all = 0..self.graph.node.len();
        let chosen: Chosen = all.map(|at| (at, "--prefer onnx".to_owned())).collect();
        import(self, &chosen, &known).map_err(|failed| failed.error)
    }
}

fn import(
    source: &Source<'_>,
    chosen: &Chosen,
    known: &HashMap<String, Fact>,
) -> std::result::Result<(limbeck_graph::Graph, Vec<Part>), Failed> {
    let Source { model, graph: proto, external, opset, fixed } = *source;
    if !proto.sparse_initializer.is_empty() {
        return Err(Error::unsupported("sparse initialisers").into());
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
        return Err(Error::missing(format!("there is no input and no size {name:?} to fix")).into());
    }
    let mut cut = Cut::new(model, proto, chosen, known);
    if let Err(error) = importer.run_cut(&mut cut, opset) {
        let mut remedy = cut.tainted;
        if let Some(at) =
            cut.at.filter(|_| error.kind() == ErrorKind::Unsupported && remedy.is_empty())
        {
            remedy.insert(at, format!("no native form ({error})"));
        }
        return Err(Failed { error, remedy });
    }
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
    Ok((graph, cut.parts))
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
    /// The constants of a graph. Those of types that are not read are missed by the nodes that read them.
    fn initialise(&mut self, proto: &'a GraphProto) -> Result<()> {
        for tensor in &proto.initializer {
            let constant = Constant::read(tensor, self.external)
                .at(format_args!("initialiser {:?}", tensor.name));
            match constant {
                Ok(constant) => self.set(&tensor.name, Item::Constant(constant)),
                Err(e) if e.kind() == ErrorKind::Unsupported => {
                    self.unread.insert(&tensor.name, e.to_string());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Imports the nodes of the outermost graph, some of them as segments.
    fn run_cut(&mut self, cut: &mut Cut<'a>, opset: i64) -> Result<()> {
        (self.readers, self.producers) = (readers(cut.graph), producers(cut.graph));
        for (is_segment, group) in cut.groups() {
            let [first, ..] = group[..] else { continue };
            cut.at = Some(first).filter(|_| !is_segment);
            let node = Node { proto: &cut.graph.node[first], opset };
            let imported =
                if is_segment { self.segment(cut, &group) } else { self.import_node(&node) };
            let place = || format!("node {:?} ({})", node.name(), node.operator());
            imported.map_err(|e| e.at(place()))?;
        }
        cut.at = None;
        Ok(())
    }

    /// Imports the nodes of a graph within another, in their order.
    fn run(&mut self, proto: &'a GraphProto, opset: i64) -> Result<()> {
        let outside = std::mem::replace(&mut self.readers, readers(proto));
        let producers = std::mem::replace(&mut self.producers, producers(proto));
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
