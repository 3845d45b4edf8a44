//! A graph of ONNX that grows node by node.

use std::collections::{HashMap, HashSet};

use limbeck_plan::{DType, Dim};

use super::proto::{
    AttributeProto, DimensionProto, GraphProto, NodeProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto, attribute, dtype,
};

/// Nodes, constants, and what goes in and out. Values are known by their names, each of which is given
/// once.
#[derive(Default)]
pub(crate) struct Builder {
    graph: GraphProto,
    taken: HashSet<String>,
    constants: HashMap<(i32, Vec<i64>, Vec<u8>), String>,
    /// The step at hand, after which nodes are called.
    pub step: String,
}

/// An attribute that is an integer.
pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: attribute::INT, ..AttributeProto::default() }
}

/// An attribute that is a list of integers.
pub(crate) fn ints(name: &str, ints: impl IntoIterator<Item = i64>) -> AttributeProto {
    let (name, ints) = (name.into(), ints.into_iter().collect());
    AttributeProto { name, ints, r#type: attribute::INTS, ..AttributeProto::default() }
}

/// An attribute that is a float.
pub(crate) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f, r#type: attribute::FLOAT, ..AttributeProto::default() }
}

/// An attribute that is a text.
pub(crate) fn text(name: &str, s: &str) -> AttributeProto {
    let (name, s) = (name.into(), s.as_bytes().to_vec());
    AttributeProto { name, s, r#type: attribute::STRING, ..AttributeProto::default() }
}

/// The number of a type of elements.
pub(crate) fn element_type(of: DType) -> i32 {
    match of {
        DType::F32 => dtype::FLOAT,
        DType::I32 => dtype::INT32,
    }
}

impl Builder {
    /// A name that no other value or node has.
    pub fn fresh(&mut self, wish: &str) -> String {
        let mut name = wish.to_owned();
        let mut count = 1usize;
        while !self.taken.insert(name.clone()) {
            count += 1;
            name = format!("{wish}_{count}");
        }
        name
    }

    /// Adds a node of one result and gives that.
    pub fn op(&mut self, kind: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.ops(kind, inputs, attributes, 1).pop().unwrap_or_default()
    }

    /// Adds a node of several results.
    pub fn ops(
        &mut self,
        kind: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
        results: usize,
    ) -> Vec<String> {
        let name = self.fresh(&format!("{}/{kind}", self.step));
        let result =
            |index: usize| if index == 0 { name.clone() } else { format!("{name}:{index}") };
        let output: Vec<String> = (0..results).map(result).collect();
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: output.clone(),
            name,
            op_type: kind.into(),
            attribute: attributes,
            ..NodeProto::default()
        });
        output
    }

    /// Adds an elementwise conversion.
    pub fn cast(&mut self, x: &str, to: i32) -> String {
        self.op("Cast", &[x], vec![int("to", to.into())])
    }

    /// A constant; the same bytes are the same constant.
    fn constant(&mut self, data_type: i32, dims: Vec<i64>, raw_data: Vec<u8>) -> String {
        let key = (data_type, dims.clone(), raw_data.clone());
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.fresh("constant");
        let tensor =
            TensorProto { name: name.clone(), dims, data_type, raw_data, ..TensorProto::default() };
        self.graph.initializer.push(tensor);
        self.constants.insert(key, name.clone());
        name
    }

    /// A list of integers.
    pub fn integers(&mut self, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(dtype::INT64, vec![values.len() as i64], bytes)
    }

    /// One integer of 64 bits.
    pub fn integer(&mut self, value: i64) -> String {
        self.constant(dtype::INT64, Vec::new(), value.to_le_bytes().to_vec())
    }

    /// One integer of 32 bits.
    pub fn word(&mut self, value: i32) -> String {
        self.constant(dtype::INT32, Vec::new(), value.to_le_bytes().to_vec())
    }

    /// One float.
    pub fn number(&mut self, value: f32) -> String {
        self.constant(dtype::FLOAT, Vec::new(), value.to_le_bytes().to_vec())
    }

    /// Floats in one list.
    pub fn floats(&mut self, values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(dtype::FLOAT, vec![values.len() as i64], bytes)
    }

    /// Adds an initialiser under a name like its own, and gives that.
    pub fn initialiser(&mut self, mut tensor: TensorProto) -> String {
        tensor.name = self.fresh(&tensor.name);
        let name = tensor.name.clone();
        self.graph.initializer.push(tensor);
        name
    }

    /// Adds an input of this name.
    pub fn input(&mut self, name: &str, elements: i32, shape: &[Dim]) -> String {
        let name = self.fresh(name);
        self.graph.input.push(value_info(&name, elements, shape));
        name
    }

    /// Keeps a name for an output.
    pub fn reserve(&mut self, name: &str) {
        self.taken.insert(name.to_owned());
    }

    /// Makes a value an output of a name that was kept for it.
    pub fn output(&mut self, name: &str, value: &str, elements: i32, shape: &[Dim]) {
        let node = self.fresh(&format!("{name}/Identity"));
        self.graph.node.push(NodeProto {
            input: vec![value.into()],
            output: vec![name.into()],
            name: node,
            op_type: "Identity".into(),
            ..NodeProto::default()
        });
        self.graph.output.push(value_info(name, elements, shape));
    }

    /// Makes an input an output as well.
    pub fn passed_on(&mut self, name: &str, elements: i32, shape: &[Dim]) {
        self.graph.output.push(value_info(name, elements, shape));
    }

    /// The graph.
    pub fn finish(mut self, name: &str) -> GraphProto {
        self.graph.name = name.into();
        self.graph
    }
}

/// A tensor of this name, type and shape.
pub(crate) fn value_info(name: &str, elem_type: i32, shape: &[Dim]) -> ValueInfoProto {
    let dim = |dim: &Dim| match dim.as_const().and_then(|n| i64::try_from(n).ok()) {
        Some(n) => DimensionProto { dim_value: Some(n), dim_param: None },
        None => DimensionProto { dim_value: None, dim_param: Some(dim.to_string()) },
    };
    let shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type, shape });
    let r#type = Some(TypeProto { tensor_type, ..TypeProto::default() });
    ValueInfoProto { name: name.into(), r#type }
}
