//! Running a lowered entry.

use std::sync::Arc;

use limbeck_kernels as kernels;
use limbeck_kernels::{
    AdaptiveMlpArgs, AdaptiveScratch, AttentionArgs, AttentionScratch, ChooseArgs, Conv2dArgs,
    ConvScratch, DepthwiseConv2dArgs, Elements, KvCache, LinearArgs, LinearScratch, MixArgs,
    MoeMlpArgs, MoeScratch, Qkv, Rows, Sparsity, TensorArg, TensorScratch,
};
use limbeck_plan::{Conv2d, DepthwiseConv2d, Fact, MaxPool2d};

use super::bands::Bands;
use super::{Shared, rows};
use crate::backend::lower::{Instruction, Lowered, Output, QkvValue};
use crate::backend::onnx::Open;
use crate::backend::sizes::Sizes;
use crate::backend::slots::{Unit, Value};
use crate::backend::{Bounds, Cache, Call, Choices, Matrix, Sequences, Spent, State, given};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Holding;
use crate::pace::check_cancelled;

/// Buffers, scratch and cache of one session.
pub(super) struct CpuState {
    shared: Arc<Shared>,
    bounds: Bounds,
    cache: Cache,
    /// What buffers and scratch take.
    held: Holding,
    /// By entry, as large as its largest call.
    slots: Vec<Vec<Vec<f32>>>,
    linear: LinearScratch,
    bands: Bands,
    conv: ConvScratch,
    attention: AttentionScratch,
    adaptive: AdaptiveScratch,
    moe: MoeScratch,
    tensors: TensorScratch,
    choices: Choices,
    open: Open,
    /// The entry and sizes of the last run.
    last: Option<(usize, Sizes)>,
}

impl CpuState {
    pub fn new(shared: Arc<Shared>, cache: Cache, bounds: Bounds, held: Holding) -> CpuState {
        CpuState {
            slots: vec![Vec::new(); shared.entries.len()],
            shared,
            bounds,
            cache,
            held,
            linear: LinearScratch::default(),
            bands: Bands::default(),
            conv: ConvScratch::default(),
            attention: AttentionScratch::default(),
            adaptive: AdaptiveScratch::default(),
            moe: MoeScratch::default(),
            tensors: TensorScratch::default(),
            choices: Choices::default(),
            open: Open::default(),
            last: None,
        }
    }

    fn scratch_bytes(&self) -> usize {
        let dense = self.linear.bytes() + self.bands.bytes();
        let dense = dense + self.conv.bytes() + self.attention.bytes();
        let tensors = self.tensors.bytes();
        let tensors = tensors + self.open.bytes();
        dense + self.adaptive.bytes() + self.moe.bytes() + tensors + self.choices.bytes()
    }

    fn buffer_bytes(&self) -> usize {
        self.slots.iter().flatten().map(|buffer| buffer.capacity() * size_of::<f32>()).sum()
    }

    /// Makes the buffers of an entry large enough for a call, if the limits on memory allow it.
    fn make_room(&mut self, index: usize, entry: &Lowered, sizes: &Sizes) -> Result<()> {
        let slots = &mut self.slots[index];
        let units = |unit| sizes.units(unit);
        let more = entry.slots.missing_bytes(units, slots);
        if more == 0 {
            // Calls of no elements come here too before there are any buffers.
            return entry.slots.fit(units, slots);
        }
        self.held.set(self.held.bytes().saturating_add(more))?;
        let fitted = entry.slots.fit(units, slots);
        self.held.set(self.buffer_bytes() + self.scratch_bytes())?;
        fitted
    }

    /// Charges the scratch of kernels, whose size is known once they have run. Scratch that a limit
    /// does not allow is given up.
    fn charge_scratch(&mut self) -> Result<()> {
        let bytes = self.buffer_bytes() + self.scratch_bytes();
        self.held.set(bytes).inspect_err(|_| {
            self.linear = LinearScratch::default();
            self.bands = Bands::default();
            self.conv = ConvScratch::default();
            self.attention = AttentionScratch::default();
            self.adaptive = AdaptiveScratch::default();
            self.moe = MoeScratch::default();
            self.tensors = TensorScratch::default();
        })
    }
}

