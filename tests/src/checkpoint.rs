//! Reading and writing safetensors, to make checkpoints that differ in one thing from another.

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;
use serde_json::{Value, json};

/// Shape and values by name.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The f32 and f16 tensors of a safetensors file.
///
/// # Panics
/// When it cannot be read.
pub fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).expect("the file");
    let (len, rest) = bytes.split_first_chunk::<8>().expect("a header");
    let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).expect("JSON");
    let tensors = header.into_iter().filter_map(|(name, info)| {
        let numbers =
            |key: &str| -> Vec<usize> { serde_json::from_value(info[key].clone()).unwrap() };
        let bytes = |range: Vec<usize>| &data[range[0]..range[1]];
        let values: Vec<f32> = match info["dtype"].as_str() {
            Some("F32") => {
                let values = bytes(numbers("data_offsets")).as_chunks::<4>().0.iter();
                values.map(|b| f32::from_le_bytes(*b)).collect()
            }
            Some("F16") => {
                let values = bytes(numbers("data_offsets")).as_chunks::<2>().0.iter();
                values.map(|b| f16::from_le_bytes(*b).to_f32()).collect()
            }
            _ => return None,
        };
        Some((name, (numbers("shape"), values)))
    });
    tensors.collect()
}

/// Writes tensors as `model.safetensors`, in f32.
///
/// # Panics
/// When it cannot be written.
pub fn write(folder: &Path, tensors: &Tensors) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let info = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), info);
    }
    let header = Value::from(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(data);
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("model.safetensors"), bytes).expect("a file");
}
