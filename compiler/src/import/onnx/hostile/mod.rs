//! Hostile models: an error that names the place, never a panic or a hang.

mod attributes;
mod limits;
mod mutations;

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
        assert!(error.contains(&format!("\"n\" ({operator})")), "{error}");
    }
}

#[test]
fn circles_and_nodes_out_of_order_are_refused() {
    let circle = vec![
        node("a", "Relu", &["q"], &["p"]),
        node("b", "Relu", &["p"], &["q"]),
        node("c", "Relu", &["p"], &["y"]),
    ];
    let error = open(&model(circle, vec![])).err().expect("an error");
    assert!(error.contains("node \"a\"") && error.contains("circle"), "{error}");
}

#[test]
fn all_unknown_operators_are_listed_at_once() {
    let mut far = node("c", "Fold", &["q"], &["y"]);
    far.domain = "com.example".into();
    let nodes = vec![node("a", "Warp", &["x"], &["p"]), node("b", "Warp", &["p"], &["q"]), far];
    let error = open(&model(nodes, vec![])).err().expect("an error");
    assert!(error.contains("Warp in \"a\", \"b\""), "{error}");
    assert!(error.contains("com.example.Fold in \"c\""), "{error}");
    // Within a list of graphs too.
    let inner =
        GraphProto { node: vec![node("d", "Warp", &["x"], &["r"])], ..GraphProto::default() };
    let graphs =
        AttributeProto { name: "each".into(), graphs: vec![inner], ..AttributeProto::default() };
    let outer = NodeProto { attribute: vec![graphs], ..node("e", "Relu", &["x"], &["y"]) };
    let error = open(&model(vec![outer], vec![])).err().expect("an error");
    assert!(error.contains("Warp in \"d\""), "{error}");
}

/// Forms that are not native are found together, as far as one does not depend on the other.
#[test]
fn any_number_of_nodes_without_a_native_form_is_imported() {
    let mut nodes = Vec::new();
    let largest = |at: usize, of: &str| {
        let (values, places) = (format!("v{at}"), format!("p{at}"));
        node(&format!("top{at}"), "TopK", &[of, "two"], &[&values, &places])
    };
    nodes.extend((0..200).map(|at| largest(at, "x")));
    let mut chain = "v0".to_owned();
    for at in 1..4 {
        let (sum, next) = (format!("sum{at}"), format!("next{at}"));
        nodes.push(node(&sum, "Add", &[&chain, "v9"], &[&sum]));
        nodes.push(node(&next, "TopK", &[&sum, "two"], &[&next, &format!("{next}.places")]));
        chain = next;
    }
    nodes.extend((200..400).map(|at| largest(at, "sum1")));
    nodes.push(node("last", "Relu", &[&chain], &["y"]));
    let mut model = model(nodes, vec![numbers("two", &[2])]);
    if let Some(graph) = &mut model.graph {
        let given = ["v0", "v9", "next1", "next2", "next3"];
        graph.value_info = given.map(|name| value(name, &[2, 2])).to_vec();
        // None of them is left out.
        graph.output.extend((0..400).map(|at| value(&format!("v{at}"), &[2, 2])));
    }
    let found = open(&model).unwrap_or_else(|e| panic!("{e}"));
    let reasons = found.parts.iter().flat_map(|part| &part.reasons);
    let count: usize = reasons.map(|reason| reason.nodes.len()).sum();
    assert_eq!((found.parts.len(), count), (4, 403));
    let native = found.graph.entries[0].1.nodes().iter().filter(|n| !matches!(n.op, Op::Onnx(_)));
    let native: Vec<&str> = native.map(|node| node.name.as_str()).collect();
    assert_eq!(native, ["sum1", "sum2", "sum3", "last"]);
}

