//! Models with some of their bytes or parts changed.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::passes::run_all;

/// Numbers below a bound, the same in each run.
fn draws() -> impl FnMut(usize) -> usize {
    let mut state = 1u64;
    move |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    }
}

#[test]
fn mutated_bytes_are_refused_or_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/onnx");
    let mut next = draws();
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

/// Integers at the ends of their ranges, and some that are near to what is meant.
const NUMBERS: [i64; 16] = [
    i64::MIN,
    i64::MIN + 1,
    -(1 << 40),
    i32::MIN as i64,
    -9,
    -2,
    -1,
    0,
    1,
    2,
    7,
    255,
    i32::MAX as i64,
    1 << 32,
    1 << 40,
    i64::MAX,
];

/// Changes a part of a model.
fn change(model: &mut ModelProto, next: &mut dyn FnMut(usize) -> usize) {
    let Some(graph) = &mut model.graph else { return };
    let nodes = graph.node.len();
    let names: Vec<String> = graph.node.iter().flat_map(|n| n.input.clone()).collect();
    let node = &mut graph.node[next(nodes)];
    let number = NUMBERS[next(NUMBERS.len())];
    match next(9) {
        0 | 1 => {
            let count = node.attribute.len();
            let Some(attribute) = node.attribute.get_mut(next(count)) else { return };
            match attribute.ints.len() {
                0 => (attribute.i, attribute.f) = (number, number as f32),
                count if next(4) > 0 => attribute.ints[next(count)] = number,
                _ => attribute.ints.push(number),
            }
            if let Some(tensor) = &mut attribute.t {
                stir(tensor, number, next);
            }
        }
        2 | 3 => {
            let count = graph.initializer.len();
            if let Some(tensor) = graph.initializer.get_mut(next(count)) {
                stir(tensor, number, next);
            }
        }
        4 => {
            let count = node.input.len();
            if let Some(input) = node.input.get_mut(next(count)) {
                input.clone_from(&names[next(names.len())]);
            }
        }
        5 => drop(node.input.pop()),
        6 => node.output.push(format!("more{}", next(9))),
        7 => {
            let other = graph.node[next(nodes)].op_type.clone();
            graph.node[next(nodes)].op_type = other;
        }
        _ => {
            let count = graph.input.len();
            let info = graph.input.get_mut(next(count)).and_then(|i| i.r#type.as_mut());
            let Some(of) = info.and_then(|t| t.tensor_type.as_mut()) else { return };
            let dims = of.shape.as_mut().map_or(&mut [][..], |shape| &mut shape.dim);
            let count = dims.len();
            match dims.get_mut(next(count)) {
                Some(dim) if next(3) > 0 => {
                    *dim = DimensionProto { dim_value: Some(number), dim_param: None };
                }
                _ => of.elem_type = next(18) as i32,
            }
        }
    }
}

/// Changes a tensor's sizes, its type, or an element.
fn stir(tensor: &mut TensorProto, number: i64, next: &mut dyn FnMut(usize) -> usize) {
    let (dims, bytes) = (tensor.dims.len(), tensor.raw_data.len());
    match next(6) {
        0 if dims > 0 => tensor.dims[next(dims)] = number,
        1 => tensor.data_type = next(18) as i32,
        2 => (tensor.dims, tensor.raw_data) = (vec![0], Vec::new()),
        3 => tensor.dims.push(1),
        _ if tensor.data_type == dtype::INT64 && bytes >= 8 => {
            let at = 8 * next(bytes / 8);
            tensor.raw_data[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        _ if bytes >= 4 => {
            let value = [f32::NAN, f32::INFINITY, -1.0, 0.0, 1e30][next(5)];
            let at = 4 * next(bytes / 4);
            tensor.raw_data[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        _ => tensor.dims.clear(),
    }
}

#[test]
fn models_with_changed_parts_are_refused_or_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/onnx");
    let mut models: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .collect();
    models.sort();
    let start = Instant::now();
    let mut next = draws();
    let (mut taken, mut refused) = (0, 0);
    for path in &models {
        let whole = ModelProto::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
        for _ in 0..200 {
            let mut changed = whole.clone();
            for _ in 0..1 + next(2) {
                change(&mut changed, &mut next);
            }
            match open(&changed) {
                Ok(mut model) => {
                    let some = if taken % 5 == 0 { &mut model.graph.entries[..] } else { &mut [] };
                    for (_, graph) in some {
                        run_all(graph).unwrap_or_else(|e| panic!("{path:?}: {e}"));
                    }
                    taken += 1;
                }
                Err(error) => {
                    let named =
                        ["node \"", "input \"", "output \"", "initialiser \"", "operators that"];
                    assert!(named.iter().any(|place| error.contains(place)), "{path:?}: {error}");
                    refused += 1;
                }
            }
        }
    }
    println!("{taken} taken, {refused} refused, {:?}", start.elapsed());
    assert!(taken > 500 && refused > 500, "{taken} taken, {refused} refused");
    assert!(start.elapsed() < Duration::from_secs(300));
}
