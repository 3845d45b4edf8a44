//! Segments of native steps, written as nodes of ONNX.

use std::collections::{HashMap, HashSet};

use limbeck_plan::{
    Dim, Entry, Fact, Layout, Onnx, Op, Operand, OperandId, OperandKind, Program, Step, Symbol,
    Values, Weight,
};

use super::{Choice, Reason, SegmentReport, order, stages};
use crate::error::{Error, Result};
use crate::onnx::builder::{Builder, element_type};
use crate::onnx::lower::{Lowering, Rows, Weights};
use crate::onnx::proto::{StringStringEntryProto, TensorProto, dtype};

/// Puts segments in the place of an entry's chosen steps; their models go to the end of `models`.
///
/// # Errors
/// A step that has no nodes.
pub(crate) fn lower(
    program: &mut Program,
    index: usize,
    choice: &Choice,
    models: &mut Vec<u8>,
) -> Result<Vec<SegmentReport>> {
    if choice.chosen.is_empty() {
        return Ok(Vec::new());
    }
    let entry = &program.entries[index];
    let steps: Vec<&Step> = entry.steps().collect();
    let writer: HashMap<OperandId, usize> = steps
        .iter()
        .enumerate()
        .flat_map(|(at, s)| s.outputs.iter().map(move |id| (*id, at)))
        .collect();
    let reads = |at: usize| {
        let written = steps[at].inputs.iter().filter_map(|id| writer.get(id).copied());
        written.collect::<Vec<usize>>()
    };
    let stages = stages(steps.len(), |at| choice.chosen.contains(&at), reads);
    let mut lowered: Vec<Step> = Vec::new();
    let mut reports = Vec::new();
    let mut rest = order(&stages).into_iter().peekable();
    while let Some(at) = rest.next() {
        if stages[at].rem_euclid(2) == 1 {
            lowered.push(steps[at].clone());
            continue;
        }
        let mut stage = vec![at];
        while let Some(next) = rest.next_if(|next| stages[*next] == stages[at]) {
            stage.push(next);
        }
        let (part, others): (Vec<usize>, Vec<usize>) =
            (0..steps.len()).partition(|at| stage.contains(at));
        let part: Vec<&Step> = part.into_iter().map(|at| steps[at]).collect();
        let others: Vec<&Step> = others.into_iter().map(|at| steps[at]).collect();
        let nodes = part.iter().map(|s| format!("{:?} ({})", s.name, s.op.name())).collect();
        let step = segment(program, entry, &part, &others, choice, models)?;
        reports.push(SegmentReport {
            entry: entry.name.clone(),
            step: step.name.clone(),
            reasons: vec![Reason { reason: choice.reason.clone(), nodes }],
        });
        lowered.push(step);
    }
    let entry = with_steps(entry, lowered);
    program.entries[index] = entry;
    Ok(reports)
}

/// One segment as a step.
fn segment(
    program: &Program,
    entry: &Entry,
    part: &[&Step],
    others: &[&Step],
    choice: &Choice,
    models: &mut Vec<u8>,
) -> Result<Step> {
    let written: HashSet<OperandId> = part.iter().flat_map(|s| s.outputs.iter().copied()).collect();
    let is_weight = |id: OperandId| matches!(entry.operands[id].kind, OperandKind::Weight(_));
    let mut inputs: Vec<OperandId> = Vec::new();
    for id in part.iter().flat_map(|s| s.inputs.iter().copied()) {
        if !written.contains(&id) && !is_weight(id) && !inputs.contains(&id) {
            inputs.push(id);
        }
    }
    let read: HashSet<OperandId> = others.iter().flat_map(|s| s.inputs.iter().copied()).collect();
    let leaves =
        |id: &OperandId| read.contains(id) || entry.operands[*id].kind == OperandKind::Output;
    let outputs = part.iter().flat_map(|s| s.outputs.iter().copied()).filter(leaves);
    let outputs: Vec<OperandId> = outputs.collect();
    let fact = |id: &OperandId| entry.operands[*id].fact.clone();
    let facts: (Vec<Fact>, Vec<Fact>) =
        (inputs.iter().map(fact).collect(), outputs.iter().map(fact).collect());

    let mut b = Builder::default();
    b.step = "inputs".into();
    (0..outputs.len()).for_each(|index| b.reserve(&Onnx::output(index)));
    let given: Vec<String> = facts
        .0
        .iter()
        .enumerate()
        .map(|(i, fact)| b.input(&Onnx::input(i), element_type(fact.dtype), &fact.shape))
        .collect();
    let by_rows = part.iter().any(|step| needs_rows(entry, step));
    let rows = if by_rows { listed(&mut b) } else { Rows::Tensors };
    let views = Views { program };
    let mut lowering = Lowering::new(b, entry, &views, rows);
    inputs.iter().zip(&given).for_each(|(id, name)| lowering.give(*id, name));
    for step in part {
        lowering.step(step)?;
    }
    for (index, (id, fact)) in outputs.iter().zip(&facts.1).enumerate() {
        let value = lowering.plain(*id)?;
        lowering.b.output(&Onnx::output(index), &value, element_type(fact.dtype), &fact.shape);
    }
    let model = crate::onnx::model(lowering.b.finish("segment"), &[]);
    let offset = models.len() as u64;
    models.extend_from_slice(&model);
    // Of a table that is looked up few rows are read.
    let weights: HashSet<usize> = part
        .iter()
        .filter(|step| !matches!(step.op, Op::Embedding(_)))
        .flat_map(|s| &s.inputs)
        .filter_map(|id| match entry.operands[*id].kind {
            OperandKind::Weight(weight) => Some(weight),
            _ => None,
        })
        .collect();
    let op = Onnx {
        offset,
        bytes: model.len() as u64,
        inputs: facts.0,
        outputs: facts.1,
        rows: by_rows,
        weight_bytes: weights
            .iter()
            .filter_map(|id| program.weights.get(*id))
            .map(|w| w.bytes)
            .sum(),
        reason: choice.reason.clone(),
    };
    Ok(Step { name: name(part), op: Op::Onnx(op), inputs, outputs, macs: macs(part) })
}

