//! The fake backend: reference kernels, one buffer per operand, no fusion. It is slow and the
//! truth in tests.

use std::sync::Arc;

use limbeck_kernels::reference::{self, Products};
use limbeck_kernels::{
    self as kernels, AdaptiveMlpArgs, AttentionArgs, ChooseArgs, Conv2dArgs, ConvTranspose2dArgs,
    DepthwiseConv2dArgs, Elements, ElementsMut, KvCache, LinearArgs, MixArgs, MoeMlpArgs, NormArgs,
    Pool, Qkv, Rows, Sparsity, TensorArg, TensorOut,
};
use limbeck_plan::{
    Choose, Conv2d, DType, DepthwiseConv2d, Dim, Entry, MaxPool2d, MoeMlp, Onnx, Op, Operand,
    OperandId, OperandKind, SparseLinear, Step, Symbol, Window,
};

use super::cost::{Cost, choice_sites};
use super::onnx::{self, Segments};
use super::{
    Backend, Bounds, Cache, Call, Choices, Matrix, PlanData, Prepared, Sequences, Spent, State,
    given,
};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{self, Account, Holding};
use crate::onnx::OnnxOptions;
use crate::pace::check_cancelled;

/// Runs native segments with the reference kernels.
pub(crate) struct FakeBackend {
    /// What computes ONNX segments.
    pub onnx: OnnxOptions,
    /// What activations are when they meet quantised weights.
    pub products: Products,
}

impl Default for FakeBackend {
    /// As the kernels have it.
    fn default() -> FakeBackend {
        FakeBackend { onnx: OnnxOptions::default(), products: Products::Quantised }
    }
}

impl Backend for FakeBackend {
    fn description(&self) -> String {
        "fake (reference kernels)".into()
    }

    fn prepare(&self, data: Arc<PlanData>) -> Result<Arc<dyn Prepared>> {
        let program = data.plan.program();
        let costs = program.entries.iter().map(|e| Cost::new(program, e)).collect();
        let segments = Segments::prepare(&self.onnx, 1, &data)?;
        program.entries.iter().try_for_each(|entry| onnx::open(entry).map(drop))?;
        let vectors = data.load_vectors()?;
        let products = self.products;
        Ok(Arc::new(FakePrepared(Arc::new(Shared { segments, data, vectors, costs, products }))))
    }
}

struct Shared {
    /// Before the bytes of the plan, into which they look.
    segments: Segments,
    data: Arc<PlanData>,
    vectors: Vec<Option<Vec<f32>>>,
    costs: Vec<Cost>,
    products: Products,
}

struct FakePrepared(Arc<Shared>);

impl Prepared for FakePrepared {
    fn state(&self, bounds: &Bounds, account: &Account) -> Result<Box<dyn State>> {
        Ok(Box::new(FakeState {
            cache: self.0.data.new_cache(bounds, account)?,
            held: account.holding(),
            shared: self.0.clone(),
            values: Vec::new(),
            shapes: Vec::new(),
            entry: 0,
            choices: Choices::default(),
        }))
    }
}

struct FakeState {
    shared: Arc<Shared>,
    cache: Cache,
    held: Holding,
    /// By operand of the entry run last.
    values: Vec<Vec<f32>>,
    /// By operand of the same entry.
    shapes: Vec<Vec<usize>>,
    entry: usize,
    choices: Choices,
}

impl State for FakeState {
    fn run(&mut self, call: &Call<'_>) -> Result<Spent> {
        let shared = self.shared.clone();
        let entry = shared.data.plan.program().entries.get(call.entry).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("entry {} does not exist", call.entry))
        })?;
        self.choices.begin(&shared.data.plan.program().sites, call)?;
        self.entry = call.entry;
        self.values = vec![Vec::new(); entry.operands.len()];
        self.held.set(0)?;
        // What has no size fails where it is used.
        let size = |dim: &Dim| call.size(dim).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let shape = |o: &Operand| o.fact.shape.iter().map(size).collect();
        self.shapes = entry.operands.iter().map(shape).collect();
        for (id, operand) in entry.operands_of(OperandKind::Input) {
            if !operand.fact.is_of_call() {
                self.values[id] = call.tensor(&operand.name)?.data.buffer().to_vec();
            }
        }
        for step in entry.steps() {
            call.control.map_or(Ok(()), check_cancelled)?;
            self.step(&shared, entry, step, call).map_err(|e| e.at(entry.place(&step.name)))?;
        }
        Ok(shared.costs.get(call.entry).map(|c| c.of(call, &self.choices)).unwrap_or_default())
    }

    fn output(&self, name: &str) -> Option<Matrix<'_>> {
        let entry = self.shared.data.plan.program().entries.get(self.entry)?;
        let mut outputs = entry.operands_of(OperandKind::Output);
        let (id, operand) = outputs.find(|(_, o)| o.name == name)?;
        let cols = operand.fact.shape.last()?.as_const()? as usize;
        Some(Matrix { values: self.values.get(id)?, cols })
    }

    fn tensor(&self, name: &str) -> Option<TensorArg<'_>> {
        let entry = self.shared.data.plan.program().entries.get(self.entry)?;
        let mut outputs = entry.operands_of(OperandKind::Output);
        let (id, operand) = outputs.find(|(_, o)| o.name == name)?;
        let data = Elements::of(operand.fact.dtype, self.values.get(id)?);
        Some(TensorArg { shape: self.shapes.get(id)?, data })
    }

    fn choices(&self) -> &[i32] {
        self.choices.all()
    }

    fn sequences(&self) -> &dyn Sequences {
        &self.cache
    }

    fn sequences_mut(&mut self) -> &mut dyn Sequences {
        &mut self.cache
    }
}

