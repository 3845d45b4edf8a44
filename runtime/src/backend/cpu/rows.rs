//! Instructions that make each row of their result of the same row of their operands.

use limbeck_kernels as kernels;
use limbeck_kernels::{LinearArgs, LinearScratch, NormArgs, Pool};

use super::Shared;
use crate::backend::lower::{Instruction, NormCall};
use crate::backend::slots::Value;
use crate::error::Result;

/// What such an instruction reads, and what it writes; `None` for the others.
pub(super) fn operands(instruction: &Instruction) -> Option<([Option<Value>; 2], Value)> {
    match instruction {
        Instruction::Linear { x, residual, out, .. } => Some(([Some(*x), *residual], *out)),
        Instruction::Norm { x, out, .. }
        | Instruction::Activate { x, out, .. }
        | Instruction::SoftCap { x, out, .. } => Some(([Some(*x), None], *out)),
        Instruction::Add { a: x, b: y, out } | Instruction::Gate { gate: x, up: y, out, .. } => {
            Some(([Some(*x), Some(*y)], *out))
        }
        _ => None,
    }
}

/// Runs such an instruction on the rows that `slot` gives of its operands; others do nothing.
pub(super) fn run<'a>(
    shared: &'a Shared,
    pool: &Pool,
    scratch: &mut LinearScratch,
    instruction: &Instruction,
    slot: &dyn Fn(Value) -> &'a [f32],
    out: &mut [f32],
) -> Result<()> {
    let k = &shared.kernels;
    match instruction {
        Instruction::Linear { params, x, norm: call, factors, weight, bias, residual, .. } => {
            let args = LinearArgs {
                x: slot(*x),
                norm: call.as_ref().map(|call| norm(shared, call)).transpose()?,
                factors: factors.map(|id| shared.vector(id)).transpose()?,
                w: shared.weight(*weight)?,
                bias: bias.map(|id| shared.vector(id)).transpose()?,
                activation: params.activation,
                gated: params.gated,
                residual: residual.map(slot),
                precise: params.precise,
                out,
            };
            kernels::linear(k, pool, scratch, args)?;
        }
        Instruction::Norm { call, x, .. } => {
            kernels::norm(k, pool, slot(*x), &norm(shared, call)?, out)?;
        }
        Instruction::Add { a, b, .. } => kernels::add(k, pool, slot(*a), slot(*b), out)?,
        Instruction::Activate { activation, x, .. } => {
            kernels::activate(k, pool, *activation, slot(*x), out)?;
        }
        Instruction::Gate { activation, gate, up, .. } => {
            kernels::gate(k, pool, *activation, slot(*gate), slot(*up), out)?;
        }
        Instruction::SoftCap { cap, x, .. } => kernels::soft_cap(k, pool, *cap, slot(*x), out)?,
        _ => {}
    }
    Ok(())
}

/// A norm's arguments.
pub(super) fn norm<'s>(shared: &'s Shared, call: &NormCall) -> Result<NormArgs<'s>> {
    Ok(NormArgs {
        kind: call.params.kind,
        weight: shared.vector(call.weight)?,
        bias: call.bias.map(|id| shared.vector(id)).transpose()?,
        eps: call.params.eps,
    })
}