/// However many segments read a tensor, its file is read once.
#[test]
fn segments_share_the_data_of_a_file() {
    let folder = std::env::temp_dir().join(format!("limbeck-shared-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("data"), [0; 24]).unwrap();
    let entry = StringStringEntryProto { key: "location".into(), value: "data".into() };
    let mut data = TensorProto { external_data: vec![entry], ..tensor("w", &[2, 3], &[]) };
    data.data_location = 1;
    let (mut nodes, mut last) = (Vec::new(), "x".to_owned());
    for at in 0..9 {
        let (sum, next) = (format!("sum{at}"), format!("next{at}"));
        nodes.push(node(&sum, "Add", &[&last, "w"], &[&sum]));
        nodes.push(node(&next, "Relu", &[&sum], &[&next]));
        last = next;
    }
    nodes.push(node("last", "Relu", &[&last], &["y"]));
    let path = folder.join("model.onnx");
    std::fs::write(&path, model(nodes, vec![data]).encode_to_vec()).unwrap();
    let choices = OnnxChoices { onnx_for: vec!["sum*".into()], ..OnnxChoices::default() };
    let found = OnnxModel::open(&path, &choices).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.parts.len(), 9);
    assert!(
        found.parts.iter().all(|p| std::sync::Arc::ptr_eq(&p.data["w"], &found.parts[0].data["w"]))
    );
    std::fs::remove_dir_all(folder).unwrap();
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
fn names_that_come_twice_are_refused() {
    let relu = |name: &str, to: &str| node(name, "Relu", &["x"], &[to]);
    let w = || tensor("w", &[1], &[1.0]);
    let cases = [
        ("node \"b\"", model(vec![relu("a", "y"), relu("b", "y")], vec![])),
        ("node \"b\"", model(vec![relu("a", "y"), relu("b", "x")], vec![])),
        ("node \"b\"", model(vec![relu("a", "y"), relu("b", "w")], vec![w()])),
        ("initialiser \"w\"", model(vec![relu("a", "y")], vec![w(), w()])),
    ];
    for (place, model) in cases {
        let error = open(&model).err().unwrap_or_else(|| panic!("{place} was taken"));
        assert!(error.contains(place), "{error}");
    }
    // Before IR version 4 initialisers are inputs as well.
    let mut both = model(vec![node("a", "Mul", &["x", "w"], &["y"])], vec![w()]);
    if let Some(graph) = &mut both.graph {
        graph.input.push(value("w", &[1]));
    }
    assert!(open(&both).is_ok());
    if let Some(graph) = &mut both.graph {
        graph.input.push(value("x", &[2, 3]));
    }
    assert!(open(&both).err().expect("an error").contains("input \"x\""));
}

#[test]
fn positions_of_other_shapes_turn_nothing() {
    for (dims, taken) in [
        (&[1][..], true),
        (&[2, 4], true),
        (&[1, 4], true),
        (&[], false),
        (&[4], false),
        (&[2], false),
        (&[4, 2], false),
        (&[3, 4], false),
        (&[1, 2, 4], false),
    ] {
        let mut turn = node("n", "RotaryEmbedding", &["x", "ids", "cos", "sin"], &["y"]);
        turn.domain = "com.microsoft".into();
        let cache = |name: &str| tensor(name, &[8, 2], &[0.5; 16]);
        let count: i64 = dims.iter().product();
        let ids = TensorProto {
            dims: dims.to_vec(),
            ..numbers("ids", &vec![1; usize::try_from(count).unwrap()])
        };
        let mut model = model(vec![turn], vec![cache("cos"), cache("sin"), ids]);
        let opset = OperatorSetIdProto { domain: "com.microsoft".into(), version: 1 };
        model.opset_import.push(opset);
        if let Some(graph) = &mut model.graph {
            graph.input = vec![value("x", &[2, 4, 8])];
        }
        let found = open(&model);
        match taken {
            true => drop(found.unwrap_or_else(|e| panic!("{dims:?}: {e}"))),
            false => {
                let error = found.err().unwrap_or_else(|| panic!("{dims:?} were taken"));
                assert!(error.contains("node \"n\"") && error.contains("positions"), "{error}");
            }
        }
    }
}

/// A graph within a node that ONNX Runtime computes.
fn branch(name: &str, graph: GraphProto) -> AttributeProto {
    let g = Some(Box::new(graph));
    AttributeProto { name: name.into(), g, r#type: attribute::GRAPH, ..AttributeProto::default() }
}

#[test]
fn data_of_graphs_within_nodes_stay_within_the_folder() {
    let folder = std::env::temp_dir().join(format!("limbeck-within-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let values: Vec<u8> = [1.5f32; 40].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.join("data"), &values).unwrap();
    let path = folder.join("model.onnx");
    for (location, taken) in [("data", true), ("../data", false), ("/etc/hosts", false)] {
        let entry = StringStringEntryProto { key: "location".into(), value: location.into() };
        let mut data = TensorProto { external_data: vec![entry], ..tensor("w", &[40], &[]) };
        data.data_location = 1;
        let inner = |kind: &str| GraphProto {
            node: vec![node("inner", kind, &["w"], &["r"])],
            initializer: vec![data.clone()],
            output: vec![value("r", &[40])],
            ..GraphProto::default()
        };
        let mut choose = node("choose", "If", &["flag"], &["y"]);
        choose.attribute =
            vec![branch("then_branch", inner("Celu")), branch("else_branch", inner("Neg"))];
        let mut model = model(vec![choose], vec![]);
        if let Some(graph) = &mut model.graph {
            let mut flag = value("flag", &[]);
            if let Some(of) = flag.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()) {
                of.elem_type = dtype::BOOL;
            }
            graph.input = vec![flag];
            graph.output = vec![value("y", &[40])];
        }
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        match OnnxModel::open(&path, &OnnxChoices::default()) {
            Ok(model) => {
                assert!(taken, "{location}");
                // The segment has the data itself.
                let bytes = model.parts[0].model.encode_to_vec();
                assert!(bytes.windows(values.len()).any(|part| part == values), "{location}");
                assert!(!bytes.windows(8).any(|part| part == b"location"), "{location}");
            }
            Err(error) => {
                let error = error.to_string();
                assert!(!taken, "{error}");
                assert!(error.contains("choose") && error.contains("folder"), "{error}");
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_only_another_runtime_may_have_is_named() {
    let mut text = model(vec![node("n", "Relu", &["x"], &["y"])], vec![]);
    let info = text.graph.as_mut().and_then(|graph| graph.input.first_mut()).expect("an input");
    let tensor = info.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()).expect("a tensor");
    tensor.elem_type = 8;
    let error = open(&text).err().expect("a refusal");
    assert!(error.contains("input \"x\": it is of strings"), "{error}");
    let own = NodeProto { domain: "com.own".into(), ..node("n", "Nonsense", &["x"], &["y"]) };
    let error = open(&model(vec![own], vec![])).err().expect("a refusal");
    assert!(
        error.contains("com.own.Nonsense in \"n\"") && error.contains("--prefer onnx"),
        "{error}"
    );
    assert_eq!(read(b"").err().as_deref(), Some("it is empty"));
}
