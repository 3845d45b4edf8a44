//! Parts of an ONNX model that pass as they are: their initialisers become bytes of the plan's weights.

use std::collections::HashMap;
use std::io::{Seek, Write};
use std::sync::Arc;

use limbeck_plan::{Onnx, Op, PlanWriter, Program};
use prost::Message;

use super::native::view;
use super::{Places, Reason, SegmentReport};
use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;

/// Bytes of an initialiser from which on it lies in the plan's weights. The sizes of shapes stay in the
/// model: ONNX Runtime reads them as it infers others.
const LARGE: usize = 128;

/// A model of a segment. Until it is placed, the `offset` of its op is its number.
#[derive(Clone, Debug)]
pub struct Part {
    /// The model, whose inputs and outputs are the segment's.
    pub(crate) model: ModelProto,
    /// By name, the elements of initialisers that the model has without them.
    pub(crate) data: HashMap<String, Arc<[u8]>>,
    /// Why ONNX Runtime computes the nodes.
    pub(crate) reasons: Vec<Reason>,
}

/// Writes the weights of a program's parts and puts their models to the end of `models`. An initialiser
/// that several parts have is one.
///
/// # Errors
/// The sink's.
pub(crate) fn place<W: Write + Seek>(
    program: &mut Program,
    parts: &[Part],
    writer: &mut PlanWriter<W>,
    models: &mut Vec<u8>,
) -> Result<Vec<SegmentReport>> {
    let mut places = Places::new();
    let mut reports = Vec::new();
    for entry in &mut program.entries {
        for step in entry.segments.iter_mut().flat_map(|s| &mut s.steps) {
            let Op::Onnx(op) = &mut step.op else { continue };
            let part = usize::try_from(op.offset).ok().and_then(|at| parts.get(at));
            let part = part.ok_or_else(|| Error::mismatch("a segment has no model"))?;
            let mut model = part.model.clone();
            op.weight_bytes = weights(&mut model, &part.data, &mut places, writer)?;
            let bytes = model.encode_to_vec();
            (op.offset, op.bytes) = (models.len() as u64, bytes.len() as u64);
            models.extend_from_slice(&bytes);
            reports.push(SegmentReport {
                entry: entry.name.clone(),
                step: step.name.clone(),
                reasons: part.reasons.clone(),
            });
        }
    }
    Ok(reports)
}

/// Gives initialisers their elements, large ones in the plan's weights; gives the bytes of all that lie there.
fn weights<W: Write + Seek>(
    model: &mut ModelProto,
    elements: &HashMap<String, Arc<[u8]>>,
    places: &mut Places,
    writer: &mut PlanWriter<W>,
) -> Result<u64> {
    let mut sum = 0;
    for tensor in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        let own = std::mem::take(&mut tensor.raw_data);
        let data = elements.get(&tensor.name).map_or(&own[..], |elements| &elements[..]);
        if data.len() < LARGE {
            tensor.raw_data = data.to_vec();
            continue;
        }
        let (offset, length) = match places.get(&tensor.name) {
            Some(place) => *place,
            None => {
                let offset = writer.begin_weight()?;
                writer.append(data)?;
                places.insert(tensor.name.clone(), (offset, data.len() as u64));
                (offset, data.len() as u64)
            }
        };
        tensor.external_data = view(offset, length);
        tensor.data_location = 1;
        sum += length;
    }
    Ok(sum)
}

impl Part {
    /// The op of a segment that is this part, the `number`th of its student.
    pub(crate) fn op(
        number: usize,
        inputs: Vec<limbeck_plan::Fact>,
        outputs: Vec<limbeck_plan::Fact>,
        reason: String,
    ) -> Op {
        Op::Onnx(Onnx {
            offset: number as u64,
            bytes: 0,
            inputs,
            outputs,
            rows: false,
            weight_bytes: 0,
            reason,
        })
    }
}
