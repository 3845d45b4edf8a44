//! Hostile models: an error that names the place, never a panic or a hang.

use std::path::Path;
use std::time::{Duration, Instant};

use limbeck_graph::{TensorExpr, Value, ValueSource};
use limbeck_plan::Op;
use prost::Message;

use super::external::External;
use super::proto::*;
use super::{OnnxChoices, OnnxModel};

fn node(name: &str, op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let texts = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    NodeProto {
        name: name.into(),
        op_type: op.into(),
        input: texts(inputs),
        output: texts(outputs),
        ..NodeProto::default()
    }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    let r#type = attribute::INTS;
    AttributeProto { name: name.into(), ints: ints.to_vec(), r#type, ..AttributeProto::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: attribute::INT, ..AttributeProto::default() }
}

fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: dtype::FLOAT,
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn numbers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: dtype::INT64,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |n: &i64| DimensionProto { dim_value: Some(*n), dim_param: None };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = TensorTypeProto { elem_type: dtype::FLOAT, shape: Some(shape) };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { tensor_type: Some(tensor), ..TypeProto::default() }),
    }
}

/// `x [2, 3]` to `y` through these nodes.
fn model(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto {
        node: nodes,
        initializer: constants,
        input: vec![value("x", &[2, 3])],
        output: vec![value("y", &[])],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: String::new(), version: 18 };
    ModelProto { graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() }
}

fn open(model: &ModelProto) -> Result<OnnxModel, String> {
    read(&model.encode_to_vec())
}

fn read(bytes: &[u8]) -> Result<OnnxModel, String> {
    let found = OnnxModel::read(bytes, &External::none(), "model".into(), &OnnxChoices::default());
    found.map_err(|e| e.to_string())
}

/// The error, or why the model's one node was left to ONNX Runtime.
fn refusal(found: Result<OnnxModel, String>) -> Option<String> {
    let model = match found {
        Ok(model) => model,
        Err(error) => return Some(error),
    };
    let nodes = model.graph.entries.iter().flat_map(|(_, graph)| graph.nodes());
    nodes.into_iter().find_map(|node| match &node.op {
        Op::Onnx(p) => Some(p.reason.clone()),
        _ => None,
    })
}

#[test]
fn what_does_not_fit_names_its_node() {
    let with = |mut node: NodeProto, attributes: &[AttributeProto]| {
        node.attribute = attributes.to_vec();
        node
    };
    let weight = || tensor("w", &[2, 1, 1, 1], &[1.0, 2.0]);
    let huge = i64::MAX;
    let cases: Vec<(&str, NodeProto, Vec<TensorProto>)> = vec![
        ("reads \"z\"", node("n", "Relu", &["z"], &["y"]), vec![]),
        ("reads \"y\"", node("n", "Add", &["x", "y"], &["y"]), vec![]),
        ("input 1 is missing", node("n", "Add", &["x"], &["y"]), vec![]),
        (
            "3 and 4 do not go together",
            node("n", "Add", &["x", "w"], &["y"]),
            vec![tensor("w", &[4], &[0.0; 4])],
        ),
        ("axis 7", with(node("n", "Softmax", &["x"], &["y"]), &[int("axis", 7)]), vec![]),
        ("axis", with(node("n", "Concat", &["x", "x"], &["y"]), &[int("axis", huge)]), vec![]),
        ("order", with(node("n", "Transpose", &["x"], &["y"]), &[ints("perm", &[0, 0])]), vec![]),
        ("another type", with(node("n", "Transpose", &["x"], &["y"]), &[int("perm", 0)]), vec![]),
        ("", node("n", "Reshape", &["x", "w"], &["y"]), vec![numbers("w", &[5])]),
        ("", node("n", "Reshape", &["x", "w"], &["y"]), vec![numbers("w", &[huge, huge])]),
        ("negative", node("n", "Reshape", &["x", "w"], &["y"]), vec![numbers("w", &[-7])]),
        ("", node("n", "Reshape", &["x", "w"], &["y"]), vec![numbers("w", &[0, -1, 0])]),
        ("", node("n", "Reshape", &["x", "w"], &["y"]), vec![numbers("w", &[1; 40])]),
        ("", node("n", "Expand", &["x", "w"], &["y"]), vec![numbers("w", &[5, 5])]),
        ("images", node("n", "Conv", &["x", "w"], &["y"]), vec![weight()]),
        (
            "does not meet",
            node("n", "MatMul", &["x", "w"], &["y"]),
            vec![tensor("w", &[2, 2], &[0.0; 4])],
        ),
        (
            "out of range",
            node("n", "Gather", &["x", "w"], &["y"]),
            vec![TensorProto { dims: vec![], ..numbers("w", &[9]) }],
        ),
        ("", with(node("n", "Split", &["x"], &["y", "z"]), &[int("axis", -3)]), vec![]),
        ("", node("n", "Pad", &["x", "w"], &["y"]), vec![numbers("w", &[huge, 0, 0, 0])]),
        ("pads", node("n", "Pad", &["x", "w"], &["y"]), vec![numbers("w", &[1])]),
        ("", node("n", "Slice", &["x", "w", "w", "w"], &["y"]), vec![numbers("w", &[huge])]),
        ("", node("n", "LSTM", &["x", "w", "w"], &["y"]), vec![weight()]),
        (
            "",
            node("n", "Resize", &["x", "", "w"], &["y"]),
            vec![tensor("w", &[2], &[f32::NAN, 0.0])],
        ),
        ("condition", node("n", "If", &["x"], &["y"]), vec![]),
    ];
    for (message, node, constants) in cases {
        let operator = node.op_type.clone();
        let error = refusal(open(&model(vec![node], constants)));
        let error = error.unwrap_or_else(|| panic!("{operator} {message:?} was taken"));
        assert!(error.contains(message), "{operator}: {error}");
        assert!(error.contains(&format!("node \"n\" ({operator}): ")), "{error}");
    }
}

