//! Steps as instructions.

use std::collections::{HashMap, HashSet};

use limbeck_plan::{DType, Embedding, Entry, Linear, Op, OperandId, OperandKind, Step, Window};

use super::instruction::{Given, Ids, Instruction, NormCall, QkvValue, Source};
use crate::backend::slots::Value;

/// The first operand of a step whose window leaves the sides of its images open.
fn open_sides(step: &Step, window: &Window) -> Option<OperandId> {
    step.inputs.first().copied().filter(|_| window.image == [0, 0])
}

/// What steps are lowered by.
pub(super) struct Context<'a> {
    pub entry: &'a Entry,
    pub values: &'a [Option<Value>],
    /// By input operand: its index among the inputs.
    pub input_index: HashMap<OperandId, usize>,
    /// By choice operand: its site.
    pub sites: HashMap<OperandId, usize>,
    pub rough: HashSet<OperandId>,
    pub open: &'a [bool],
}

impl Context<'_> {
    fn value(&self, id: Option<&OperandId>) -> Option<Value> {
        self.values.get(*id?).copied().flatten()
    }

    fn weight(&self, id: Option<&OperandId>) -> Option<usize> {
        match self.entry.operands.get(*id?)?.kind {
            OperandKind::Weight(w) => Some(w),
            _ => None,
        }
    }

    fn ids(&self, id: &OperandId) -> Option<Ids> {
        match self.value(Some(id)) {
            Some(value) => Some(Ids::Value(value)),
            None => self.input_index.get(id).map(|index| Ids::Input(*index)),
        }
    }

    fn source(&self, id: &OperandId) -> Option<Source> {
        match self.weight(Some(id)) {
            Some(weight) => Some(Source::Weight(weight)),
            None => self.value(Some(id)).map(Source::Value),
        }
    }

    /// A segment of ONNX Runtime.
    pub fn onnx(&self, step: &Step, segments: &mut usize) -> Option<Instruction> {
        let given = |id: &OperandId| {
            let operand = self.entry.operands.get(*id)?;
            let given = match (self.value(Some(id)), self.input_index.get(id)) {
                (Some(value), _) => Given::Value(value),
                (None, Some(index)) if operand.fact.dtype == DType::I32 => Given::Ids(*index),
                (None, Some(index)) => Given::Floats(*index),
                (None, None) if self.open[*id] => Given::Open,
                (None, None) => return None,
            };
            Some((given, *id))
        };
        let segment = *segments;
        *segments += 1;
        Some(Instruction::Onnx {
            segment,
            inputs: step.inputs.iter().map(given).collect::<Option<_>>()?,
            outputs: step.outputs.iter().map(|id| (self.value(Some(id)), *id)).collect(),
        })
    }

    /// The instruction of a step; `None` when its operands are not of the kinds that the op takes.
    pub fn lower(&self, step: &Step, norm: Option<NormCall>) -> Option<Instruction> {
        let mut inputs = step.inputs.iter();
        if let Op::Choose(params) = &step.op {
            return Some(Instruction::Choose {
                params: params.clone(),
                x: self.value(inputs.next())?,
                gate: self.weight(inputs.next())?,
                bias: self.weight(inputs.next())?,
            });
        }
        if let Op::Level(params) = &step.op {
            return Some(Instruction::Level { params: params.clone() });
        }
        let out = self.value(step.outputs.first())?;
        Some(match &step.op {
            Op::Embedding(Embedding { scale }) => Instruction::Embedding {
                ids: self.ids(inputs.next()?)?,
                table: self.weight(inputs.next())?,
                scale: *scale,
                out,
            },
            Op::Linear(params) => Instruction::Linear {
                x: self.value(inputs.next())?,
                weight: self.weight(inputs.next())?,
                bias: if params.bias { Some(self.weight(inputs.next())?) } else { None },
                residual: if params.residual { Some(self.value(inputs.next())?) } else { None },
                factors: if params.factors { Some(self.weight(inputs.next())?) } else { None },
                params: params.clone(),
                norm,
                out,
            },
            Op::Norm(params) => Instruction::Norm {
                x: self.value(inputs.next())?,
                call: NormCall {
                    params: params.clone(),
                    weight: self.weight(inputs.next())?,
                    bias: if params.bias { Some(self.weight(inputs.next())?) } else { None },
                },
                out,
            },
            Op::Add(_) => Instruction::Add {
                a: self.value(inputs.next())?,
                b: self.value(inputs.next())?,
                out,
            },
            Op::Activate(p) => Instruction::Activate {
                activation: p.activation,
                x: self.value(inputs.next())?,
                out,
            },
            Op::Gate(p) => Instruction::Gate {
                activation: p.activation,
                gate: self.value(inputs.next())?,
                up: self.value(inputs.next())?,
                out,
            },
            Op::Attention(params) => {
                let operands = if params.fused { 1 } else { 3 };
                let rough = step.inputs.iter().take(operands).all(|id| self.rough.contains(id));
                let qkv = if params.fused {
                    QkvValue::Fused(self.value(inputs.next())?)
                } else {
                    let mut next = || self.value(inputs.next());
                    QkvValue::Separate([next()?, next()?, next()?])
                };
                let mut vector = |present: bool| match present {
                    true => self.weight(inputs.next()).map(Some),
                    false => Some(None),
                };
                Instruction::Attention {
                    q_norm: vector(params.qk_norm_eps.is_some())?,
                    k_norm: vector(params.qk_norm_eps.is_some())?,
                    inv_freq: vector(params.rope.is_some())?,
                    params: params.clone(),
                    qkv,
                    rough,
                    out,
                }
            }
            Op::SelectRows(_) => Instruction::SelectRows { x: self.value(inputs.next())?, out },
            Op::Pool(params) => {
                Instruction::Pool { params: params.clone(), x: self.value(inputs.next())?, out }
            }
            Op::Patches(params) => Instruction::Patches {
                params: params.clone(),
                pixels: *self.input_index.get(inputs.next()?)?,
                out,
            },
            Op::Pixels(params) => Instruction::Pixels {
                params: params.clone(),
                pixels: *self.input_index.get(inputs.next()?)?,
                out,
            },
            Op::Conv2d(params) => Instruction::Conv2d {
                sides: open_sides(step, &params.window),
                x: self.value(inputs.next())?,
                weight: self.weight(inputs.next())?,
                bias: if params.bias { Some(self.weight(inputs.next())?) } else { None },
                residual: if params.residual { Some(self.value(inputs.next())?) } else { None },
                params: params.clone(),
                out,
            },
            Op::DepthwiseConv2d(params) => Instruction::DepthwiseConv2d {
                sides: open_sides(step, &params.window),
                x: self.value(inputs.next())?,
                weight: self.weight(inputs.next())?,
                bias: if params.bias { Some(self.weight(inputs.next())?) } else { None },
                params: params.clone(),
                out,
            },
            Op::MaxPool2d(params) => Instruction::MaxPool2d {
                sides: open_sides(step, &params.window),
                params: params.clone(),
                x: self.value(inputs.next())?,
                out,
            },
            Op::SoftCap(p) => {
                Instruction::SoftCap { cap: p.cap, x: self.value(inputs.next())?, out }
            }
            Op::Choose(_) | Op::Level(_) | Op::Onnx(_) => return None,
            Op::ConvTranspose2d(params) => Instruction::ConvTranspose2d {
                shapes: [*step.inputs.first()?, *step.outputs.first()?],
                x: self.value(inputs.next())?,
                weight: self.weight(inputs.next())?,
                bias: if params.bias { Some(self.weight(inputs.next())?) } else { None },
                params: params.clone(),
                out,
            },
            Op::Reshape(_) if self.value(step.inputs.first()).is_some() => {
                Instruction::Reshape { x: self.value(inputs.next())?, out }
            }
            Op::Map(_)
            | Op::MatMul(_)
            | Op::Reduce(_)
            | Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Expand(_)
            | Op::Slice(_)
            | Op::Concat(_)
            | Op::Pad(_)
            | Op::Gather(_)
            | Op::GatherElements(_)
            | Op::Softmax(_)
            | Op::Attend(_)
            | Op::GroupNorm(_)
            | Op::AveragePool2d(_)
            | Op::Resize(_)
            | Op::Sizes(_)
            | Op::Range(_)
            | Op::Lstm(_) => Instruction::Tensor {
                op: step.op.clone(),
                inputs: inputs.map(|id| Some((self.source(id)?, *id))).collect::<Option<_>>()?,
                shape: *step.outputs.first()?,
                out,
            },
            Op::SparseLinear(params) => {
                let Linear { bias, residual, .. } = params.linear;
                Instruction::SparseLinear {
                    x: self.value(inputs.next())?,
                    weight: self.weight(inputs.next())?,
                    bias: if bias { Some(self.weight(inputs.next())?) } else { None },
                    residual: if residual { Some(self.value(inputs.next())?) } else { None },
                    site: *self.sites.get(inputs.next()?)?,
                    channels: self.weight(inputs.next())?,
                    params: params.clone(),
                    norm,
                    out,
                }
            }
            Op::AdaptiveMlp(p) => Instruction::AdaptiveMlp {
                x: self.value(inputs.next())?,
                site: *self.sites.get(inputs.next()?)?,
                w1: self.weight(inputs.next())?,
                b1: if p.bias { Some(self.weight(inputs.next())?) } else { None },
                w2: self.weight(inputs.next())?,
                out_bias: if p.out_bias { Some(self.weight(inputs.next())?) } else { None },
                residual: if p.residual { Some(self.value(inputs.next())?) } else { None },
                params: p.clone(),
                out,
            },
            Op::MoeMlp(p) => Instruction::MoeMlp {
                x: self.value(inputs.next())?,
                logits: self.value(inputs.next())?,
                w1: self.weight(inputs.next())?,
                w2: self.weight(inputs.next())?,
                residual: if p.residual { Some(self.value(inputs.next())?) } else { None },
                params: p.clone(),
                out,
            },
            Op::Mix(p) => Instruction::Mix {
                logits: self.value(inputs.next())?,
                parts: (0..p.parts).map(|_| self.value(inputs.next())).collect::<Option<_>>()?,
                residual: if p.residual { Some(self.value(inputs.next())?) } else { None },
                params: p.clone(),
                out,
            },
        })
    }
}
