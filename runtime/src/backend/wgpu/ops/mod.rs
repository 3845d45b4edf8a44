//! The ops, one file for each family: what they dispatch.

mod adaptive;
mod attention;
mod check;
mod elementwise;
mod gather;
mod images;
mod linear;
mod lstm;
mod map;
mod rows;
mod sparse;
mod tensors;

use limbeck_plan::Activation;

pub(super) use attention::{found_words, parts_of};
pub(super) use check::check;
pub(super) use map::gathered;

use super::buffers::Slice;
use super::lacks;
use super::record::Recorder;
use super::shaders::Shader;
use crate::backend::lower::Instruction;
use crate::error::{Error, ErrorKind, Result};
use crate::text::shortlist::Pick;

/// The output that the largest are picked of.
pub(super) const LOGITS: &str = "logits";

/// Items of a group of most shaders.
const LANES: usize = 64;

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
        // The call tells its choices.
        Instruction::Level { .. } => Ok(()),
        Instruction::SparseLinear { .. } => sparse::sparse_linear(rec, instruction),
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
        Instruction::ConvTranspose2d { .. } => images::conv_transpose(rec, instruction),
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

/// Records the search for the largest of each row of logits, and the masses beside them that are asked for.
///
/// # Errors
/// Those of the device.
pub(super) fn pick(rec: &mut Recorder<'_>, pick: Pick) -> Result<()> {
    let outputs = &rec.entry.lowered.outputs;
    let Some(logits) = outputs.iter().find(|output| output.name == LOGITS) else { return Ok(()) };
    let (value, rows) = (logits.value, rec.sizes.len(logits.value) / logits.value.cols.max(1));
    let (logits, picked) = (rec.value(value)?, Slice::whole(rec.buffers.picked));
    let (slices, lists) = (value.cols.div_ceil(SLICE), Slice::whole(rec.buffers.slices));
    let words = picked_words(1, value.cols, pick);
    let temperature = rec.layout.temperature;
    let params = [rows, value.cols, pick.count, slices, words, temperature].map(|n| n as u32);
    rec.dispatch(Shader::PickSlices, &params, &[&logits, &lists], rows * slices)?;
    rec.dispatch(Shader::PickRows, &params, &[&lists, &picked], rows)?;
    if pick.temperature == 0.0 {
        return Ok(());
    }
    rec.dispatch(Shader::PickMasses, &params, &[&logits, &rec.call(), &picked], rows * slices)
}

/// Logits of a slice, of which each has a group; see `shaders/pick.wgsl`.
pub(super) const SLICE: usize = 1024;

/// Words of what is found of so many rows of logits: of each the sum, the list, and, where masses are asked for, those
/// of the slices and those before the logits of the list in their slices.
pub(super) fn picked_words(rows: usize, cols: usize, Pick { count, temperature }: Pick) -> usize {
    let masses = if temperature == 0.0 { 0 } else { cols.div_ceil(SLICE) + count };
    if count == 0 { 0 } else { rows.saturating_mul(2 * count + 1 + masses) }
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
