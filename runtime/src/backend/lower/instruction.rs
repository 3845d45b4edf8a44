//! Instructions: kernel calls on buffers and weights.

use limbeck_plan::{
    Activation, AdaptiveMlp, Attention, Choose, Conv2d, ConvTranspose2d, DepthwiseConv2d, Level,
    Linear, MaxPool2d, Mix, MoeMlp, Norm, Op, OperandId, Patches, Pixels, Pool, SparseLinear,
};

use crate::backend::slots::Value;

/// A norm's parameters and its vectors by weight id.
#[derive(Clone, Debug)]
pub(in crate::backend) struct NormCall {
    pub params: Norm,
    pub weight: usize,
    pub bias: Option<usize>,
}

/// Queries, keys and values.
#[derive(Clone, Debug)]
pub(in crate::backend) enum QkvValue {
    Fused(Value),
    Separate([Value; 3]),
}

/// Ids that are looked up.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) enum Ids {
    /// Index of an input.
    Input(usize),
    Value(Value),
}

/// What a segment of ONNX Runtime takes.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) enum Given {
    /// Index of an input of integers.
    Ids(usize),
    /// Index of an input of floats.
    Floats(usize),
    Value(Value),
    /// An operand that is open.
    Open,
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) enum Source {
    Value(Value),
    Weight(usize),
}

/// One kernel call.
#[derive(Clone, Debug)]
pub(in crate::backend) enum Instruction {
    Embedding {
        ids: Ids,
        table: usize,
        scale: f32,
        out: Value,
    },
    Linear {
        params: Linear,
        x: Value,
        norm: Option<NormCall>,
        weight: usize,
        bias: Option<usize>,
        residual: Option<Value>,
        factors: Option<usize>,
        out: Value,
    },
    Norm {
        call: NormCall,
        x: Value,
        out: Value,
    },
    Add {
        a: Value,
        b: Value,
        out: Value,
    },
    Activate {
        activation: Activation,
        x: Value,
        out: Value,
    },
    Gate {
        activation: Activation,
        gate: Value,
        up: Value,
        out: Value,
    },
    Attention {
        params: Attention,
        qkv: QkvValue,
        /// All of `qkv` are products of 8-bit activations.
        rough: bool,
        q_norm: Option<usize>,
        k_norm: Option<usize>,
        inv_freq: Option<usize>,
        out: Value,
    },
    SelectRows {
        x: Value,
        out: Value,
    },
    Pool {
        params: Pool,
        x: Value,
        out: Value,
    },
    Patches {
        params: Patches,
        /// Index of the input.
        pixels: usize,
        out: Value,
    },
    Pixels {
        params: Pixels,
        /// Index of the input.
        pixels: usize,
        out: Value,
    },
    Conv2d {
        params: Conv2d,
        x: Value,
        /// The tensor that has the sides of the images, where the params leave them open.
        sides: Option<OperandId>,
        weight: usize,
        bias: Option<usize>,
        residual: Option<Value>,
        out: Value,
    },
    DepthwiseConv2d {
        params: DepthwiseConv2d,
        x: Value,
        sides: Option<OperandId>,
        weight: usize,
        bias: Option<usize>,
        out: Value,
    },
    MaxPool2d {
        params: MaxPool2d,
        x: Value,
        sides: Option<OperandId>,
        out: Value,
    },
    SoftCap {
        cap: f32,
        x: Value,
        out: Value,
    },
    ConvTranspose2d {
        params: ConvTranspose2d,
        x: Value,
        weight: usize,
        bias: Option<usize>,
        /// The tensors that have the shapes of `x` and `out`.
        shapes: [OperandId; 2],
        out: Value,
    },
    /// An op on tensors alone.
    Tensor {
        op: Op,
        inputs: Vec<(Source, OperandId)>,
        /// The tensor that has the shape of `out`.
        shape: OperandId,
        out: Value,
    },
    /// A segment of ONNX Runtime.
    Onnx {
        /// Number of the segment.
        segment: usize,
        inputs: Vec<(Given, OperandId)>,
        /// What is not open has a place.
        outputs: Vec<(Option<Value>, OperandId)>,
    },
    /// The result of a reshape, which lies where the value does.
    Reshape {
        x: Value,
        out: Value,
    },
    Choose {
        params: Choose,
        x: Value,
        gate: usize,
        bias: usize,
    },
    Level {
        params: Level,
    },
    SparseLinear {
        params: SparseLinear,
        x: Value,
        norm: Option<NormCall>,
        weight: usize,
        bias: Option<usize>,
        residual: Option<Value>,
        /// Whose choices it follows.
        site: usize,
        channels: usize,
        out: Value,
    },
    AdaptiveMlp {
        params: AdaptiveMlp,
        x: Value,
        /// Whose choices it follows.
        site: usize,
        w1: usize,
        b1: Option<usize>,
        w2: usize,
        out_bias: Option<usize>,
        residual: Option<Value>,
        out: Value,
    },
    MoeMlp {
        params: MoeMlp,
        x: Value,
        logits: Value,
        w1: usize,
        w2: usize,
        residual: Option<Value>,
        out: Value,
    },
    Mix {
        params: Mix,
        logits: Value,
        parts: Vec<Value>,
        residual: Option<Value>,
        out: Value,
    },
}

impl Instruction {
    /// Whether it asks for shapes of tensors.
    pub(super) fn has_shapes(&self) -> bool {
        matches!(
            self,
            Instruction::Tensor { .. }
                | Instruction::Onnx { .. }
                | Instruction::ConvTranspose2d { .. }
                | Instruction::Conv2d { sides: Some(_), .. }
                | Instruction::DepthwiseConv2d { sides: Some(_), .. }
                | Instruction::MaxPool2d { sides: Some(_), .. }
        )
    }

    /// The value that it fills by a kernel; `None` for those that make choices, or see to their results themselves.
    pub(in crate::backend) fn out(&self) -> Option<Value> {
        match self {
            Instruction::Embedding { out, .. }
            | Instruction::Linear { out, .. }
            | Instruction::Norm { out, .. }
            | Instruction::Add { out, .. }
            | Instruction::Activate { out, .. }
            | Instruction::Gate { out, .. }
            | Instruction::Attention { out, .. }
            | Instruction::SelectRows { out, .. }
            | Instruction::Pool { out, .. }
            | Instruction::SoftCap { out, .. }
            | Instruction::SparseLinear { out, .. }
            | Instruction::Patches { out, .. }
            | Instruction::Pixels { out, .. }
            | Instruction::Conv2d { out, .. }
            | Instruction::DepthwiseConv2d { out, .. }
            | Instruction::MaxPool2d { out, .. }
            | Instruction::ConvTranspose2d { out, .. }
            | Instruction::Tensor { out, .. }
            | Instruction::AdaptiveMlp { out, .. }
            | Instruction::MoeMlp { out, .. }
            | Instruction::Mix { out, .. } => Some(*out),
            Instruction::Reshape { .. }
            | Instruction::Level { .. }
            | Instruction::Choose { .. }
            | Instruction::Onnx { .. } => None,
        }
    }
}
