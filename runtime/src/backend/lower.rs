//! Lowering an entry to instructions: operands become buffers and weights, and, where a backend wants it, a
//! norm that only one linear reads becomes that linear's prologue.

use std::collections::{HashMap, HashSet};

use limbeck_plan::{
    Activation, AdaptiveMlp, Attention, Choose, Conv2d, ConvTranspose2d, DType, DepthwiseConv2d,
    Embedding, Entry, Fact, Level, Linear, MaxPool2d, Mix, MoeMlp, Norm, Op, Operand, OperandId,
    OperandKind, Patches, Pixels, Pool, Program, SparseLinear, Step, Window,
};

use super::cost::{Cost, choice_sites};
use super::onnx;
use super::slots::{Slots, Value, tensors_given};
use crate::error::{Error, ErrorKind, Result};

/// A norm's parameters and its vectors by weight id.
#[derive(Clone, Debug)]
pub(super) struct NormCall {
    pub params: Norm,
    pub weight: usize,
    pub bias: Option<usize>,
}

/// Queries, keys and values.
#[derive(Clone, Debug)]
pub(super) enum QkvValue {
    Fused(Value),
    Separate([Value; 3]),
}

/// Ids that are looked up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ids {
    /// Index of an input.
    Input(usize),
    Value(Value),
}

/// What a segment of ONNX Runtime takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Given {
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
pub(super) enum Source {
    Value(Value),
    Weight(usize),
}

/// One kernel call.
#[derive(Clone, Debug)]
pub(super) enum Instruction {
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

/// An instruction with the step it came from.
#[derive(Debug)]
pub(super) struct Named {
    pub step: String,
    pub instruction: Instruction,
}

/// A value of the caller's.
#[derive(Debug)]
pub(super) struct Output {
    pub name: String,
    pub operand: OperandId,
    pub value: Value,
}

/// An entry ready to run.
#[derive(Debug)]
pub(super) struct Lowered {
    pub name: String,
    /// Input operands in the order of their ids.
    pub inputs: Vec<String>,
    pub instructions: Vec<Named>,
    pub outputs: Vec<Output>,
    /// Tensors that are given.
    pub tensors: Vec<Output>,
    /// Outputs whose sizes segments give.
    pub open_outputs: Vec<(String, OperandId)>,
    /// By operand, whether a segment gives its sizes.
    pub open: Vec<bool>,
    /// By operand, where instructions ask for shapes.
    pub facts: Vec<Fact>,
    pub slots: Slots,
    pub cost: Cost,
    /// Columns of the widest linear input.
    pub widest: usize,
}

impl Lowered {
    /// What errors say of a step.
    pub fn place(&self, step: &str) -> String {
        limbeck_plan::place(&self.name, step)
    }