impl CpuState {
    /// An output of the last run and its words.
    fn written(&self, name: &str) -> Option<(&[f32], &Output)> {
        let (entry, sizes) = self.last.as_ref()?;
        let output = self.shared.entries.get(*entry)?.outputs.iter().find(|o| o.name == name)?;
        let buffer = self.slots.get(*entry)?.get(output.value.slot)?;
        Some((buffer.get(..sizes.len(output.value))?, output))
    }
}

impl State for CpuState {
    fn run(&mut self, call: &Call<'_>) -> Result<Spent> {
        self.last = None;
        self.bounds.check(call)?;
        let shared = self.shared.clone();
        let entry = shared.entries.get(call.entry).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("entry {} does not exist", call.entry))
        })?;
        let sizes = Sizes::of(entry, call)?;
        self.open.clear();
        self.choices.begin(&shared.data.plan.program().sites, call)?;
        self.make_room(call.entry, entry, &sizes)?;
        // A precise row counts twice.
        self.linear.reserve(2, entry.widest);
        let mut runner = Runner {
            shared: &shared,
            slots: &mut self.slots[call.entry],
            sizes: &sizes,
            call,
            inputs: &entry.inputs,
            facts: &entry.facts,
            cache: self.cache.blocks_mut(),
            linear: &mut self.linear,
            conv: &mut self.conv,
            attention: &mut self.attention,
            adaptive: &mut self.adaptive,
            moe: &mut self.moe,
            tensors: &mut self.tensors,
            choices: &mut self.choices,
            open: &mut self.open,
        };
        runner.take_tensors(&entry.tensors)?;
        let mut runs = shared.runs[call.entry].iter().peekable();
        let mut at = 0;
        while let Some(named) = entry.instructions.get(at) {
            call.control.map_or(Ok(()), check_cancelled)?;
            let run = runs.next_if(|run| run.instructions.start == at);
            at = match run {
                Some(run) if self.bands.run(&shared, runner.slots, &sizes, entry, run)? => {
                    run.instructions.end
                }
                _ => {
                    let done = runner.execute(&named.instruction);
                    done.map_err(|e| e.at(entry.place(&named.step)))?;
                    at + 1
                }
            };
        }
        self.charge_scratch()?;
        self.last = Some((call.entry, sizes));
        Ok(entry.cost.of(call, &self.choices))
    }

    fn output(&self, name: &str) -> Option<Matrix<'_>> {
        let (values, output) = self.written(name)?;
        Some(Matrix { values, cols: output.value.cols })
    }

    fn tensor(&self, name: &str) -> Option<TensorArg<'_>> {
        if let Some((entry, _)) = &self.last
            && let Some((_, id)) =
                self.shared.entries.get(*entry)?.open_outputs.iter().find(|o| o.0 == name)
        {
            return self.open.get(*id);
        }
        let (values, output) = self.written(name)?;
        let (entry, sizes) = self.last.as_ref()?;
        let fact = self.shared.entries.get(*entry)?.facts.get(output.operand)?;
        Some(TensorArg {
            shape: sizes.shape(output.operand),
            data: Elements::of(fact.dtype, values),
        })
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

pub(super) struct Runner<'a> {
    pub(super) shared: &'a Shared,
    pub(super) slots: &'a mut Vec<Vec<f32>>,
    pub(super) sizes: &'a Sizes,
    pub(super) call: &'a Call<'a>,
    pub(super) inputs: &'a [String],
    /// By operand, where the entry asks for shapes.
    pub(super) facts: &'a [Fact],
    cache: &'a mut KvCache,
    pub(super) linear: &'a mut LinearScratch,
    conv: &'a mut ConvScratch,
    attention: &'a mut AttentionScratch,
    adaptive: &'a mut AdaptiveScratch,
    moe: &'a mut MoeScratch,
    pub(super) tensors: &'a mut TensorScratch,
    choices: &'a mut Choices,
    pub(super) open: &'a mut Open,
}

/// The elements of a value in its slot.
pub(super) fn filled<'a>(slots: &'a [Vec<f32>], sizes: &Sizes, value: Value) -> &'a [f32] {
    slots[value.slot].get(..sizes.len(value)).unwrap_or_default()
}