#[test]
fn circles_and_nodes_out_of_order_are_refused() {
    let circle = vec![node("a", "Relu", &["q"], &["p"]), node("b", "Relu", &["p"], &["q"])];
    let error = open(&model(circle, vec![])).err().expect("an error");
    assert!(error.contains("node \"a\"") && error.contains("circle"), "{error}");
}

#[test]
fn all_unknown_operators_are_listed_at_once() {
    let mut far = node("c", "Fold", &["x"], &["y"]);
    far.domain = "com.example".into();
    let nodes = vec![node("a", "Warp", &["x"], &["p"]), node("b", "Warp", &["p"], &["q"]), far];
    let error = open(&model(nodes, vec![])).err().expect("an error");
    assert!(error.contains("Warp in \"a\", \"b\""), "{error}");
    assert!(error.contains("com.example.Fold in \"c\""), "{error}");
}

#[test]
fn sizes_of_inputs_and_constants_are_checked() {
    let relu = || vec![node("n", "Relu", &["x"], &["y"])];
    for dims in [&[-5][..], &[i64::MIN], &[1 << 40], &[2; 9]] {
        let mut model = model(relu(), vec![]);
        if let Some(graph) = &mut model.graph {
            graph.input = vec![value("x", dims)];
        }
        let error = open(&model).err().unwrap_or_else(|| panic!("{dims:?} was taken"));
        assert!(error.contains("input \"x\""), "{error}");
    }
    for dims in [&[3][..], &[-1], &[i64::MAX, 2], &[1 << 20, 1 << 20]] {
        let error = open(&model(relu(), vec![tensor("w", dims, &[0.0; 2])])).err();
        let error = error.unwrap_or_else(|| panic!("{dims:?} was taken"));
        assert!(error.contains("initialiser \"w\""), "{error}");
    }
}

