//! The ops, one file for each family: what they dispatch.

mod adaptive;
mod attention;
mod elementwise;
mod images;
mod linear;
mod rows;
mod tensors;

use limbeck_plan::{Activation, Entry, Op, OperandId, OperandKind, PackFormat, Program, Step};

use super::buffers::Slice;
use super::lacks;
use super::pipelines::{Shader, reads};
use super::record::Recorder;
use crate::backend::lower::Instruction;
use crate::error::{Error, ErrorKind, Result};

/// The output that peaks are looked for in.
pub(super) const LOGITS: &str = "logits";

/// Refuses what this backend lacks of an entry, by the step's name.
///
/// # Errors
/// `Unsupported`, with the op or the weight's format and the remedy.
pub(super) fn check(program: &Program, entry: &Entry) -> Result<()> {
    for step in entry.steps() {
        check_step(program, entry, step)
            .map_err(|e| e.at(format!("entry {:?}, step {:?}", entry.name, step.name)))?;
    }
    Ok(())
}

fn check_step(program: &Program, entry: &Entry, step: &Step) -> Result<()> {
    match &step.op {
        Op::Embedding(_) => {
            let ids = step.inputs.first().and_then(|id| entry.operands.get(*id));
            if ids.is_none_or(|ids| !ids.fact.is_of_call()) {
                return Err(lacks("embeddings of ids that are computed or a tensor"));
            }
        }
        Op::Linear(_)
        | Op::Norm(_)
        | Op::Add(_)
        | Op::Activate(_)
        | Op::Gate(_)
        | Op::SelectRows(_)
        | Op::Pool(_)
        | Op::SoftCap(_)
        | Op::Choose(_)
        | Op::MoeMlp(_)
        | Op::Mix(_)
        | Op::Patches(_)
        | Op::Pixels(_)
        | Op::Conv2d(_)
        | Op::DepthwiseConv2d(_)
        | Op::MaxPool2d(_) => {}
        Op::Attention(p) => attention::check(p)?,
        Op::AdaptiveMlp(p) => {
            let bias = step.inputs.get(4 + usize::from(p.bias)).filter(|_| p.out_bias);
            let format = bias.and_then(|id| format(program, entry, *id));
            if format.is_some_and(|format| format != PackFormat::F32_ROW) {
                return Err(lacks("biases by choice that are not in f32 rows"));
            }
        }
        Op::ConvTranspose2d(_) => {}
        Op::Map(p) if !tensors::has(&step.op) => {
            return Err(lacks(format_args!("{} of {} inputs", step.op.name(), p.inputs)));
        }
        op if tensors::has(op) => {}
        op => return Err(lacks(format_args!("the op {}", op.name()))),
    }
    for id in &step.inputs {
        if let Some(format) = format(program, entry, *id).filter(|format| !reads(*format)) {
            return Err(lacks(format_args!("weights in {format}")));
        }
    }
    Ok(())
}

/// The format of an operand that is a weight.
fn format(program: &Program, entry: &Entry, id: OperandId) -> Option<PackFormat> {
    match entry.operands.get(id)?.kind {
        OperandKind::Weight(weight) => program.weights.get(weight).map(|weight| weight.format),
        _ => None,
    }
}

/// Records the dispatches of an instruction.
///
/// # Errors
/// Those of the device, and for an instruction that [`check`] refuses.
pub(super) fn record(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    match instruction {
        Instruction::Embedding { .. } => rows::embedding(rec, instruction),
        Instruction::SelectRows { x, out } => rows::select(rec, *x, *out),
        Instruction::Pool { params, x, out } => rows::pool(rec, params, *x, *out),
        Instruction::Norm { call, x, out } => rows::norm(rec, call, *x, *out),
        Instruction::Linear { .. } => linear::linear(rec, instruction),
        Instruction::Add { a, b, out } => elementwise::add(rec, *a, *b, *out),
        Instruction::Activate { activation, x, out } => {
            elementwise::activate(rec, *activation, *x, *out)
        }
        Instruction::Gate { activation, gate, up, out } => {
            elementwise::gate(rec, *activation, *gate, *up, *out)
        }
        Instruction::SoftCap { cap, x, out } => elementwise::soft_cap(rec, *cap, *x, *out),
        Instruction::Attention { .. } => attention::attention(rec, instruction),
        Instruction::Choose { .. } => adaptive::choose(rec, instruction),
        Instruction::AdaptiveMlp { .. } => adaptive::adaptive_mlp(rec, instruction),
        Instruction::MoeMlp { .. } => adaptive::moe_mlp(rec, instruction),
        Instruction::Mix { .. } => adaptive::mix(rec, instruction),
        Instruction::Patches { params, pixels, out } => images::patches(rec, params, *pixels, *out),
        Instruction::Pixels { params, pixels, out } => images::pixels(rec, params, *pixels, *out),
        Instruction::Conv2d { .. } => images::conv2d(rec, instruction),
        Instruction::DepthwiseConv2d { params, x, sides, weight, bias, out } => {
            let activation = number(params.activation);
            let what = images::What::Depthwise { weight: *weight, bias: *bias, activation };
            images::windows(rec, what, (&params.window, *sides), *x, *out)
        }
        Instruction::MaxPool2d { params, x, sides, out } => {
            images::windows(rec, images::What::Largest, (&params.window, *sides), *x, *out)
        }
        Instruction::Tensor { .. } => tensors::tensor(rec, instruction),
        Instruction::ConvTranspose2d { .. } => tensors::conv_transpose(rec, instruction),
        Instruction::Reshape { x, out } if rec.sizes.len(*x) != rec.sizes.len(*out) => {
            let (from, to) = (rec.sizes.len(*x), rec.sizes.len(*out));
            let message = format!("{from} elements do not go into a shape of {to}");
            Err(Error::new(ErrorKind::InvalidInput, message))
        }
        // What it gives lies where what it takes does.
        Instruction::Reshape { .. } => Ok(()),
        _ => Err(lacks("this step")),
    }
}

/// Records the search for the peak of each row of logits.
///
/// # Errors
/// Those of the device.
pub(super) fn pick(rec: &mut Recorder<'_>) -> Result<()> {
    let outputs = &rec.entry.lowered.outputs;
    let Some(logits) = outputs.iter().find(|output| output.name == LOGITS) else { return Ok(()) };
    let (value, rows) = (logits.value, rec.sizes.len(logits.value) / logits.value.cols.max(1));
    let (logits, picked) = (rec.value(value)?, Slice::whole(rec.buffers.picked));
    rec.dispatch(Shader::Pick, &[rows as u32, value.cols as u32], &[&logits, &picked], rows)
}

/// The number by which shaders know an activation function; see `shaders/activation.wgsl`.
fn number(activation: Activation) -> u32 {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Silu => 2,
        Activation::Gelu => 3,
        Activation::GeluTanh => 4,
        Activation::QuickGelu => 5,
        Activation::Tanh => 6,
        Activation::Sigmoid => 7,
        Activation::Relu6 => 8,
        Activation::HardSwish => 9,
    }
}

/// One bit where something is there.
fn flag(there: bool, bit: u32) -> u32 {
    if there { bit } else { 0 }
}
