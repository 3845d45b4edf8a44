//! Types of elements by name, as far as a segment has to know them: the plan has f32 and i32 alone.

use std::collections::HashMap;

use super::MAX_DEPTH;
use super::proto::{GraphProto, NodeProto, ValueInfoProto, dtype};

/// By name, the number of its type of elements; 0 where it holds no tensor.
pub(super) struct Types(HashMap<String, i32>);

impl Types {
    /// Of all values of a graph: as the model says, or else by the operators that give them.
    pub fn of(graph: &GraphProto) -> Types {
        Types(Scope::of(graph, None).found)
    }

    /// That of a value.
    pub fn find(&self, name: &str) -> i32 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// The values of a graph and of those that it lies in.
struct Scope<'a> {
    found: HashMap<String, i32>,
    outer: Option<&'a Scope<'a>>,
    depth: usize,
}

impl Scope<'_> {
    fn of<'a>(graph: &GraphProto, outer: Option<&'a Scope<'a>>) -> Scope<'a> {
        let mut found = HashMap::new();
        for tensor in &graph.initializer {
            found.insert(tensor.name.clone(), tensor.data_type);
        }
        for info in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
            if let Some(of) = declared(info) {
                found.insert(info.name.clone(), of);
            }
        }
        let mut scope = Scope { found, outer, depth: outer.map_or(0, |scope| scope.depth + 1) };
        for node in &graph.node {
            let open = |name: &&String| !name.is_empty() && !scope.found.contains_key(*name);
            if node.output.iter().find(open).is_none() {
                continue;
            }
            let inner = scope.inner(node);
            let given = |index| scope.given(node, inner.as_ref(), index);
            let outputs = node.output.iter().enumerate().filter(|(_, name)| open(name));
            let more: Vec<_> = outputs.map(|(index, name)| (name.clone(), given(index))).collect();
            scope.found.extend(more);
        }
        scope
    }

    fn find(&self, name: &str) -> i32 {
        let here = self.found.get(name).copied();
        here.unwrap_or_else(|| self.outer.map_or(0, |outer| outer.find(name)))
    }

    /// The graph whose outputs a node gives, and its values.
    fn inner<'n>(&self, node: &'n NodeProto) -> Option<(&'n GraphProto, Scope<'_>)> {
        let name = match node.op_type.as_str() {
            "If" => "then_branch",
            "Loop" | "Scan" => "body",
            _ => return None,
        };
        let graph = node.attribute.iter().find(|a| a.name == name)?.g.as_deref()?;
        // Deeper ones are refused elsewhere.
        (self.depth < MAX_DEPTH).then(|| (graph, Scope::of(graph, Some(self))))
    }

    /// What a node gives at a place.
    fn given(
        &self,
        node: &NodeProto,
        inner: Option<&(&GraphProto, Scope<'_>)>,
        index: usize,
    ) -> i32 {
        let input = |at: usize| node.input.get(at).map_or(0, |name| self.find(name));
        let int = |name: &str| node.attribute.iter().find(|a| a.name == name).map(|a| a.i as i32);
        let tensor = || {
            let value = node.attribute.iter().find(|a| a.name == "value");
            value.and_then(|a| a.t.as_deref()).map(|t| t.data_type)
        };
        // Of the outputs of a loop's body the first says whether it goes on.
        let place = index + usize::from(node.op_type == "Loop");
        let of_inner = || {
            let (graph, scope) = inner?;
            let output = graph.output.get(place)?;
            Some(declared(output).filter(|of| *of != 0).unwrap_or_else(|| scope.find(&output.name)))
        };
        match node.op_type.as_str() {
            "Cast" => int("to").unwrap_or(0),
            "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Not" | "And"
            | "Or" | "Xor" | "IsNaN" | "IsInf" => dtype::BOOL,
            "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" | "NonMaxSuppression" => {
                dtype::INT64
            }
            "TopK" if index == 1 => dtype::INT64,
            "Unique" if index > 0 => dtype::INT64,
            "MaxPool" if index == 1 => dtype::INT64,
            "Constant" => match node.attribute.first().map(|a| a.name.as_str()) {
                Some("value_float" | "value_floats") => dtype::FLOAT,
                Some("value_int" | "value_ints") => dtype::INT64,
                _ => tensor().unwrap_or(0),
            },
            "If" | "Loop" | "Scan" => of_inner().unwrap_or(0),
            "EmbedLayerNormalization" | "GatherBlockQuantized" => input(2),
            "TfIdfVectorizer" => dtype::FLOAT,
            "HannWindow" | "HammingWindow" | "BlackmanWindow" | "MelWeightMatrix" => {
                int("output_datatype").unwrap_or(dtype::FLOAT)
            }
            "ConstantOfShape" => tensor().unwrap_or(dtype::FLOAT),
            "RandomNormal" | "RandomUniform" | "DequantizeLinear" => dtype::FLOAT,
            "MatMulInteger" | "ConvInteger" => dtype::INT32,
            "DynamicQuantizeLinear" if index == 1 => dtype::FLOAT,
            "DynamicQuantizeLinear" => dtype::UINT8,
            "QuantizeLinear" => match node.input.get(2).filter(|name| !name.is_empty()) {
                Some(zero) => self.find(zero),
                None => int("output_dtype").filter(|of| *of != 0).unwrap_or(dtype::UINT8),
            },
            "QLinearConv" | "QLinearMatMul" => input(7),
            "Where" | "CastLike" | "OneHot" => input(if node.op_type == "OneHot" { 2 } else { 1 }),
            "EyeLike" => int("dtype").unwrap_or_else(|| input(0)),
            _ => input(0),
        }
    }
}

