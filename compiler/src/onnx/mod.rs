//! ONNX as it is written: the messages, and steps of a plan as nodes. [`crate::export()`] writes whole
//! students so, and [`crate::segments`] parts of a plan; an import reads the same messages.

pub(crate) mod builder;
pub(crate) mod lower;
pub(crate) mod proto;

use prost::Message;

use proto::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto};

/// The operator set that is written.
pub(crate) const OPSET: i64 = 20;
/// The version of the format that came with it.
const IR_VERSION: i64 = 9;

/// The bytes of a model.
pub(crate) fn model(graph: GraphProto, metadata: &[(&str, &str)]) -> Vec<u8> {
    let property = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: (*key).into(),
        value: (*value).into(),
    };
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "limbeck".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: metadata.iter().map(property).collect(),
        functions: Vec::new(),
    };
    model.encode_to_vec()
}
