//! Models that are made to take time or memory.

use std::time::{Duration, Instant};

use limbeck_graph::{TensorExpr, Value, ValueSource};

use super::*;
use crate::segments::Prefer;

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
    assert!(start.elapsed() < Duration::from_secs(60));
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

/// Sizes that double with each node, and products of constants without end.
#[test]
fn what_is_known_before_a_call_takes_bounded_work() {
    let chain = |kinds: [&str; 2], first: NodeProto, last: &str| {
        let mut nodes = vec![first];
        for at in 0..300 {
            let (from, to) = (format!("s{at}"), format!("s{}", at + 1));
            nodes.push(node(&to, kinds[at % 2], &[&from, &from], &[&to]));
        }
        nodes.push(node("end", last, &["s300"], &["y"]));
        nodes
    };
    let sizes = || node("s0", "Shape", &["x"], &["s0"]);
    let matrix = || node("s0", "Identity", &["w"], &["s0"]);
    for nodes in [
        chain(["Mul", "Mul"], sizes(), "ConstantOfShape"),
        chain(["Mul", "Add"], sizes(), "ConstantOfShape"),
        chain(["MatMul", "MatMul"], matrix(), "Relu"),
    ] {
        let mut model = model(nodes, vec![tensor("w", &[400, 400], &[0.0; 160_000])]);
        let dim = |name: &str| DimensionProto { dim_value: None, dim_param: Some(name.into()) };
        let shape = TensorShapeProto { dim: vec![dim("s"), dim("t")] };
        let tensor_type = Some(TensorTypeProto { elem_type: dtype::FLOAT, shape: Some(shape) });
        let r#type = Some(TypeProto { tensor_type, ..TypeProto::default() });
        if let Some(graph) = &mut model.graph {
            graph.input = vec![ValueInfoProto { name: "x".into(), r#type }];
        }
        let start = Instant::now();
        // Whether it is taken does not matter.
        drop(open(&model));
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }
}

/// A native graph of many nodes, and its passes.
#[test]
fn models_of_very_many_native_nodes_are_compiled_in_time() {
    let (mut nodes, mut last) = (Vec::new(), "x".to_owned());
    let count = 20_000;
    for at in 0..count {
        let next = if at + 1 == count { "y".to_owned() } else { format!("v{at}") };
        let kind = ["Abs", "Softmax", "Relu"][at % 3];
        nodes.push(node(&format!("n{at}"), kind, &[&last], &[&next]));
        last = next;
    }
    let start = Instant::now();
    let mut found = open(&model(nodes, vec![])).unwrap_or_else(|e| panic!("{e}"));
    println!("imported in {:?}", start.elapsed());
    let graph = &mut found.graph.entries[0].1;
    crate::passes::run_all(graph).unwrap_or_else(|e| panic!("{e}"));
    println!("passes after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(120));
}

/// What a segment of many nodes takes, and many segments, grows with the nodes.
#[test]
fn models_of_very_many_nodes_are_cut_in_time() {
    for (kinds, count) in [(["Celu", "Celu"], 20_000), (["Celu", "Relu"], 150)] {
        let mut nodes = Vec::new();
        let mut last = "x".to_owned();
        for at in 0..count {
            let next = if at + 1 == count { "y".to_owned() } else { format!("v{at}") };
            nodes.push(node(&format!("n{at}"), kinds[at % 2], &[&last], &[&next]));
            last = next;
        }
        let mut model = model(nodes, vec![]);
        if let Some(graph) = &mut model.graph {
            graph.value_info = (0..count).map(|at| value(&format!("v{at}"), &[2, 3])).collect();
            graph.output = vec![value("y", &[2, 3])];
        }
        let bytes = model.encode_to_vec();
        for prefer in [Prefer::Native, Prefer::Onnx] {
            let choices = OnnxChoices { prefer, ..OnnxChoices::default() };
            let start = Instant::now();
            let found = OnnxModel::read(&bytes, &External::none(), "model".into(), &choices);
            found.unwrap_or_else(|e| panic!("{kinds:?}: {e}"));
            let spent = start.elapsed();
            assert!(spent < Duration::from_secs(30), "{kinds:?} {prefer:?}: {spent:?}");
        }
    }
}

#[test]
fn graphs_that_nest_too_deep_are_refused() {
    for (depth, message) in [(20, "nest too deep"), (200, "not an ONNX model")] {
        let mut inner = GraphProto {
            node: vec![node("end", "Neg", &["x"], &["r"])],
            output: vec![value("r", &[2, 3])],
            ..GraphProto::default()
        };
        for _ in 0..depth {
            let mut choose = node("choose", "If", &["flag"], &["r"]);
            choose.attribute = vec![
                branch("then_branch", inner.clone()),
                branch("else_branch", GraphProto::default()),
            ];
            inner = GraphProto {
                node: vec![choose],
                output: vec![value("r", &[2, 3])],
                ..GraphProto::default()
            };
        }
        let mut choose = node("choose", "If", &["flag"], &["y"]);
        choose.attribute = vec![branch("then_branch", inner.clone()), branch("else_branch", inner)];
        let flag = TensorProto { dims: vec![], ..numbers("flag", &[1]) };
        let error = open(&model(vec![choose], vec![flag])).err().expect("an error");
        assert!(error.contains(message), "{error}");
    }
}