/// What elements of a type are called, in ONNX's words.
pub(super) fn name(of: i32) -> String {
    let names = [
        "no type",
        "float32",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "strings",
        "bool",
        "float16",
        "float64",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
    ];
    let known = usize::try_from(of).ok().and_then(|of| names.get(of));
    known.map_or_else(|| format!("the type {of}"), |name| (*name).to_owned())
}

/// Whether an element of this type can be this number, perhaps rounded.
pub(super) fn holds(of: i32, value: f64) -> bool {
    let whole = |least: f64, most: f64| value.fract() == 0.0 && (least..=most).contains(&value);
    match of {
        dtype::BOOL => whole(0.0, 1.0),
        dtype::INT8 => whole(-128.0, 127.0),
        dtype::UINT8 => whole(0.0, 255.0),
        dtype::INT32 => whole(f64::from(i32::MIN), f64::from(i32::MAX)),
        dtype::INT64 => whole(-(2f64.powi(53)), 2f64.powi(53)),
        _ => (value as f32).is_finite() == value.is_finite(),
    }
}

/// Whether these are integers of fewer bits than a plan has.
pub(super) fn is_narrow(of: i32) -> bool {
    [dtype::INT8, dtype::UINT8, dtype::INT16, dtype::UINT16].contains(&of)
}

fn declared(info: &ValueInfoProto) -> Option<i32> {
    let tensor = info.r#type.as_ref()?.tensor_type.as_ref();
    Some(tensor.map_or(0, |tensor| tensor.elem_type))
}

/// Whether elements of this type are floats in a plan; `None` where a plan has no such elements.
pub(super) fn is_float(of: i32) -> Option<bool> {
    match of {
        dtype::FLOAT | dtype::DOUBLE | dtype::FLOAT16 | dtype::BFLOAT16 => Some(true),
        dtype::INT64
        | dtype::INT32
        | dtype::BOOL
        | dtype::UINT8
        | dtype::INT8
        | dtype::INT16
        | dtype::UINT16 => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::AttributeProto;

    fn info(name: &str, elem_type: i32) -> ValueInfoProto {
        crate::onnx::builder::value_info(name, elem_type, &[])
    }

    /// What nodes with graphs give is what the graphs give, not what the nodes take.
    #[test]
    fn types_of_inner_graphs_are_those_of_their_outputs() {
        let node = |kind: &str, graph: &str, output: Vec<ValueInfoProto>| NodeProto {
            op_type: kind.into(),
            input: vec!["in".into()],
            output: vec![kind.into()],
            attribute: vec![AttributeProto {
                name: graph.into(),
                g: Some(Box::new(GraphProto { output, ..GraphProto::default() })),
                ..AttributeProto::default()
            }],
            ..NodeProto::default()
        };
        let graph = GraphProto {
            input: vec![info("in", dtype::INT64)],
            node: vec![
                node("If", "then_branch", vec![info("a", dtype::FLOAT)]),
                node("Loop", "body", vec![info("b", dtype::BOOL), info("c", dtype::FLOAT)]),
                node("Scan", "body", vec![info("d", dtype::INT32)]),
            ],
            ..GraphProto::default()
        };
        let types = Types::of(&graph);
        let found = ["If", "Loop", "Scan"].map(|name| types.find(name));
        assert_eq!(found, [dtype::FLOAT, dtype::FLOAT, dtype::INT32]);
    }
}
