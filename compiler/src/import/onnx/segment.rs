//! Nodes for ONNX Runtime: they stay as they are, in a model of their own within the plan.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use half::{bf16, f16};
use limbeck_plan::{DType, Dim, Fact, Onnx};

use super::constant::{Constant, Data};
use super::cut::Cut;
use super::importer::{Importer, Item, Laid, plain};
use super::node::Node;
use super::proto::{
    DimensionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto,
    dtype,
};
use super::types;
use crate::error::{At, Error, Result};
use crate::onnx::builder::{element_type, int, value_info};
use crate::segments::{Part, summary};

impl<'a> Importer<'a> {
    /// Imports nodes as one segment.
    pub(super) fn segment(&mut self, cut: &mut Cut<'a>, group: &[usize]) -> Result<()> {
        let nodes: Vec<&NodeProto> = group.iter().map(|at| &cut.graph.node[*at]).collect();
        let written: HashSet<&str> = nodes
            .iter()
            .flat_map(|n| &n.output)
            .map(String::as_str)
            .filter(|n| !n.is_empty())
            .collect();
        self.node = Node { proto: nodes[0], opset: 0 }.name().to_owned();
        let mut graph = GraphProto { name: "segment".into(), ..GraphProto::default() };
        let (mut inputs, mut facts) = (Vec::new(), Vec::new());
        let mut data = HashMap::new();
        let read: BTreeSet<&str> =
            group.iter().flat_map(|at| &cut.tables.reads[*at]).copied().collect();
        for name in read.into_iter().filter(|name| !written.contains(name)) {
            let place = || format!("{name:?}, which a segment reads");
            let inside = cut.tables.names.of_value(name);
            if let Some(tensor) = cut.tables.initialisers.get(name) {
                data.extend(self.initialiser(tensor, inside, &mut graph).at(place())?);
                continue;
            }
            let item = self.find(name).cloned();
            let item =
                item.ok_or_else(|| Error::format("nothing before it gives it")).at(place())?;
            if let Item::Constant(constant) = &item {
                let tensor = stored(&inside, constant, cut.tables.types.find(name)).at(place())?;
                graph.initializer.push(tensor);
                continue;
            }
            let value = self.plain_value(&item).at(place())?;
            let fact = self.graph.value(value).fact.clone();
            given(&mut graph, (inputs.len(), &inside), &fact, cut.tables.types.find(name))
                .at(place())?;
            inputs.push(value);
            facts.push(fact);
        }
        for node in nodes {
            let place =
                || format!("a graph within node {:?}", Node { proto: node, opset: 0 }.name());
            let mut node = node.clone();
            self.inline(&mut node).at(place())?;
            cut.tables.names.rename(&mut node);
            graph.node.push(node);
        }
        graph.value_info = declared(cut, &graph);
        let outputs = self.outputs(cut, group, &mut graph)?;
        let reasons = cut.reasons(group);
        let names: Vec<String> = outputs.iter().map(|(name, _)| name.clone()).collect();
        let gives = outputs.into_iter().map(|(_, fact)| fact).collect();
        let op = Part::op(cut.parts.len(), facts, gives, summary(&reasons));
        let values = self.graph.nodes_of(&self.node.clone(), op, &inputs);
        let values = values.map_err(|e| Error::mismatch(e.message()))?;
        for (name, value) in names.iter().zip(values) {
            let rank = self.graph.value(value).fact.shape.len();
            self.set(name, Item::Value(Laid { value, order: plain(rank) }));
        }
        let ModelProto {
            ir_version, producer_name, producer_version, opset_import, functions, ..
        } = cut.model;
        let model = ModelProto {
            ir_version: *ir_version,
            producer_name: producer_name.clone(),
            producer_version: producer_version.clone(),
            graph: Some(graph),
            opset_import: opset_import.clone(),
            metadata_props: Vec::new(),
            functions: functions.clone(),
        };
        cut.parts.push(Part { model, data, reasons });
        Ok(())
    }

    /// Gives a segment an initialiser. Its elements, where they are bytes, are those of all segments that have it.
    fn initialiser(
        &mut self,
        tensor: &'a TensorProto,
        name: String,
        graph: &mut GraphProto,
    ) -> Result<Option<(String, Arc<[u8]>)>> {
        let TensorProto { dims, data_type, raw_data, .. } = tensor;
        let (dims, data_type) = (dims.clone(), *data_type);
        let is_raw = tensor.data_location == 1 || !raw_data.is_empty() || data_type == dtype::FLOAT;
        if !is_raw {
            graph.initializer.push(TensorProto { name, ..tensor.clone() });
            return Ok(None);
        }
        graph.initializer.push(TensorProto {
            name: name.clone(),
            dims,
            data_type,
            ..TensorProto::default()
        });
        let known = self.elements.borrow().get(&tensor.name).cloned();
        let elements = match known {
            Some(elements) => elements,
            None => {
                let elements: Arc<[u8]> = self.bytes(tensor)?.into();
                self.elements.borrow_mut().insert(tensor.name.clone(), elements.clone());
                elements
            }
        };
        Ok(Some((name, elements)))
    }

