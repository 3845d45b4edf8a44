//! The fake backend: reference kernels, one buffer per operand, no fusion. It is slow and the
//! truth in tests.

use std::sync::Arc;

use limbeck_kernels::reference::{self, Products};
use limbeck_kernels::{
    self as kernels, AdaptiveMlpArgs, AttentionArgs, ChooseArgs, Conv2dArgs, DepthwiseConv2dArgs,
    KvCache, LinearArgs, MixArgs, MoeMlpArgs, NormArgs, Pool, Qkv, Rows, Sparsity,
};
use limbeck_plan::{
    Choose, Dim, Entry, MoeMlp, Op, OperandId, OperandKind, SparseLinear, Step, Symbol,
};

use super::cost::{Cost, choice_sites};
use super::{
    Backend, Bounds, Cache, Call, Choices, Matrix, PlanData, Prepared, Sequences, Spent, State,
    given,
};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{self, Account, Holding};

/// Runs native segments with the reference kernels.
pub(crate) struct FakeBackend;

impl Backend for FakeBackend {
    fn description(&self) -> String {
        "fake (reference kernels)".into()
    }

    fn prepare(&self, data: Arc<PlanData>) -> Result<Arc<dyn Prepared>> {
        let program = data.plan.program();
        let costs = program.entries.iter().map(|e| Cost::new(program, e)).collect();
        let vectors = data.load_vectors()?;
        Ok(Arc::new(FakePrepared(Arc::new(Shared { data, vectors, costs }))))
    }
}

struct Shared {
    data: Arc<PlanData>,
    vectors: Vec<Option<Vec<f32>>>,
    costs: Vec<Cost>,
}

struct FakePrepared(Arc<Shared>);

impl Prepared for FakePrepared {
    fn state(&self, bounds: &Bounds, account: &Account) -> Result<Box<dyn State>> {
        Ok(Box::new(FakeState {
            cache: self.0.data.new_cache(bounds, account)?,
            held: account.holding(),
            shared: self.0.clone(),
            values: Vec::new(),
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
        for step in entry.steps() {
            self.step(&shared, entry, step, call)
                .map_err(|e| e.at(format!("entry {:?}, step {:?}", entry.name, step.name)))?;
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
        let target = *step.outputs.first().ok_or_else(malformed)?;
        let shape = &entry.operands[target].fact.shape;
        let len = shape.iter().map(|d| size(d, call)).product::<Option<u64>>();
        let len = len.ok_or_else(malformed)? as usize;
        self.held.set(self.held.bytes().saturating_add(len.saturating_mul(size_of::<f32>())))?;
        let mut out = memory::vector(len)?;
        let operands = Operands { shared, entry, call, step, values: &self.values };
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

fn size(dim: &Dim, call: &Call<'_>) -> Option<u64> {
    dim.eval(&|name| match name {
        Symbol::TOKENS => Some(call.tokens as u64),
        Symbol::OUTPUTS => Some(call.output_rows.len() as u64),
        Symbol::SEQUENCES => Some(call.sequences.len() as u64),
        _ => None,
    })
}

struct Operands<'a> {
    shared: &'a Shared,
    entry: &'a Entry,
    call: &'a Call<'a>,
    step: &'a Step,
    values: &'a [Vec<f32>],
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
        let name = &self.entry.operands[self.id(index)?].name;
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
        let used = reference::moe_mlp(args, Products::Quantised)?;
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
        let read = reference::sparse_linear(args, Products::Quantised, &sparsity)?;
        Ok((read.channels.saturating_mul(w.rows() as u64), read.bytes))
    }

    fn compute(&self, cache: &mut KvCache, choices: &Choices, out: &mut [f32]) -> Result<()> {
        let data = &self.shared.data;
        match &self.step.op {
            Op::Embedding(p) => {
                let table = data.weight(self.weight(1)?)?;
                kernels::embedding(self.ids(0)?, &table, p.scale, out)?;
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
                reference::linear(args, Products::Quantised)?;
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
                kernels::max_pool2d(&Pool::new(1), p, self.value(0)?, self.cols(0)?, out)?;
            }
            Op::Conv2d(p) => {
                let residual = 2 + usize::from(p.bias);
                let args = Conv2dArgs {
                    params: p,
                    x: self.value(0)?,
                    w: data.weight(self.weight(1)?)?,
                    bias: if p.bias { Some(self.vector(2)?) } else { None },
                    residual: if p.residual { Some(self.value(residual)?) } else { None },
                    out,
                };
                reference::conv2d(args, Products::Quantised)?;
            }
            Op::DepthwiseConv2d(p) => {
                let args = DepthwiseConv2dArgs {
                    params: p,
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
                reference::adaptive_mlp(args, Products::Quantised)?;
            }
        }
        Ok(())
    }
}
