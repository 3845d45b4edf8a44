//! A model as one entry: what goes in, its nodes, and what comes out; again with more of the nodes in segments
//! where some turn out to have no native form.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use limbeck_plan::{DType, Dim, Map, MapStep, Op, Symbol};

use super::constant::Constant;
use super::cut::{Chosen, Cut, Known, Tables};
use super::external::External;
use super::importer::{Elements, Importer, Item, Laid, plain};
use super::proto::{DimensionProto, GraphProto, ModelProto, ValueInfoProto, dtype};
use super::{OPSETS, types};
use crate::error::{At, Error, Result};
use crate::segments::Part;

/// Imports of a model, each with more of its nodes in segments.
const MAX_ATTEMPTS: usize = 256;

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
pub(super) struct Source<'a> {
    model: &'a ModelProto,
    graph: &'a GraphProto,
    external: &'a External,
    opset: i64,
    fixed: &'a BTreeMap<String, f64>,
    pub(super) tables: Tables<'a>,
    /// Its initialisers, which one import leaves to the next.
    initialised: RefCell<Option<Initialised>>,
    elements: RefCell<Elements>,
}

/// Initialisers by their names, and why some of them are not read.
type Initialised = (HashMap<String, Item>, HashMap<String, String>);

/// A model as a graph.
pub(super) struct Imported {
    pub graph: limbeck_graph::Graph,
    pub parts: Vec<Part>,
    pub notes: Vec<String>,
    known: Known,
}

impl<'a> Source<'a> {
    /// Of a model's outermost graph; `fixed` has values of inputs and sizes.
    pub fn new(
        model: &'a ModelProto,
        graph: &'a GraphProto,
        external: &'a External,
        opset: i64,
        fixed: &'a BTreeMap<String, f64>,
    ) -> Source<'a> {
        let (initialised, elements) = (RefCell::default(), RefCell::default());
        let tables = Tables::of(graph);
        Source { model, graph, external, opset, fixed, tables, initialised, elements }
    }

    /// Imports it with these nodes in segments, with those too that turn out to have no native form, and with those
    /// that are asked for.
    pub fn import(&self, chosen: Chosen, mut asked: Chosen) -> Result<Imported> {
        let none = Chosen::new();
        if asked.is_empty() {
            return self.completed(chosen, &Known::new(), &none);
        }
        // Who computes a node does not change what it gives: a native import finds its sizes.
        let native = self.completed(chosen.clone(), &Known::new(), &asked);
        let known = native.map_or_else(|_| Known::new(), |native| native.known);
        let is_output = |name: &String| self.graph.output.iter().any(|info| info.name == *name);
        let before = asked.len();
        asked.retain(|at, _| {
            let fixed = |name: &String| known.get(name).is_some_and(|found| found.fixed);
            let mut names = self.graph.node[*at].output.iter().filter(|name| !name.is_empty());
            names.any(|name| !fixed(name) || is_output(name))
        });
        let fixed = before - asked.len();
        let mut all = chosen;
        all.extend(asked);
        let mut found = self.completed(all, &known, &none)?;
        if fixed > 0 {
            let note = "nodes that --onnx-for names are of constants and sizes alone, which are known before a run";
            found.notes.push(format!("{fixed} {note}"));
        }
        Ok(found)
    }

    /// Imports it with these nodes in segments, and with those too that turn out to have no native form.
    fn completed(&self, mut chosen: Chosen, known: &Known, apart: &Chosen) -> Result<Imported> {
        for _ in 0..MAX_ATTEMPTS {
            match import(self, &chosen, apart, known) {
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
    pub fn whole(&self) -> Result<Imported> {
        let none = Chosen::new();
        let native = OPSETS
            .contains(&self.opset)
            .then(|| import(self, &none, &none, &Known::new()).ok())
            .flatten();
        let known = native.map_or_else(Known::new, |native| native.known);
        let all = 0..self.graph.node.len();
        let chosen: Chosen = all.map(|at| (at, "--prefer onnx".to_owned())).collect();
        import(self, &chosen, &none, &known).map_err(|failed| failed.error)
    }
}

fn import(
    source: &Source<'_>,
    chosen: &Chosen,
    apart: &Chosen,
    known: &Known,
) -> std::result::Result<Imported, Failed> {
    let Source { model, graph: proto, external, opset, fixed, .. } = *source;
    if !proto.sparse_initializer.is_empty() {
        return Err(Error::unsupported("sparse initialisers").into());
    }
    external.restart();
    let mut importer = Importer::new(external, &source.elements);
    let before = source.initialised.borrow().clone();
    if let Some((values, unread)) = before {
        (importer.scopes, importer.unread) = (vec![values], unread);
    } else {
        importer.initialise(proto)?;
        let values = importer.scopes.first().cloned().unwrap_or_default();
        *source.initialised.borrow_mut() = Some((values, importer.unread.clone()));
    }
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
    let (parts, remedy) = (Vec::new(), Chosen::new());
    let tables = &source.tables;
    let mut cut = Cut { model, graph: proto, tables, chosen, known, parts, remedy };
    if let Err(error) = importer.run_cut(&mut cut, apart, opset) {
        return Err(Failed { error, remedy: cut.remedy });
    }
    let (mut taken, mut named) = (BTreeSet::new(), BTreeSet::new());
    // One that is listed again is given once.
    for info in proto.output.iter().filter(|info| named.insert(&info.name)) {
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
    let parts = cut.parts;
    let known = importer.known();
    let mut graph = importer.graph;
    graph.prune();
    Ok(Imported { graph, parts, notes: Vec::new(), known })
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
        other => {
            let message = format!("it is of {}, and inputs are of numbers", types::name(other));
            return Err(Error::unsupported(message));
        }
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
        if !types::holds(tensor.elem_type, *value) {
            let of = types::name(tensor.elem_type);
            return Err(Error::mismatch(format!("{value} is no number of {of}")));
        }
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
