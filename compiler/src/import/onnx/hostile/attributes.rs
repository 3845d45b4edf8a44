//! Attributes and sizes that contradict what a node takes.

use super::*;

/// The error of a model whose one node takes `x` of these sizes and the constants.
fn error_of(mut node: NodeProto, dims: &[i64], constants: Vec<TensorProto>) -> Option<String> {
    node.name = "n".into();
    let mut model = model(vec![node], constants);
    if let Some(graph) = &mut model.graph {
        graph.input = vec![value("x", dims)];
    }
    open(&model).err()
}

fn with(kind: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto { attribute: attributes, ..node("n", kind, inputs, &["y"]) }
}

fn zeros(name: &str, dims: &[i64]) -> TensorProto {
    tensor(name, dims, &vec![0.5; dims.iter().product::<i64>() as usize])
}

#[test]
fn windows_that_no_image_has_are_refused() {
    let image = [1, 2, 5, 5];
    let weight = || vec![zeros("w", &[2, 2, 3, 3])];
    let conv = |attributes| with("Conv", &["x", "w"], attributes);
    let pool = |kernel: i64, mut more: Vec<AttributeProto>| {
        more.push(ints("kernel_shape", &[kernel, kernel]));
        with("MaxPool", &["x"], more)
    };
    assert_eq!(error_of(conv(vec![ints("kernel_shape", &[3, 3])]), &image, weight()), None);
    assert_eq!(error_of(pool(5, vec![]), &image, vec![]), None);
    for (message, node) in [
        ("kernel_shape [2, 3]", conv(vec![ints("kernel_shape", &[2, 3])])),
        ("\"strides\" has the value 0", conv(vec![ints("strides", &[0, 1])])),
        ("\"dilations\" has the value 0", conv(vec![ints("dilations", &[1, 0])])),
        ("the value -1", conv(vec![ints("strides", &[-1, 1])])),
        ("the value -2", conv(vec![ints("dilations", &[1, -2])])),
        ("\"group\" has the value 0", conv(vec![int("group", 0)])),
        ("\"group\" has the value -1", conv(vec![int("group", -1)])),
        ("window of 7 is larger", conv(vec![ints("dilations", &[1, 3])])),
        ("window of 6 is larger", pool(6, vec![])),
        ("\"kernel_shape\" has the value 0", pool(0, vec![])),
        ("\"strides\" has the value 0", pool(2, vec![ints("strides", &[1, 0])])),
    ] {
        let constants = if node.op_type == "Conv" { weight() } else { vec![] };
        let error = error_of(node, &image, constants);
        let error = error.unwrap_or_else(|| panic!("{message:?} was taken"));
        assert!(error.contains(message) && error.contains("node \"n\""), "{error}");
    }
}

#[test]
fn units_and_parts_that_are_not_those_of_operands_are_refused() {
    let recurrent =
        |gates: i64| vec![zeros("w", &[1, gates * 4, 5]), zeros("r", &[1, gates * 4, 4])];
    let of = |kind: &str, units: i64| with(kind, &["x", "w", "r"], vec![int("hidden_size", units)]);
    for (kind, gates) in [("LSTM", 4), ("GRU", 3)] {
        assert_eq!(error_of(of(kind, 4), &[3, 2, 5], recurrent(gates)), None, "{kind}");
        let error = error_of(of(kind, 7), &[3, 2, 5], recurrent(gates)).expect("a refusal");
        assert!(error.contains("hidden_size 7") && error.contains("node \"n\""), "{error}");
    }
    for (message, node, constant) in [
        ("parts of 3", node("n", "Split", &["x", "p"], &["y", "z"]), numbers("p", &[1, 2])),
        ("the size (2 - 5)", node("n", "Pad", &["x", "p"], &["y"]), numbers("p", &[-5, 0, 0, 0])),
    ] {
        let error = error_of(node, &[2, 3], vec![constant]).expect("a refusal");
        assert!(error.contains(message) && error.contains("node \"n\""), "{error}");
    }
}

/// Of what no output needs nothing has to be known.
#[test]
fn nodes_that_no_output_needs_are_not_imported() {
    let relu = || node("n", "Relu", &["x"], &["y"]);
    for dead in [node("d", "Warp", &["x"], &["z"]), node("d", "Celu", &["x"], &["z"])] {
        let found = open(&model(vec![relu(), dead], vec![])).unwrap_or_else(|e| panic!("{e}"));
        assert!(found.parts.is_empty());
    }
    // Within a branch too.
    let inner = |kind: &str| GraphProto {
        node: vec![node("d", "Warp", &["x"], &["z"]), node("i", kind, &["x"], &["r"])],
        output: vec![value("r", &[2, 3])],
        ..GraphProto::default()
    };
    let mut choose = node("n", "If", &["flag"], &["y"]);
    choose.attribute =
        vec![branch("then_branch", inner("Relu")), branch("else_branch", inner("Neg"))];
    let flag = TensorProto { dims: vec![], ..numbers("flag", &[1]) };
    let found = open(&model(vec![choose], vec![flag])).unwrap_or_else(|e| panic!("{e}"));
    assert!(found.parts.is_empty());
}

/// ONNX Runtime optimises by the types and sizes that a model says.
#[test]
fn segments_keep_what_is_said_of_their_values() {
    let nodes = vec![
        node("a", "Celu", &["x"], &["p"]),
        node("b", "Celu", &["p"], &["q"]),
        node("n", "Relu", &["q"], &["y"]),
    ];
    let mut model = model(nodes, vec![]);
    if let Some(graph) = &mut model.graph {
        graph.value_info = vec![value("p", &[2, 3]), value("q", &[2, 3]), value("y", &[2, 3])];
    }
    let found = open(&model).unwrap_or_else(|e| panic!("{e}"));
    let graph = found.parts[0].model.graph.as_ref().expect("a graph");
    let said: Vec<&str> = graph.value_info.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(said, ["p", "q", "x"]);
}
