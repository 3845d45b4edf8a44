//! The op of ONNX segments.

use serde::{Deserialize, Serialize};

use crate::Fact;

/// A part of an entry that ONNX Runtime computes: `in0, in1, .. -> out0, out1, ..` by a model of ONNX that
/// lies in the plan's section of such.
///
/// Its initialisers may be views into the plan's weights: data in the file [`Onnx::WEIGHTS`], at an offset
/// within that section. Where `rows` is set it takes three tensors of i32 more, which say how the rows of
/// the call belong to its sequences: `rows [sequences, longest]`, for each sequence and place the row (0
/// where there is none); `places [tokens]`, for each row its place among those; and `seen [sequences,
/// longest]`, 1 where there is a row that others see.
///
/// An output of no known number of axes has the one size [`Onnx::ANY`]. A size of an output that no input
/// binds is known when the segment has run. Such an output is one of the entry's, or goes to other segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Onnx {
    /// First byte of the model in the section.
    pub offset: u64,
    /// Bytes of the model.
    pub bytes: u64,
    /// What it takes.
    pub inputs: Vec<Fact>,
    /// What it gives.
    pub outputs: Vec<Fact>,
    /// Whether it takes how rows belong to sequences.
    #[serde(default)]
    pub rows: bool,
    /// Bytes of weights that it reads.
    #[serde(default)]
    pub weight_bytes: u64,
    /// Why ONNX Runtime computes it, for people.
    #[serde(default)]
    pub reason: String,
}

impl Onnx {
    /// The file in which a model's initialisers find the plan's weights.
    pub const WEIGHTS: &'static str = "weights";
    /// The symbol that stands for any number of sizes.
    pub const ANY: &'static str = "...";
    /// Inputs, and outputs, at most.
    pub const MAX_VALUES: usize = 256;

    /// The name of an input.
    pub fn input(index: usize) -> String {
        format!("in{index}")
    }

    /// The name of an output.
    pub fn output(index: usize) -> String {
        format!("out{index}")
    }
}