impl Runner<'_> {
    fn execute(&mut self, instruction: &Instruction) -> Result<()> {
        match instruction {
            Instruction::Reshape { x, out } => self.reshape(*x, *out),
            Instruction::Level { params } => {
                let sites = &self.shared.data.plan.program().sites;
                self.choices.level(params, sites, self.call)
            }
            Instruction::Choose { .. } => self.choose(instruction),
            Instruction::Onnx { .. } => self.onnx(instruction),
            _ => instruction.out().map_or(Ok(()), |out| self.fill(instruction, out)),
        }
    }

    /// Runs an instruction that fills a value.
    fn fill(&mut self, instruction: &Instruction, out: Value) -> Result<()> {
        let len = self.sizes.len(out);
        // The output's buffer is taken out while the inputs' are read: no operand of a step shares
        // a slot with its output.
        let mut buffer = std::mem::take(&mut self.slots[out.slot]);
        let result = match buffer.get_mut(..len) {
            Some(target) => self.kernel(instruction, target),
            None => Err(Error::new(ErrorKind::Backend, "a buffer is too small")),
        };
        self.slots[out.slot] = buffer;
        result
    }

    pub(super) fn value(&self, value: Value) -> &[f32] {
        filled(self.slots, self.sizes, value)
    }

    pub(super) fn input(&self, index: usize) -> Result<&[i32]> {
        let name = self.inputs.get(index).map_or("", String::as_str);
        let found = self.call.inputs.iter().find(|(n, _)| *n == name);
        found.map(|(_, values)| *values).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("input {name:?} is missing"))
        })
    }

    fn kernel(&mut self, instruction: &Instruction, out: &mut [f32]) -> Result<()> {
        let shared = self.shared;
        let (k, pool) = (&shared.kernels, &*shared.pool);
        match instruction {
            Instruction::Embedding { ids, table, scale, .. } => {
                kernels::embedding(pool, self.ids(*ids)?, &shared.weight(*table)?, *scale, out)?;
            }
            Instruction::SelectRows { x, .. } => {
                kernels::select_rows(self.value(*x), x.cols, self.call.output_rows, out)?;
            }
            Instruction::Pool { params, x, .. } => {
                let (pooling, normalise) = (params.pooling, params.normalise);
                let images = self.images(*x);
                let sequences = images.as_deref().unwrap_or(self.call.sequences);
                let (x, cols) = (self.value(*x), x.cols);
                kernels::pool_sequences(pooling, normalise, x, cols, sequences, out)?;
            }
            Instruction::Patches { params, pixels, .. } => {
                let name = self.inputs.get(*pixels).map_or("", String::as_str);
                kernels::patches(params, given(self.call, name)?, out)?;
            }
            Instruction::Pixels { params, pixels, .. } => {
                let name = self.inputs.get(*pixels).map_or("", String::as_str);
                kernels::pixels(params, given(self.call, name)?, out)?;
            }
            Instruction::MaxPool2d { params, x, sides, .. } => {
                let window = self.window(&params.window, *sides);
                let params = &MaxPool2d { window };
                kernels::max_pool2d(pool, params, self.value(*x), x.cols, out)?;
            }
            Instruction::DepthwiseConv2d { params, x, sides, weight, bias, .. } => {
                let window = self.window(&params.window, *sides);
                let args = DepthwiseConv2dArgs {
                    params: &DepthwiseConv2d { window, ..params.clone() },
                    x: self.value(*x),
                    channels: x.cols,
                    w: shared.vector(*weight)?,
                    bias: bias.map(|id| shared.vector(id)).transpose()?,
                    out,
                };
                kernels::depthwise_conv2d(k, pool, args)?;
            }
            Instruction::Conv2d { .. } => self.conv2d(instruction, out)?,
            Instruction::Linear { .. }
            | Instruction::Norm { .. }
            | Instruction::Add { .. }
            | Instruction::Activate { .. }
            | Instruction::Gate { .. }
            | Instruction::SoftCap { .. } => self.rows(instruction, out)?,
            Instruction::Attention { .. } => self.attention(instruction, out)?,
            Instruction::AdaptiveMlp { .. } => self.adaptive_mlp(instruction, out)?,
            Instruction::MoeMlp { .. } => self.moe_mlp(instruction, out)?,
            Instruction::Mix { .. } => self.mix(instruction, out)?,
            Instruction::SparseLinear { .. } => self.sparse_linear(instruction, out)?,
            Instruction::ConvTranspose2d { .. } => self.conv_transpose2d(instruction, out)?,
            Instruction::Tensor { .. } => self.tensor(instruction, out)?,
            Instruction::Choose { .. }
            | Instruction::Onnx { .. }
            | Instruction::Level { .. }
            | Instruction::Reshape { .. } => {}
        }
        Ok(())
    }

    /// The rows of each image, where `x` has as many for each.
    fn images(&self, x: Value) -> Option<Vec<Rows>> {
        let count = (x.unit == Unit::Sequences).then_some(x.rows)?;
        Some(
            (0..self.sizes.units(Unit::Sequences))
                .map(|i| Rows { first: i * count, count })
                .collect(),
        )
    }

    fn conv2d(&mut self, instruction: &Instruction, out: &mut [f32]) -> Result<()> {
        let Instruction::Conv2d { params, x, sides, weight, bias, residual, .. } = instruction
        else {
            return Ok(());
        };
        let window = self.window(&params.window, *sides);
        let shared = self.shared;
        let slot = |value: Value| filled(self.slots, self.sizes, value);
        let args = Conv2dArgs {
            params: &Conv2d { window, ..params.clone() },
            x: slot(*x),
            w: shared.weight(*weight)?,
            bias: bias.map(|id| shared.vector(id)).transpose()?,
            residual: residual.map(slot),
            out,
        };
        Ok(kernels::conv2d(&shared.kernels, &shared.pool, self.conv, args)?)
    }

    fn sparse_linear(&mut self, instruction: &Instruction, out: &mut [f32]) -> Result<()> {
        let Instruction::SparseLinear {
            params,
            x,
            norm,
            weight,
            bias,
            residual,
            site,
            channels,
            ..
        } = instruction
        else {
            return Ok(());
        };
        let shared = self.shared;
        let norm = norm.as_ref().map(|call| rows::norm(shared, call)).transpose()?;
        let slot = |value: Value| filled(self.slots, self.sizes, value);
        let w = shared.weight(*weight)?;
        let args = LinearArgs {
            x: slot(*x),
            norm,
            factors: None,
            w,
            bias: bias.map(|id| shared.vector(id)).transpose()?,
            activation: params.linear.activation,
            gated: params.linear.gated,
            residual: residual.map(slot),
            precise: params.linear.precise,
            out,
        };
        let sparsity = Sparsity {
            weights: shared.vector(*channels)?,
            thresholds: &params.thresholds,
            choice: self.choices.of(*site),
        };
        let (kernels, pool) = (&shared.kernels, &*shared.pool);
        let read = kernels::sparse_linear(kernels, pool, self.linear, args, &sparsity)?;
        self.choices.spend(read.channels.saturating_mul(w.rows() as u64), read.bytes);
        Ok(())
    }

    fn rows(&mut self, instruction: &Instruction, out: &mut [f32]) -> Result<()> {
        let slot = |value: Value| filled(self.slots, self.sizes, value);
        rows::run(self.shared, &self.shared.pool, self.linear, instruction, &slot, out)
    }

    fn choose(&mut self, instruction: &Instruction) -> Result<()> {
        let Instruction::Choose { params, x, gate, bias } = instruction else { return Ok(()) };
        let shared = self.shared;
        let site = shared.data.plan.program().sites.get(params.site);
        let site = site.ok_or_else(|| Error::new(ErrorKind::Plan, "its site does not exist"))?;
        let args = ChooseArgs {
            x: filled(self.slots, self.sizes, *x),
            gate: shared.weight(*gate)?,
            bias: shared.vector(*bias)?,
            transform: params.transform,
            first: params.first,
            costs: &site.costs,
            weight: site.weight,
            price: self.call.price,
            out: self.choices.of_mut(params.site),
        };
        kernels::choose(&shared.kernels, &shared.pool, self.adaptive, args)?;
        self.choices.force(params.site, self.call.forced);
        Ok(())
    }

    fn adaptive_mlp(&mut self, instruction: &Instruction, out: &mut [f32]) -> Result<()> {
        let Instruction::AdaptiveMlp { params, x, site, w1, b1, w2, out_bias, residual, .. } =
            instruction
        else {
            return Ok(());
        };
        let shared = self.shared;
        let slot = |value: Value| filled(self.slots, self.sizes, value);
        let args = AdaptiveMlpArgs {
            x: slot(*x),
            choice: self.choices.of(*site),
            w1: shared.weight(*w1)?,
            b1: b1.map(|id| shared.vector(id)).transpose()?,
            w2: shared.weight(*w2)?,
            out_bias: out_bias.map(|id| shared.weight(id)).transpose()?,
            residual: residual.map(slot),
            learners: params.learners,
            activation: params.activation,
            gated: params.gated,
            out,
        };
        Ok(kernels::adaptive_mlp(&shared.kernels, &shared.pool, self.adaptive, args)?)
    }

    fn moe_mlp(&mut self, instruction: &Instruction, out: &mut [f32]) -> Result<()> {
        let Instruction::MoeMlp { params, x, logits, w1, w2, residual, .. } = instruction else {
            return Ok(());
        };
        let shared = self.shared;
        let site = shared.data.plan.program().sites.get(params.site);
        let site = site.ok_or_else(|| Error::new(ErrorKind::Plan, "its site does not exist"))?;
        let slot = |value: Value| filled(self.slots, self.sizes, value);
        let (choice, forced) = self.choices.free_and_forced(params.site, self.call.forced);
        let args = MoeMlpArgs {
            params,
            x: slot(*x),
            logits: slot(*logits),
            w1: shared.weight(*w1)?,
            w2: shared.weight(*w2)?,
            residual: residual.map(slot),
            weight: site.weight,
            price: self.call.price,
            forced,
            choice,
            out,
        };
        let used = kernels::moe_mlp(&shared.kernels, &shared.pool, self.moe, args)?;
        self.choices.set_experts(params.site, used);
        Ok(())
    }

    fn mix(&mut self, instruction: &Instruction, out: &mut [f32]) -> Result<()> {
        let Instruction::Mix { params, logits, parts: values, residual, .. } = instruction else {
            return Ok(());
        };
        let slot = |value: Value| filled(self.slots, self.sizes, value);
        // At most as many as shape rules let pass, so that nothing is allocated.
        let mut parts = [&[][..]; 16];
        parts.iter_mut().zip(values).for_each(|(part, value)| *part = slot(*value));
        let args = MixArgs {
            params,
            logits: slot(*logits),
            parts: parts.get(..values.len()).unwrap_or_default(),
            residual: residual.map(slot),
            out,
        };
        Ok(kernels::mix(&self.shared.pool, args)?)
    }

    fn attention(&mut self, instruction: &Instruction, out: &mut [f32]) -> Result<()> {
        let Instruction::Attention { params, qkv, rough, q_norm, k_norm, inv_freq, .. } =
            instruction
        else {
            return Ok(());
        };
        let shared = self.shared;
        let vector = |id: &Option<usize>| id.map(|id| shared.vector(id)).transpose();
        let slot = |value: &Value| filled(self.slots, self.sizes, *value);
        let args = AttentionArgs {
            params,
            qkv: match qkv {
                QkvValue::Fused(value) => Qkv::Fused(slot(value)),
                QkvValue::Separate([q, k, v]) => {
                    Qkv::Separate { q: slot(q), k: slot(k), v: slot(v) }
                }
            },
            q_norm: vector(q_norm)?,
            k_norm: vector(k_norm)?,
            inv_freq: vector(inv_freq)?,
            spans: self.call.spans,
            cache: params.state.map(|layer| (&mut *self.cache, layer)),
            rough: *rough,
            out,
        };
        Ok(kernels::attention(&shared.kernels, &shared.pool, self.attention, args)?)
    }
}
