//! What this backend lacks, found when a plan is loaded.

use limbeck_plan::{Entry, Op, OperandKind, PackFormat, Program, Step, Weight};

use super::attention;
use crate::backend::wgpu::lacks;
use crate::backend::wgpu::shaders::{reads, reads_channels};
use crate::error::Result;

/// Refuses what this backend lacks of an entry, by the step's name.
///
/// # Errors
/// `Unsupported`, with the op or the weight's format and the remedy.
pub(in crate::backend::wgpu) fn check(
    program: &Program,
    entry: &Entry,
    limits: &wgpu::Limits,
) -> Result<()> {
    let binding = limits.max_storage_buffer_binding_size;
    for step in entry.steps() {
        check_step(program, entry, step, binding).map_err(|e| e.at(entry.place(&step.name)))?;
    }
    Ok(())
}

fn check_step(program: &Program, entry: &Entry, step: &Step, binding: u64) -> Result<()> {
    match &step.op {
        Op::Attention(p) => attention::check(p)?,
        // Attention of tensors is products and a softmax here, but where its sizes do not tell of scores.
        Op::Onnx(_) | Op::Attend(_) => {
            return Err(lacks(format_args!("the op {}", step.op.name())));
        }
        _ => {}
    }
    for (at, id) in step.inputs.iter().enumerate() {
        let kind = entry.operands.get(*id).map(|operand| operand.kind);
        if let Some(OperandKind::Weight(weight)) = kind
            && let Some(weight) = program.weights.get(weight)
        {
            check_weight(&step.op, at, weight, binding)?;
        }
    }
    Ok(())
}

/// What a weight is to an op.
#[derive(PartialEq)]
enum Use {
    /// Of any format, and in as many bindings as it takes.
    Matrix,
    /// Of any format, in one binding.
    Whole,
    /// Its channels may be apart.
    Channels,
    /// Floats in rows, in one binding.
    Floats,
}

/// What the weight that is operand `at` is.
fn used(op: &Op, at: usize) -> Use {
    match (op, at) {
        (Op::Embedding(_) | Op::Linear(_), 1) | (Op::MoeMlp(_), 2 | 3) => Use::Matrix,
        (Op::AdaptiveMlp(p), at) if at == 2 || at == 3 + usize::from(p.bias) => Use::Matrix,
        (Op::SparseLinear(_), 1) => Use::Channels,
        (Op::Conv2d(p), 1) if p.groups == 1 => Use::Matrix,
        (Op::Conv2d(_) | Op::ConvTranspose2d(_), 1) => Use::Whole,
        _ => Use::Floats,
    }
}

fn check_weight(op: &Op, at: usize, weight: &Weight, binding: u64) -> Result<()> {
    let (format, bytes, used) = (weight.format, weight.bytes, used(op, at));
    let channels = used == Use::Channels && reads_channels(format);
    if !reads(format) && !channels {
        return Err(lacks(format_args!("weights in {format}")));
    }
    if used == Use::Floats && format != PackFormat::F32_ROW {
        return Err(lacks(format_args!("weights in {format} as operand {at} of {}", op.name())));
    }
    let one = matches!(used, Use::Whole | Use::Floats) || format.by_channel();
    if one && bytes > binding {
        let what = format_args!(
            "a way to bind {bytes} bytes of one weight, more than {binding}, for {}",
            op.name()
        );
        return Err(lacks(what));
    }
    Ok(())
}
