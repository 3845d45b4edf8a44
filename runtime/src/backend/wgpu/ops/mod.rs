//! The ops, one file for each family: what they dispatch.

mod adaptive;
mod attention;
mod check;
mod elementwise;
mod gather;
mod images;
mod inputs;
mod linear;
mod lstm;
mod map;
mod order;
mod pick;
mod rows;
mod sparse;
mod tensors;

use limbeck_plan::Activation;

pub(super) use attention::{found_words, parts_of};
pub(super) use check::check;
pub(super) use inputs::rounded_words;
pub(super) use map::gathered;
pub(super) use order::ordered_words;
pub(super) use pick::{SLICE, pick, picked_words, shortlist};

use super::lacks;
use super::record::Recorder;
use crate::backend::lower::Instruction;
use crate::error::{Error, ErrorKind, Result};

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
