//! Steps by the reference kernels.

use limbeck_kernels::reference;
use limbeck_kernels::{
    self as kernels, AdaptiveMlpArgs, AttentionArgs, ChooseArgs, Conv2dArgs, ConvTranspose2dArgs,
    DepthwiseConv2dArgs, Elements, ElementsMut, KvCache, LinearArgs, MixArgs, MoeMlpArgs, NormArgs,
    Pool, Qkv, Rows, Sparsity, TensorArg, TensorOut,
};
use limbeck_plan::{
    Choose, Conv2d, DType, DepthwiseConv2d, Dim, Entry, MaxPool2d, MoeMlp, Op, Operand, OperandId,
    OperandKind, SparseLinear, Step, Symbol, Window,
};

use super::Shared;
use crate::backend::cost::choice_sites;
use crate::backend::{Call, Choices, given};
use crate::error::{Error, ErrorKind, Result};

/// The operands of a step, as far as they were computed.
pub(super) struct Operands<'a> {
    pub shared: &'a Shared,
    pub entry: &'a Entry,
    pub call: &'a Call<'a>,
    pub step: &'a Step,
    pub values: &'a [Vec<f32>],
    pub shapes: &'a [Vec<usize>],
}

impl<'a> Operands<'a> {
    fn id(&self, index: usize) -> Result<OperandId> {
        let found = self.step.inputs.get(index).copied();
        found.ok_or_else(|| Error::new(ErrorKind::Plan, format!("input {index} is missing")))
    }