/// The first and the last node of a segment.
fn name(part: &[&Step]) -> String {
    match part {
        [] => String::new(),
        [one] => one.name.clone(),
        [first, .., last] => format!("{} .. {}", first.name, last.name),
    }
}

/// Whether a step asks which rows are whose.
fn needs_rows(entry: &Entry, step: &Step) -> bool {
    let first = step.inputs.first().and_then(|id| entry.operands[*id].fact.shape.first());
    match &step.op {
        Op::Attention(_) => true,
        Op::Pool(_) => first.is_some_and(|rows| rows.factor_of(Symbol::SEQUENCES).is_none()),
        _ => false,
    }
}

/// The inputs that say which rows are whose.
fn listed(b: &mut Builder) -> Rows {
    let by_place = [Dim::symbol(Symbol::SEQUENCES), Dim::symbol("longest")];
    let rows = b.input("rows", dtype::INT32, &by_place);
    let places = b.input("places", dtype::INT32, &[Dim::symbol(Symbol::TOKENS)]);
    let seen = b.input("seen", dtype::INT32, &by_place);
    let mask = b.cast(&seen, dtype::BOOL);
    Rows::Listed { rows, places, mask }
}

/// Multiply-adds of all steps: those of the same sizes as one term.
fn macs(part: &[&Step]) -> Dim {
    let mut terms: Vec<(Dim, u64)> = Vec::new();
    for step in part {
        let (factor, rest) = Dim::factors([&step.macs]);
        let rest = rest.into_iter().cloned().fold(Dim::Const(1), Dim::times);
        match terms.iter_mut().find(|(dim, _)| *dim == rest) {
            Some((_, sum)) => *sum = sum.saturating_add(factor),
            None => terms.push((rest, factor)),
        }
    }
    let mut sums: Vec<Dim> =
        terms.into_iter().filter(|(_, n)| *n > 0).map(|(dim, n)| dim.times(n)).collect();
    // As a tree, so that many terms do not nest deep.
    while sums.len() > 1 {
        let pair = |pair: &[Dim]| match pair {
            [a, b] => a.clone().plus(b.clone()),
            pair => pair.first().cloned().unwrap_or(Dim::Const(0)),
        };
        sums = sums.chunks(2).map(pair).collect();
    }
    let sum = sums.pop().unwrap_or(Dim::Const(0));
    if sum.depth() > Dim::MAX_DEPTH { Dim::Const(0) } else { sum }
}

/// An entry of these steps, without operands that none of them has.
fn with_steps(entry: &Entry, steps: Vec<Step>) -> Entry {
    let mut used = vec![false; entry.operands.len()];
    steps.iter().flat_map(|s| s.inputs.iter().chain(&s.outputs)).for_each(|id| used[*id] = true);
    for (used, operand) in used.iter_mut().zip(&entry.operands) {
        *used |= matches!(operand.kind, OperandKind::Input | OperandKind::Output);
    }
    let mut next = 0;
    let number: Vec<OperandId> = used
        .iter()
        .map(|used| {
            next += usize::from(*used);
            next.saturating_sub(1)
        })
        .collect();
    let kept = entry.operands.iter().zip(&used).filter(|(_, used)| **used);
    let operands: Vec<Operand> = kept.map(|(operand, _)| operand.clone()).collect();
    let renumbered = |mut step: Step| {
        step.inputs.iter_mut().chain(&mut step.outputs).for_each(|id| *id = number[*id]);
        step
    };
    Entry {
        name: entry.name.clone(),
        operands,
        segments: vec![limbeck_plan::Segment {
            steps: steps.into_iter().map(renumbered).collect(),
        }],
    }
}

/// The plan's weights, as they lie in it.
struct Views<'a> {
    program: &'a Program,
}

impl Weights for Views<'_> {
    fn initialiser(&self, id: usize, dims: &[i64]) -> Result<TensorProto> {
        let weight = self.program.weights.get(id);
        let weight = weight.ok_or_else(|| Error::missing(format!("weight {id}")))?;
        let Weight { name, format, offset, bytes, .. } = weight;
        let data_type = match (format.layout, format.values) {
            (Layout::Row, Values::F32) => dtype::FLOAT,
            (Layout::Row, Values::F16) => dtype::FLOAT16,
            _ => return Err(Error::mismatch(format!("weight {name:?} is packed in {format}"))),
        };
        Ok(TensorProto {
            name: name.clone(),
            dims: dims.to_vec(),
            data_type,
            external_data: view(*offset, *bytes),
            data_location: 1,
            ..TensorProto::default()
        })
    }
}

/// Where data lie in the plan's weights.
pub(super) fn view(offset: u64, bytes: u64) -> Vec<StringStringEntryProto> {
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
    vec![
        entry("location", Onnx::WEIGHTS.into()),
        entry("offset", offset.to_string()),
        entry("length", bytes.to_string()),
    ]
}
