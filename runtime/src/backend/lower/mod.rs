//! Lowering an entry to instructions: operands become buffers and weights, and, where a backend wants it, a
//! norm that only one linear reads becomes that linear's prologue.

mod instruction;
mod norms;
mod steps;

use std::collections::HashSet;

use limbeck_plan::{Entry, Fact, Op, Operand, OperandId, OperandKind, Program, Step};

use super::cost::{Cost, choice_sites};
use super::onnx;
use super::slots::{Slots, Value, tensors_given};
use crate::error::{Error, ErrorKind, Result};
use norms::fuse_norms;
use steps::Context;

pub(super) use instruction::{Given, Ids, Instruction, NormCall, QkvValue, Source};

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

fn malformed(entry: &Entry, step: &Step) -> Error {
    Error::new(ErrorKind::Plan, "its operands do not fit its op").at(entry.place(&step.name))
}