#[test]
fn models_that_grow_beyond_measure_are_not_computed() {
    // Each node doubles what is known.
    let mut nodes = Vec::new();
    let mut last = "w".to_owned();
    for i in 0..60 {
        let next = format!("v{i}");
        let mut join = node(&next, "Concat", &[&last, &last], &[&next]);
        join.attribute = vec![int("axis", 0)];
        nodes.push(join);
        last = next;
    }
    nodes.push(node("end", "Relu", &[&last], &["y"]));
    let start = Instant::now();
    for grown in [tensor("w", &[1024], &[0.5; 1024]), numbers("w", &[7; 1024])] {
        // Whether it is taken does not matter, as it has a size that no call can have; but what is
        // computed has a bound.
        let Ok(taken) = open(&model(nodes.clone(), vec![grown])) else { continue };
        let values = taken.graph.entries.iter().flat_map(|(_, graph)| graph.values());
        let held = |value: &Value| match &value.source {
            ValueSource::Weight(TensorExpr::Inline { values, .. }) => values.len(),
            _ => 0,
        };
        assert!(values.map(held).sum::<usize>() <= 1 << 27);
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn sizes_of_very_many_inputs_or_axes_have_no_native_form() {
    let mut given = model(vec![], vec![]);
    let open_sides = || {
        let dim = |name: &str| DimensionProto { dim_value: None, dim_param: Some(name.into()) };
        let shape = TensorShapeProto { dim: vec![dim("s"), dim("t")] };
        let tensor = TensorTypeProto { elem_type: dtype::FLOAT, shape: Some(shape) };
        let r#type = Some(TypeProto { tensor_type: Some(tensor), ..TypeProto::default() });
        ValueInfoProto { name: "x".into(), r#type }
    };
    let part = |name: &str, at: &str| node(name, "Gather", &["sizes", at], &[name]);
    let first = || vec![node("sizes", "Shape", &["x"], &["sizes"]), part("s", "0"), part("t", "1")];
    let scalar = |name: &str, n: i64| TensorProto { dims: vec![], ..numbers(name, &[n]) };
    let both: Vec<&str> = std::iter::repeat_n(["s", "t"], 50_000).flatten().collect();
    let mut turn = node("n", "Transpose", &["x"], &["turned"]);
    turn.attribute = vec![ints("perm", &[1, 0])];
    let cases = [
        (vec![node("n", "Max", &both, &["y"])], "too involved"),
        (vec![turn, node("n", "Reshape", &["turned", "ones"], &["y"])], "100000 axes"),
    ];
    for (nodes, message) in cases {
        if let Some(graph) = &mut given.graph {
            graph.input = vec![open_sides()];
            graph.node = first().into_iter().chain(nodes).collect();
            graph.initializer =
                vec![scalar("0", 0), scalar("1", 1), numbers("ones", &[1; 100_000])];
        }
        let error = refusal(open(&given)).expect("an error");
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_scalar_meets_no_matrix_of_few_bits() {
    let mut product = node("n", "MatMulNBits", &["x", "w", "scales"], &["y"]);
    product.domain = "com.microsoft".into();
    product.attribute = vec![int("K", 32), int("N", 1), int("bits", 4), int("block_size", 32)];
    let bytes = TensorProto {
        name: "w".into(),
        dims: vec![1, 1, 16],
        data_type: dtype::UINT8,
        raw_data: vec![0; 16],
        ..TensorProto::default()
    };
    let mut model = model(vec![product], vec![bytes, tensor("scales", &[1], &[1.0])]);
    let opset = OperatorSetIdProto { domain: "com.microsoft".into(), version: 1 };
    model.opset_import.push(opset);
    if let Some(graph) = &mut model.graph {
        graph.input = vec![value("x", &[])];
    }
    let error = open(&model).err().expect("an error");
    assert!(error.contains("a scalar"), "{error}");
}

#[test]
fn mutated_models_are_refused_or_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/onnx");
    let mut state = 1u64;
    let mut next = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let start = Instant::now();
    let (mut taken, mut refused) = (0, 0);
    for case in ["layout", "integers", "branches", "images_known", "norms", "reductions_11"] {
        let bytes = std::fs::read(folder.join(case).with_extension("onnx")).unwrap();
        for round in 0..1700 {
            let mut changed = bytes.clone();
            match round % 5 {
                0 => changed.truncate(next(bytes.len())),
                1 => {
                    let (from, to) = (next(bytes.len()), next(bytes.len()));
                    let part = bytes[from.min(to)..from.max(to)].to_vec();
                    let at = next(bytes.len());
                    changed.splice(at..at, part);
                }
                _ => {
                    for _ in 0..1 + next(4) {
                        let at = next(changed.len());
                        changed[at] = [0, 1, 0x7f, 0x80, 0xff, next(256) as u8][next(6)];
                    }
                }
            }
            match read(&changed) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
        }
    }
    println!("{taken} taken, {refused} refused, {:?}", start.elapsed());
    assert!(taken > 100 && refused > 1000, "{taken} taken, {refused} refused");
    assert!(start.elapsed() < Duration::from_secs(300));
}