    /// What a segment gives: values that others read, with what is known of their sizes.
    fn outputs(
        &mut self,
        cut: &mut Cut<'a>,
        group: &[usize],
        graph: &mut GraphProto,
    ) -> Result<Vec<(String, Fact)>> {
        let is_output = |name: &str| cut.tables.outputs.contains(name);
        let inside: HashSet<usize> = group.iter().copied().collect();
        let mut found = Vec::new();
        let mut tainted = Vec::new();
        for name in group.iter().flat_map(|at| &cut.graph.node[*at].output) {
            let readers = cut.tables.readers.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let outside = || readers.iter().copied().filter(|at| !inside.contains(at));
            if name.is_empty() || outside().next().is_none() && !is_output(name) {
                continue;
            }
            let native: Vec<usize> = outside().filter(|at| !cut.chosen.contains_key(at)).collect();
            let of = cut.tables.types.find(name);
            let Some(fact) = self.given_by(cut, name) else {
                if native.is_empty() && is_output(name) {
                    let message = format!("the output {name:?} is not of numbers");
                    return Err(Error::unsupported(message));
                }
                tainted.extend(native);
                continue;
            };
            if !native.is_empty() && !self.is_bound(&fact) {
                tainted.extend(native);
                continue;
            }
            given_out(graph, (found.len(), &cut.tables.names.of_value(name)), &fact, of);
            found.push((name.clone(), fact));
        }
        if tainted.is_empty() {
            return Ok(found);
        }
        self.taint(cut, tainted);
        Err(Error::unsupported("a value has sizes that are not known"))
    }

    /// Puts nodes into segments, and with them all that read of them what only ONNX Runtime knows.
    fn taint(&self, cut: &mut Cut<'_>, mut nodes: Vec<usize>) {
        let why = "they read values of which only ONNX Runtime knows the sizes";
        while let Some(at) = nodes.pop() {
            if cut.chosen.contains_key(&at) || cut.remedy.insert(at, why.into()).is_some() {
                continue;
            }
            for name in cut.graph.node[at].output.iter().filter(|name| !name.is_empty()) {
                if !self.given_by(cut, name).is_some_and(|fact| self.is_bound(&fact)) {
                    nodes.extend(cut.tables.readers.get(name.as_str()).into_iter().flatten());
                }
            }
        }
    }

    /// What is known of a value that a segment gives; `None` where it is not of numbers.
    fn given_by(&self, cut: &Cut<'_>, name: &str) -> Option<Fact> {
        let dtype =
            if types::is_float(cut.tables.types.find(name))? { DType::F32 } else { DType::I32 };
        Some(Fact::new(dtype, self.sizes_of(cut, name)))
    }

    /// Whether all sizes follow from those of the inputs.
    fn is_bound(&self, fact: &Fact) -> bool {
        let mut symbols = Vec::new();
        fact.shape.iter().for_each(|dim| dim.symbols(&mut symbols));
        symbols.iter().all(|name| self.binds(name))
    }

    /// The sizes of a value, as a native import has found them or as far as the model says.
    fn sizes_of(&self, cut: &Cut<'a>, name: &str) -> Vec<Dim> {
        if let Some(found) = cut.known.get(name) {
            return found.fact.shape.clone();
        }
        let infos = cut.graph.value_info.iter().chain(&cut.graph.output);
        let info = infos.into_iter().find(|info| info.name == name);
        let tensor = info.and_then(|info| info.r#type.as_ref()?.tensor_type.as_ref());
        match tensor.and_then(|tensor| tensor.shape.as_ref()) {
            Some(shape) if shape.dim.len() <= limbeck_plan::MAX_RANK => {
                let dim = |(axis, dim): (usize, &DimensionProto)| self.size_of(dim, name, axis);
                shape.dim.iter().enumerate().map(dim).collect()
            }
            _ => vec![Dim::symbol(Onnx::ANY)],
        }
    }

    fn size_of(&self, dim: &DimensionProto, name: &str, axis: usize) -> Dim {
        match (dim.dim_value, dim.dim_param.as_deref()) {
            (Some(n), _) if (1..1 << 31).contains(&n) => Dim::Const(n as u64),
            (_, Some(symbol)) if self.binds(symbol) => Dim::symbol(symbol),
            _ => Dim::symbol(&format!("{name}.{axis}")),
        }
    }

    /// Whether an input has a size of this name.
    fn binds(&self, symbol: &str) -> bool {
        let given = |v: &&limbeck_graph::Value| v.source == limbeck_graph::ValueSource::Input;
        let mut sizes = self.graph.values().iter().filter(given).flat_map(|v| &v.fact.shape);
        sizes.any(|dim| *dim == Dim::symbol(symbol))
    }

    /// The elements of a tensor that has them as bytes, as floats or in a file.
    fn bytes(&self, tensor: &TensorProto) -> Result<Vec<u8>> {
        if tensor.data_location == 1 {
            return self.external.read(tensor);
        }
        Ok(match tensor.raw_data.is_empty() {
            true => tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            false => tensor.raw_data.clone(),
        })
    }

    /// Puts the elements of a tensor in a file into the tensor.
    fn bring_in(&self, tensor: &mut TensorProto) -> Result<()> {
        if tensor.data_location == 1 {
            tensor.raw_data = self.bytes(tensor)?;
            tensor.data_location = 0;
            tensor.external_data.clear();
        }
        Ok(())
    }

    /// Reads the data of tensors within a node: a plan's models name no files of their own.
    fn inline(&self, node: &mut NodeProto) -> Result<()> {
        for attribute in &mut node.attribute {
            let mut tensors = attribute.t.as_deref_mut().into_iter().chain(&mut attribute.tensors);
            tensors.try_for_each(|tensor| self.bring_in(tensor))?;
            for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
                graph.initializer.iter_mut().try_for_each(|tensor| self.bring_in(tensor))?;
                graph.node.iter_mut().try_for_each(|node| self.inline(node))?;
            }
        }
        Ok(())
    }
}

