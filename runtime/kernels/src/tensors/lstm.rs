//! Long short-term memories: the inputs' part of the gates for all steps at once, then step by step.

use super::mat_mul::{Sizes, TensorScratch};
use super::{Operands, TensorOut, check_shape, grow};
use crate::error::Error;
use crate::pool::Pool;
use crate::table::Kernels;
use limbeck_plan::Lstm;

/// The sizes of a call.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub time: usize,
    pub batch: usize,
    pub inputs: usize,
    pub hidden: usize,
}

impl Extent {
    /// Checks all shapes of a call.
    pub fn of(p: &Lstm, operands: &Operands<'_>, out: &[usize]) -> Result<Extent, Error> {
        let (x, r) = (operands.get(0)?.shape, operands.get(2)?.shape);
        let ([time, batch, inputs], [_, _, hidden]) = (x, r) else {
            return Err(Error::shape(format!("{x:?} is not a sequence")));
        };
        let (directions, hidden) = (p.reverse.len(), *hidden);
        let extent = Extent { time: *time, batch: *batch, inputs: *inputs, hidden };
        check_shape("w", operands.get(1)?.shape, &[directions, 4 * hidden, *inputs])?;
        check_shape("r", r, &[directions, 4 * hidden, hidden])?;
        let mut next = 3;
        if p.bias {
            check_shape("b", operands.get(next)?.shape, &[directions, 8 * hidden])?;
            next += 1;
        }
        for at in (next..).take(if p.state { 2 } else { 0 }) {
            check_shape("a state", operands.get(at)?.shape, &[directions, *batch, hidden])?;
        }
        check_shape("the states", out, &[*time + 1, directions, *batch, hidden])?;
        Ok(extent)
    }
}

pub(super) fn run(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut TensorScratch,
    p: &Lstm,
    operands: &Operands<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    let extent = Extent::of(p, operands, out.shape)?;
    let Extent { time, batch, inputs, hidden } = extent;
    let out = out.floats()?;
    if out.is_empty() {
        return Ok(());
    }
    let (x, gates, directions) = (operands.get(0)?.floats()?, 4 * hidden, p.reverse.len());
    let state = 3 + usize::from(p.bias);
    let row = directions * batch * hidden;
    let mut panels = scratch.take_panels();
    let mut values = std::mem::take(&mut scratch.values);
    for (d, reverse) in p.reverse.iter().enumerate() {
        let part = |index: usize, len: usize| -> Result<_, Error> {
            Ok(&operands.get(index)?.floats()?[d * len..(d + 1) * len])
        };
        // Gates of all steps, of one step's states, then the states and the cells.
        values.clear();
        let each = |n: usize| n.saturating_mul(batch);
        let room = each(time.saturating_add(1)).saturating_mul(gates);
        grow(&mut values, room.saturating_add(each(2).saturating_mul(hidden)))?;
        let (from_x, rest) = values.split_at_mut(time * batch * gates);
        let (from_h, rest) = rest.split_at_mut(batch * gates);
        let (h, c) = rest.split_at_mut(batch * hidden);
        let sizes = Sizes { m: time * batch, k: inputs, n: gates, transposed: true, scale: 1.0 };
        if time > 0 && inputs > 0 {
            sizes.pack(part(1, gates * inputs)?, &mut panels);
            sizes.products(kernels, Some(pool), x, &panels, from_x);
        }
        if p.bias {
            let bias = part(3, 2 * gates)?;
            for gate in from_x.chunks_exact_mut(gates) {
                let both = bias[..gates].iter().zip(&bias[gates..]);
                gate.iter_mut().zip(both).for_each(|(g, (w, r))| *g += w + r);
            }
        }
        if p.state {
            h.copy_from_slice(part(state, batch * hidden)?);
            c.copy_from_slice(part(state + 1, batch * hidden)?);
        }
        let sizes = Sizes { m: batch, k: hidden, ..sizes };
        sizes.pack(part(2, gates * hidden)?, &mut panels);
        for step in 0..time {
            let t = if *reverse { time - 1 - step } else { step };
            sizes.products(kernels, Some(pool), h, &panels, from_h);
            let from_x = &from_x[t * batch * gates..][..batch * gates];
            for (i, (h, c)) in h.iter_mut().zip(c.iter_mut()).enumerate() {
                let at = i / hidden * gates + i % hidden;
                let gate = |g: usize| from_x[at + g * hidden] + from_h[at + g * hidden];
                *c = sigmoid(gate(2)) * *c + sigmoid(gate(0)) * gate(3).tanh();
                *h = sigmoid(gate(1)) * c.tanh();
            }
            out[t * row + d * batch * hidden..][..batch * hidden].copy_from_slice(h);
        }
        out[time * row + d * batch * hidden..][..batch * hidden].copy_from_slice(c);
    }
    scratch.values = values;
    scratch.give_panels(panels);
    Ok(())
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