impl FakeState {
    fn step(&mut self, shared: &Shared, entry: &Entry, step: &Step, call: &Call<'_>) -> Result<()> {
        let malformed = || Error::new(ErrorKind::Plan, "its operands do not fit its op");
        if let Op::Onnx(p) = &step.op {
            return self.onnx(shared, (entry, step), p, call);
        }
        let target = *step.outputs.first().ok_or_else(malformed)?;
        let shape = &entry.operands[target].fact.shape;
        let mut sizes = shape.iter().map(|d| call.size(d));
        let len = sizes.try_fold(1u64, |n, d| n.checked_mul(d?));
        let len = len.and_then(|n| usize::try_from(n).ok()).ok_or_else(malformed)?;
        self.held.set(self.held.bytes().saturating_add(len.saturating_mul(size_of::<f32>())))?;
        let mut out = memory::vector(len)?;
        let (values, shapes) = (&self.values, &self.shapes);
        let operands = Operands { shared, entry, call, step, values, shapes };
        if let Op::Choose(p) = &step.op {
            operands.choose(p, self.choices.of_mut(p.site))?;
            self.choices.force(p.site, call.forced);
            return Ok(());
        }
        if let Op::MoeMlp(p) = &step.op {
            operands.moe_mlp(p, &mut self.choices, &mut out)?;
            self.values[target] = out;
            return Ok(());
        }
        if let Op::Level(p) = &step.op {
            return self.choices.level(p, &shared.data.plan.program().sites, call);
        }
        if let Op::SparseLinear(p) = &step.op {
            let (macs, bytes) = operands.sparse_linear(p, &self.choices, &mut out)?;
            self.choices.spend(macs, bytes);
            self.values[target] = out;
            return Ok(());
        }
        operands.compute(self.cache.blocks_mut(), &self.choices, &mut out)?;
        self.values[target] = out;
        Ok(())
    }
}

impl FakeState {
    /// A segment of ONNX Runtime, whose outputs keep the sizes that it gives.
    fn onnx(
        &mut self,
        shared: &Shared,
        (entry, step): (&Entry, &Step),
        params: &Onnx,
        call: &Call<'_>,
    ) -> Result<()> {
        let (values, shapes) = (&self.values, &self.shapes);
        let operands = Operands { shared, entry, call, step, values, shapes };
        let segment = onnx::number(shared.data.plan.program(), step);
        let inputs = (0..params.inputs.len()).map(|index| operands.given(index));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let mut found = Vec::new();
        shared.segments.run(segment, &inputs, call, &mut |index, shape, data| {
            found.push((index, shape.to_vec(), data.buffer().to_vec()));
            Ok(())
        })?;
        for (index, shape, data) in found {
            let id = step.outputs.get(index).copied();
            let id = id.ok_or_else(|| Error::new(ErrorKind::Plan, "it gives too much"))?;
            onnx::check(&entry.operands[id].fact, &shape, call)?;
            (self.shapes[id], self.values[id]) = (shape, data);
        }
        Ok(())
    }
}

struct Operands<'a> {
    shared: &'a Shared,
    entry: &'a Entry,
    call: &'a Call<'a>,
    step: &'a Step,
    values: &'a [Vec<f32>],
    shapes: &'a [Vec<usize>],
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
    fn given(&self, index: usize) -> Result<TensorArg<'a>> {
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

    fn choose(&self, params: &Choose, out: &mut [i32]) -> Result<()> {
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

    fn moe_mlp(&self, params: &MoeMlp, choices: &mut Choices, out: &mut [f32]) -> Result<()> {
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
    fn sparse_linear(
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

    fn compute(&self, cache: &mut KvCache, choices: &Choices, out: &mut [f32]) -> Result<()> {
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
