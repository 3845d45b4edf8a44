//! The fake backend: reference kernels, one buffer per operand, no fusion. It is slow and the
//! truth in tests.

mod operands;

use std::sync::Arc;

use limbeck_kernels::reference::Products;
use limbeck_kernels::{Elements, TensorArg};
use limbeck_plan::{Dim, Entry, Onnx, Op, Operand, OperandKind, Step};

use super::cost::Cost;
use super::onnx::{self, Segments};
use super::{
    Backend, Bounds, Cache, Call, Choices, Matrix, PlanData, Prepared, Sequences, Spent, State,
};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{self, Account, Holding};
use crate::onnx::OnnxOptions;
use crate::pace::check_cancelled;
use operands::Operands;

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