    fn value(&self, index: usize) -> Result<&'a [f32]> {
        Ok(&self.values[self.id(index)?])
    }

    fn weight(&self, index: usize) -> Result<usize> {
        match self.entry.operands[self.id(index)?].kind {
            OperandKind::Weight(id) => Ok(id),
            _ => Err(Error::new(ErrorKind::Plan, format!("input {index} is not a weight"))),
        }
    }

    fn vector(&self, index: usize) -> Result<&'a [f32]> {
        let found = self.shared.vectors[self.weight(index)?].as_deref();
        found.ok_or_else(|| Error::new(ErrorKind::Plan, format!("input {index} is no vector")))
    }

    fn ids(&self, index: usize) -> Result<&'a [i32]> {
        let Operand { name, fact, .. } = &self.entry.operands[self.id(index)?];
        if !fact.is_of_call() {
            return Ok(bytemuck::cast_slice(self.value(index)?));
        }
        let found = self.call.inputs.iter().find(|(n, _)| n == name);
        found.map(|(_, values)| *values).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("input {name:?} is missing"))
        })
    }

    fn floats(&self, index: usize) -> Result<&'a [f32]> {
        given(self.call, &self.entry.operands[self.id(index)?].name)
    }

    fn cols(&self, index: usize) -> Result<usize> {
        let shape = &self.entry.operands[self.id(index)?].fact.shape;
        let cols = shape.last().and_then(Dim::as_const);
        cols.map(|c| c as usize)
            .ok_or_else(|| Error::new(ErrorKind::Plan, format!("input {index} has no columns")))
    }

    /// What a segment of ONNX Runtime takes: given by the caller, or computed.
    pub fn given(&self, index: usize) -> Result<TensorArg<'a>> {
        let id = self.id(index)?;
        let operand = &self.entry.operands[id];
        let data = match (operand.kind, operand.fact.dtype) {
            (OperandKind::Input, DType::I32) => Elements::I32(self.ids(index)?),
            (OperandKind::Input, DType::F32) if operand.fact.is_of_call() => {
                Elements::F32(self.floats(index)?)
            }
            (_, dtype) => Elements::of(dtype, self.value(index)?),
        };
        Ok(TensorArg { shape: &self.shapes[id], data })
    }

    /// The rows of each image, where an input has as many for each.
    fn images(&self, index: usize) -> Result<Option<Vec<Rows>>> {
        let shape = &self.entry.operands[self.id(index)?].fact.shape;
        let count = shape.first().and_then(|rows| rows.factor_of(Symbol::SEQUENCES));
        let rows = |count: u64| {
            let count = count as usize;
            (0..self.call.sequences.len()).map(|i| Rows { first: i * count, count }).collect()
        };
        Ok(count.map(rows))
    }

    /// A window over the images of an input, where it leaves their sides open.
    fn window(&self, window: &Window) -> Result<Window> {
        let shape = self.shapes.get(self.id(0)?).map(Vec::as_slice);
        Ok(match (window.image, shape) {
            ([0, 0], Some(&[_, height, width, _])) => window.over([height, width]),
            _ => window.clone(),
        })
    }

    fn argument(&self, index: usize) -> Result<TensorArg<'a>> {
        let id = self.id(index)?;
        let operand = &self.entry.operands[id];
        let words = match operand.kind {
            OperandKind::Weight(_) => self.vector(index)?,
            _ => self.value(index)?,
        };
        Ok(TensorArg { shape: &self.shapes[id], data: Elements::of(operand.fact.dtype, words) })
    }

    /// An op on tensors alone.
    fn tensor(&self, out: &mut [f32]) -> Result<()> {
        let arguments = (0..self.step.inputs.len()).map(|i| self.argument(i));
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        let target = self.step.outputs.first().copied().unwrap_or(0);
        let data = ElementsMut::of(self.entry.operands[target].fact.dtype, out);
        let size = |dim: &Dim| self.call.size(dim).and_then(|n| usize::try_from(n).ok());
        let out = TensorOut { shape: &self.shapes[target], data };
        match reference::tensor(&self.step.op, &size, &arguments, out)? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Backend, "it is not an op on tensors")),
        }
    }

    pub fn choose(&self, params: &Choose, out: &mut [i32]) -> Result<()> {
        let data = &self.shared.data;
        let site = data.plan.program().sites.get(params.site);
        let site = site.ok_or_else(|| Error::new(ErrorKind::Plan, "its site does not exist"))?;
        let args = ChooseArgs {
            x: self.value(0)?,
            gate: data.weight(self.weight(1)?)?,
            bias: self.vector(2)?,
            transform: params.transform,
            first: params.first,
            costs: &site.costs,
            weight: site.weight,
            price: self.call.price,
            out,
        };
        Ok(reference::choose(args)?)
    }

    pub fn moe_mlp(&self, params: &MoeMlp, choices: &mut Choices, out: &mut [f32]) -> Result<()> {
        let data = &self.shared.data;
        let site = data.plan.program().sites.get(params.site);
        let site = site.ok_or_else(|| Error::new(ErrorKind::Plan, "its site does not exist"))?;
        let (choice, forced) = choices.free_and_forced(params.site, self.call.forced);
        let args = MoeMlpArgs {
            params,
            x: self.value(0)?,
            logits: self.value(1)?,
            w1: data.weight(self.weight(2)?)?,
            w2: data.weight(self.weight(3)?)?,
            residual: if params.residual { Some(self.value(4)?) } else { None },
            weight: site.weight,
            price: self.call.price,
            forced,
            choice,
            out,
        };
        let used = reference::moe_mlp(args, self.shared.products)?;
        choices.set_experts(params.site, used);
        Ok(())
    }

    /// Gives the multiply-adds and the bytes of weights that it spent.
    pub fn sparse_linear(
        &self,
        params: &SparseLinear,
        choices: &Choices,
        out: &mut [f32],
    ) -> Result<(u64, u64)> {
        let p = &params.linear;
        let choice = self.step.inputs.len().saturating_sub(2);
        let site = choice_sites(self.entry).get(&self.id(choice)?).copied();
        let site = site.ok_or_else(|| Error::new(ErrorKind::Plan, "its choice was not made"))?;
        let w = self.shared.data.weight(self.weight(1)?)?;
        let residual = 2 + usize::from(p.bias);
        let args = LinearArgs {
            x: self.value(0)?,
            norm: None,
            factors: None,
            w,
            bias: if p.bias { Some(self.vector(2)?) } else { None },
            activation: p.activation,
            gated: p.gated,
            residual: if p.residual { Some(self.value(residual)?) } else { None },
            precise: p.precise,
            out,
        };
        let sparsity = Sparsity {
            weights: self.vector(choice + 1)?,
            thresholds: &params.thresholds,
            choice: choices.of(site),
        };
        let read = reference::sparse_linear(args, self.shared.products, &sparsity)?;
        Ok((read.channels.saturating_mul(w.rows() as u64), read.bytes))
    }

    pub fn compute(&self, cache: &mut KvCache, choices: &Choices, out: &mut [f32]) -> Result<()> {
        let data = &self.shared.data;
        match &self.step.op {
            Op::Embedding(p) => {
                let table = data.weight(self.weight(1)?)?;
                kernels::embedding(&Pool::new(1), self.ids(0)?, &table, p.scale, out)?;
            }
            Op::Linear(p) => {
                let residual = 2 + usize::from(p.bias);
                let last = residual + usize::from(p.residual);
                let args = LinearArgs {
                    x: self.value(0)?,
                    norm: None,
                    factors: if p.factors { Some(self.vector(last)?) } else { None },
                    w: data.weight(self.weight(1)?)?,
                    bias: if p.bias { Some(self.vector(2)?) } else { None },
                    activation: p.activation,
                    gated: p.gated,
                    residual: if p.residual { Some(self.value(residual)?) } else { None },
                    precise: p.precise,
                    out,
                };
                reference::linear(args, self.shared.products)?;
            }
            Op::Norm(p) => {
                let args = NormArgs {
                    kind: p.kind,
                    weight: self.vector(1)?,
                    bias: if p.bias { Some(self.vector(2)?) } else { None },
                    eps: p.eps,
                };
                reference::norm(self.value(0)?, &args, out)?;
            }
            Op::Add(_) => reference::add(self.value(0)?, self.value(1)?, out)?,
            Op::Activate(p) => reference::activate(p.activation, self.value(0)?, out)?,
            Op::Gate(p) => {
                reference::gate(p.activation, self.value(0)?, self.value(1)?, out)?;
            }
            Op::Patches(p) => kernels::patches(p, self.floats(0)?, out)?,
            Op::Pixels(p) => kernels::pixels(p, self.floats(0)?, out)?,
            Op::MaxPool2d(p) => {
                let p = MaxPool2d { window: self.window(&p.window)? };
                kernels::max_pool2d(&Pool::new(1), &p, self.value(0)?, self.cols(0)?, out)?;
            }
            Op::Conv2d(p) => {
                let residual = 2 + usize::from(p.bias);
                let args = Conv2dArgs {
                    params: &Conv2d { window: self.window(&p.window)?, ..p.clone() },
                    x: self.value(0)?,
                    w: data.weight(self.weight(1)?)?,
                    bias: if p.bias { Some(self.vector(2)?) } else { None },
                    residual: if p.residual { Some(self.value(residual)?) } else { None },
                    out,
                };
                reference::conv2d(args, self.shared.products)?;
            }
            Op::DepthwiseConv2d(p) => {
                let args = DepthwiseConv2dArgs {
                    params: &DepthwiseConv2d { window: self.window(&p.window)?, ..p.clone() },
                    x: self.value(0)?,
                    channels: self.cols(0)?,
                    w: self.vector(1)?,
                    bias: if p.bias { Some(self.vector(2)?) } else { None },
                    out,
                };
                reference::depthwise_conv2d(args)?;
            }
            Op::SoftCap(p) => reference::soft_cap(p.cap, self.value(0)?, out)?,
            Op::SelectRows(_) => {
                let (x, cols) = (self.value(0)?, self.cols(0)?);
                kernels::select_rows(x, cols, self.call.output_rows, out)?;
            }
            Op::Pool(p) => {
                let (x, cols) = (self.value(0)?, self.cols(0)?);
                let images = self.images(0)?;
                let sequences = images.as_deref().unwrap_or(self.call.sequences);
                kernels::pool_sequences(p.pooling, p.normalise, x, cols, sequences, out)?;
            }
            Op::Attention(p) => {
                let qkv = if p.fused {
                    Qkv::Fused(self.value(0)?)
                } else {
                    Qkv::Separate { q: self.value(0)?, k: self.value(1)?, v: self.value(2)? }
                };
                let mut next = if p.fused { 1 } else { 3 };
                let mut vector = |present: bool| {
                    next += usize::from(present);
                    if present { self.vector(next - 1).map(Some) } else { Ok(None) }
                };
                let args = AttentionArgs {
                    params: p,
                    qkv,
                    q_norm: vector(p.qk_norm_eps.is_some())?,
                    k_norm: vector(p.qk_norm_eps.is_some())?,
                    inv_freq: vector(p.rope.is_some())?,
                    spans: self.call.spans,
                    cache: p.state.map(|layer| (cache, layer)),
                    rough: false,
                    out,
                };
                reference::attention(args)?;
            }
            Op::Mix(p) => {
                let parts: Vec<&[f32]> =
                    (1..=p.parts).map(|i| self.value(i)).collect::<Result<_>>()?;
                let residual = if p.residual { Some(self.value(1 + p.parts)?) } else { None };
                let logits = self.value(0)?;
                reference::mix(MixArgs { params: p, logits, parts: &parts, residual, out })?;
            }
            Op::ConvTranspose2d(p) => {
                let target = self.step.outputs.first().copied().unwrap_or(0);
                let args = ConvTranspose2dArgs {
                    params: p,
                    x: self.value(0)?,
                    shape: &self.shapes[self.id(0)?],
                    w: data.weight(self.weight(1)?)?,
                    bias: if p.bias { Some(self.vector(2)?) } else { None },
                    out,
                    out_shape: &self.shapes[target],
                };
                reference::conv_transpose2d(args)?;
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
            | Op::Lstm(_) => self.tensor(out)?,
            Op::Onnx(_) => return Err(Error::new(ErrorKind::Backend, "it is run by itself")),
            // They make choices.
            Op::Choose(_) | Op::Level(_) | Op::MoeMlp(_) => {}
            // It spends what it keeps.
            Op::SparseLinear(_) => {}
            Op::AdaptiveMlp(p) => {
                let site = choice_sites(self.entry).get(&self.id(1)?).copied();
                let site =
                    site.ok_or_else(|| Error::new(ErrorKind::Plan, "its choice was not made"))?;
                let w2 = 3 + usize::from(p.bias);
                let residual = w2 + 1 + usize::from(p.out_bias);
                let args = AdaptiveMlpArgs {
                    x: self.value(0)?,
                    choice: choices.of(site),
                    w1: data.weight(self.weight(2)?)?,
                    b1: if p.bias { Some(self.vector(3)?) } else { None },
                    w2: data.weight(self.weight(w2)?)?,
                    out_bias: match p.out_bias {
                        true => Some(data.weight(self.weight(w2 + 1)?)?),
                        false => None,
                    },
                    residual: if p.residual { Some(self.value(residual)?) } else { None },
                    learners: p.learners,
                    activation: p.activation,
                    gated: p.gated,
                    out,
                };
                reference::adaptive_mlp(args, self.shared.products)?;
            }
        }
        Ok(())
    }
}
