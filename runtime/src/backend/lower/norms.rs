//! Norms that only one linear reads: they become its prologues.

use std::collections::{HashMap, HashSet};

use limbeck_plan::{Entry, Op, OperandId, OperandKind, Segment, Step};

use super::instruction::NormCall;

/// The entry with the norms gone that became prologues, and for each remaining step its prologue.
pub(super) struct Fused {
    pub entry: Entry,
    pub norms: Vec<Option<NormCall>>,
}

pub(super) fn fuse_norms(entry: &Entry, prologues: bool) -> Fused {
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
    entry_out.segments.push(Segment { steps: kept });
    Fused { entry: entry_out, norms }
}