/// What a model says of the values within a segment: ONNX Runtime optimises by it.
fn declared(cut: &Cut<'_>, graph: &GraphProto) -> Vec<ValueInfoProto> {
    let written: HashSet<&str> =
        graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let of = cut.graph;
    let all = of.value_info.iter().chain(&of.input).chain(&of.output);
    let mut seen = HashSet::new();
    all.filter(|info| info.r#type.as_ref().is_some_and(|of| *of != TypeProto::default()))
        .map(|info| ValueInfoProto { name: cut.tables.names.of_value(&info.name), ..info.clone() })
        .filter(|info| written.contains(info.name.as_str()) && seen.insert(info.name.clone()))
        .collect()
}

/// An input of a segment: a value of the plan as the type that the model has.
fn given(graph: &mut GraphProto, (index, name): (usize, &str), fact: &Fact, of: i32) -> Result<()> {
    if types::is_float(of).is_none() {
        return Err(Error::unsupported(format!("values of the type {}", types::name(of))));
    }
    let input = Onnx::input(index);
    graph.input.push(value_info(&input, element_type(fact.dtype), &fact.shape));
    graph.node.push(cast(&input, name, of, element_type(fact.dtype)));
    Ok(())
}

/// An output of a segment: a value of the model as the plan has it.
fn given_out(graph: &mut GraphProto, (index, name): (usize, &str), fact: &Fact, of: i32) {
    let output = Onnx::output(index);
    let to = element_type(fact.dtype);
    graph.node.push(cast(name, &output, to, of));
    let info = match fact.shape.as_slice() {
        [any] if *any == Dim::symbol(Onnx::ANY) => {
            let mut info = value_info(&output, to, &[]);
            forget_shape(&mut info);
            info
        }
        shape => value_info(&output, to, shape),
    };
    graph.output.push(info);
}

fn forget_shape(info: &mut ValueInfoProto) {
    if let Some(tensor) = info.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()) {
        tensor.shape = None;
    }
}

fn cast(from: &str, to: &str, of: i32, have: i32) -> NodeProto {
    let (op_type, attribute) = match of == have {
        true => ("Identity", Vec::new()),
        false => ("Cast", vec![int("to", of.into())]),
    };
    NodeProto {
        input: vec![from.into()],
        output: vec![to.into()],
        name: format!("{from} to {to}"),
        op_type: op_type.into(),
        attribute,
        ..NodeProto::default()
    }
}

/// A constant that was computed, as an initialiser of the model's type.
fn stored(name: &str, constant: &Constant, of: i32) -> Result<TensorProto> {
    let of = if of == 0 { constant.dtype } else { of };
    let raw_data: Vec<u8> = match (&constant.data, of) {
        (Data::F32(v), dtype::FLOAT) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
        (Data::F32(v), dtype::DOUBLE) => {
            v.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect()
        }
        (Data::F32(v), dtype::FLOAT16) => {
            v.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()
        }
        (Data::F32(v), dtype::BFLOAT16) => {
            v.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()
        }
        (Data::I64(v), dtype::INT64) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
        (Data::I64(v), dtype::INT32) => v.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect(),
        (Data::I64(v), dtype::INT16 | dtype::UINT16) => {
            v.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect()
        }
        (Data::I64(v), dtype::BOOL | dtype::UINT8 | dtype::INT8) => {
            v.iter().map(|v| *v as u8).collect()
        }
        _ => return Err(Error::unsupported(format!("a constant of the type {}", types::name(of)))),
    };
    Ok(TensorProto {
        name: name.into(),
        dims: constant.shape.iter().map(|n| *n as i64).collect(),
        data_type: of,
        raw_data,
        ..TensorProto::default()
    })
}