    /// `prologues` says whether linears take norms as prologues; `segments` counts the ONNX segments of the
    /// plan as far as it is lowered.
    pub fn new(
        program: &Program,
        entry: &Entry,
        prologues: bool,
        segments: &mut usize,
    ) -> Result<Lowered> {
        let fused = fuse_norms(entry, prologues);
        let entry = &fused.entry;
        let open = onnx::open(entry)?;
        let (slots, values) = Slots::assign(entry, &open)?;
        let inputs: Vec<OperandId> =
            entry.operands_of(OperandKind::Input).map(|(id, _)| id).collect();
        let input_index = inputs.iter().enumerate().map(|(index, id)| (*id, index)).collect();
        let sites = choice_sites(entry);
        let rough = rough_products(program, entry);
        let context = Context { entry, values: &values, input_index, sites, rough, open: &open };
        let mut instructions = Vec::new();
        for (step, norm) in entry.steps().zip(&fused.norms) {
            let lowered = match &step.op {
                Op::Onnx(_) => context.onnx(step, segments),
                _ => context.lower(step, norm.clone()),
            };
            let instruction = lowered.ok_or_else(|| malformed(entry, step))?;
            instructions.push(Named { step: step.name.clone(), instruction });
        }
        let outside = |(operand, o): (OperandId, &Operand)| {
            Some(Output { name: o.name.clone(), operand, value: values[operand]? })
        };
        let outputs = entry.operands_of(OperandKind::Output).filter_map(outside).collect();
        let is_open = |(id, o): (OperandId, &Operand)| open[id].then(|| (o.name.clone(), id));
        let open_outputs = entry.operands_of(OperandKind::Output).filter_map(is_open).collect();
        let tensors: Vec<Output> = tensors_given(entry).filter_map(outside).collect();
        let widest = instructions.iter().filter_map(|i| match &i.instruction {
            Instruction::Linear { x, .. } | Instruction::SparseLinear { x, .. } => Some(x.cols),
            _ => None,
        });
        let shapes = !tensors.is_empty() || instructions.iter().any(|i| i.instruction.has_shapes());
        let facts = entry.operands.iter().filter(|_| shapes).map(|o| o.fact.clone()).collect();
        Ok(Lowered {
            name: entry.name.clone(),
            inputs: inputs.iter().map(|id| entry.operands[*id].name.clone()).collect(),
            outputs,
            tensors,
            open_outputs,
            open,
            facts,
            widest: widest.max().unwrap_or(0),
            cost: Cost::new(program, entry),
            instructions,
            slots,
        })
    }
}

impl Instruction {
    /// Whether it asks for shapes of tensors.
    fn has_shapes(&self) -> bool {
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
}

/// What linears make of activations in 8 bits, of one part, and of nothing else.
fn rough_products(program: &Program, entry: &Entry) -> HashSet<OperandId> {
    let is_rough = |step: &&Step| {
        let (Op::Linear(params), Some(weight)) = (&step.op, step.inputs.get(1)) else {
            return false;
        };
        let OperandKind::Weight(weight) = entry.operands[*weight].kind else { return false };
        !params.precise && !params.residual && program.weights[weight].format.values.is_quantised()
    };
    entry.steps().filter(is_rough).filter_map(|step| step.outputs.first()).copied().collect()
}

/// The first operand of a step whose window leaves the sides of its images open.
fn open_sides(step: &Step, window: &Window) -> Option<OperandId> {
    step.inputs.first().copied().filter(|_| window.image == [0, 0])
}

fn malformed(entry: &Entry, step: &Step) -> Error {
    Error::new(ErrorKind::Plan, "its operands do not fit its op").at(entry.place(&step.name))
}

/// The entry with the norms gone that became prologues, and for each remaining step its prologue.
struct Fused {
    entry: Entry,
    norms: Vec<Option<NormCall>>,
}

fn fuse_norms(entry: &Entry, prologues: bool) -> Fused {
    let steps: Vec<&Step> = entry.steps().collect();
    let mut reads = vec![0usize; entry.operands.len()];
    steps.iter().flat_map(|s| &s.inputs).for_each(|id| reads[*id] += 1);
    let linears = steps.iter().filter(|s| matches!(s.op, Op::Linear(_) | Op::SparseLinear(_)));
    let linear_inputs: HashSet<OperandId> =
        linears.filter_map(|s| s.inputs.first()).copied().collect();
    let mut prologue_of = HashMap::new();
    for step in &steps {
        if let (Op::Norm(_), Some(&out)) = (&step.op, step.outputs.first())
            && prologues
            && entry.operands[out].kind == OperandKind::Scratch
            && reads[out] == 1
            && linear_inputs.contains(&out)
        {
            prologue_of.insert(out, *step);
        }
    }
    let weight = |id: Option<&OperandId>| match entry.operands.get(*id?)?.kind {
        OperandKind::Weight(w) => Some(w),
        _ => None,
    };
    let mut entry_out = Entry { segments: Vec::new(), ..entry.clone() };
    let mut norms = Vec::new();
    let mut kept = Vec::new();
    for step in &steps {
        if step.outputs.first().is_some_and(|out| prologue_of.contains_key(out)) {
            continue;
        }
        let mut step = (*step).clone();
        let norm = step.inputs.first().and_then(|x| prologue_of.get(x)).and_then(|norm_step| {
            let Op::Norm(params) = &norm_step.op else { return None };
            let call = NormCall {
                params: params.clone(),
                weight: weight(norm_step.inputs.get(1))?,
                bias: if params.bias { Some(weight(norm_step.inputs.get(2))?) } else { None },
            };
            Some((call, *norm_step.inputs.first()?, norm_step.macs.clone()))
        });
        norms.push(norm.map(|(call, input, macs)| {
            step.inputs[0] = input;
            step.macs = step.macs.clone().plus(macs);
            call
        }));
        kept.push(step);
    }
    entry_out.segments.push(limbeck_plan::Segment { steps: kept });
    Fused { entry: entry_out, norms }
}

struct Context<'a> {
    entry: &'a Entry,
    values: &'a [Option<Value>],
    /// By input operand: its index among the inputs.
    input_index: HashMap<OperandId, usize>,
    /// By choice operand: its site.
    sites: HashMap<OperandId, usize>,
    rough: HashSet<OperandId>,
    open: &'a [bool],
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
    fn onnx(&self, step: &Step, segments: &mut usize) -> Option<Instruction> {
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
    fn lower(&self, step: &Step, norm: Option<NormCall>) -> Option<Instruction> {
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
