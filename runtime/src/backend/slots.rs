//! Buffers of an entry: operands that are never alive together share one.

use std::collections::BTreeSet;

use limbeck_plan::{Dim, Entry, Op, Operand, OperandId, OperandKind, Symbol};

use crate::error::{Error, ErrorKind, Result};
use crate::memory;

/// What sizes of the call a value's size is a multiple of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    Tokens,
    Outputs,
    Sequences,
    One,
    /// The product of this number of those that tensors have.
    Product(usize),
}

/// Where an operand lives and how large it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub slot: usize,
    pub unit: Unit,
    /// For each unit, pixels of an image say.
    pub rows: usize,
    pub cols: usize,
}

/// The buffers that an entry needs: each holds values of one unit, and as many elements for each as
/// the largest.
#[derive(Debug, Default)]
pub(super) struct Slots {
    shapes: Vec<(Unit, usize)>,
    /// Of symbols and what is not known of expressions.
    pub products: Vec<Dim>,
}

/// Slots that hold no living value, in the order of their units and sizes.
type Free = BTreeSet<(Unit, usize, usize)>;

impl Slots {
    /// Gives every scratch and output operand of the entry its value, and every tensor that is given.
    /// An operand is alive from the step that writes it to the last that reads it, outputs to the end;
    /// two that are alive in the same step never share a slot. What a reshape gives lies where what it
    /// takes does.
    /// Values whose sizes are known only when a segment has run (`open`) have no place.
    pub fn assign(entry: &Entry, open: &[bool]) -> Result<(Slots, Vec<Option<Value>>)> {
        let lives = Lives::of(entry);
        let mut slots = Slots::default();
        let mut values: Vec<Option<Value>> = vec![None; entry.operands.len()];
        let mut free = Free::new();
        for (id, _) in tensors_given(entry) {
            values[id] = Some(slots.value(entry, id, &mut free, None)?);
        }
        for (at, step) in entry.steps().enumerate() {
            // Choices are kept apart.
            let chooses = matches!(step.op, Op::Choose(_) | Op::Level(_));
            for &id in step.outputs.iter().filter(|id| !chooses && !open[**id]) {
                let root = lives.root[id];
                let shared = if root == id { None } else { values[root].map(|v| v.slot) };
                values[id] = Some(slots.value(entry, id, &mut free, shared)?);
            }
            let mut ended: Vec<OperandId> =
                step.inputs.iter().chain(&step.outputs).map(|id| lives.root[*id]).collect();
            ended.sort_unstable();
            ended.dedup();
            for id in ended {
                if let Some(value) = values[id]
                    && !lives.to_the_end[id]
                    && lives.last[id].is_none_or(|last| last <= at)
                {
                    let (unit, largest) = slots.shapes[value.slot];
                    free.insert((unit, largest, value.slot));
                }
            }
        }
        Ok((slots, values))
    }

    /// Where an operand lives: in `shared`, or in a slot that is free or new.
    fn value(
        &mut self,
        entry: &Entry,
        id: OperandId,
        free: &mut Free,
        shared: Option<usize>,
    ) -> Result<Value> {
        let (unit, rows, cols) = self.extent(entry, id)?;
        let slot = match shared {
            Some(slot) => slot,
            None => self.take(free, unit, rows.saturating_mul(cols)),
        };
        Ok(Value { slot, unit, rows, cols })
    }

    /// A free slot of this unit, the one closest in size, or a new one.
    fn take(&mut self, free: &mut Free, unit: Unit, size: usize) -> usize {
        let larger = free.range((unit, size, 0)..).next();
        let smaller = free.range(..(unit, size, 0)).next_back();
        let found = [larger, smaller].into_iter().flatten().filter(|(u, ..)| *u == unit);
        let Some(closest) = found.min_by_key(|(_, n, _)| n.abs_diff(size)).copied() else {
            self.shapes.push((unit, size));
            return self.shapes.len() - 1;
        };
        free.remove(&closest);
        let (_, largest, slot) = closest;
        self.shapes[slot].1 = largest.max(size);
        slot
    }

    /// The unit, rows and columns of an operand.
    fn extent(&mut self, entry: &Entry, id: OperandId) -> Result<(Unit, usize, usize)> {
        let operand = &entry.operands[id];
        let shape = operand.fact.shape.as_slice();
        let cols = shape.last().filter(|_| shape.len() > 1).and_then(Dim::as_const);
        let leading = if cols.is_some() { &shape[..shape.len() - 1] } else { shape };
        let (rows, rest) = Dim::factors(leading);
        let size = |n: u64| usize::try_from(n).ok();
        let found = size(rows).zip(size(cols.unwrap_or(1)));
        let (rows, cols) = found.ok_or_else(|| {
            let message = format!("{} is too large", operand.fact);
            Error::new(ErrorKind::Unsupported, message).at(format!("operand {:?}", operand.name))
        })?;
        Ok((self.unit(rest), rows, cols))
    }

    fn unit(&mut self, factors: Vec<&Dim>) -> Unit {
        if let [Dim::Symbol(s)] = factors.as_slice() {
            match s.name() {
                Symbol::TOKENS => return Unit::Tokens,
                Symbol::OUTPUTS => return Unit::Outputs,
                Symbol::SEQUENCES => return Unit::Sequences,
                _ => {}
            }
        }
        let Some(product) = factors.into_iter().cloned().reduce(Dim::times) else {
            return Unit::One;
        };
        let found = self.products.iter().position(|p| *p == product);
        Unit::Product(found.unwrap_or_else(|| {
            self.products.push(product);
            self.products.len() - 1
        }))
    }

    /// By slot, the unit that its size is a multiple of, and the factor.
    #[cfg(feature = "wgpu")]
    pub fn sizes(&self) -> &[(Unit, usize)] {
        &self.shapes
    }

    /// Makes the buffers large enough for a call; `units` gives its sizes. Buffers only grow, so
    /// memory follows what callers ask for, and a call no larger than one before allocates
    /// nothing.
    ///
    /// # Errors
    /// `Memory`, where the system has none left.
    pub fn fit(&self, units: impl Fn(Unit) -> usize, buffers: &mut Vec<Vec<f32>>) -> Result<()> {
        buffers.resize_with(self.shapes.len(), Vec::new);
        for (buffer, (unit, size)) in buffers.iter_mut().zip(&self.shapes) {
            let len = units(*unit).saturating_mul(*size);
            if buffer.len() < len {
                // The old one goes first.
                *buffer = Vec::new();
                *buffer = memory::vector(len)?;
            }
        }
        Ok(())
    }

    /// Bytes that [`Slots::fit`] would take beside those that the buffers have.
    pub fn missing_bytes(&self, units: impl Fn(Unit) -> usize, buffers: &[Vec<f32>]) -> usize {
        let missing = self.shapes.iter().enumerate().map(|(i, (unit, size))| {
            let have = buffers.get(i).map_or(0, Vec::len);
            units(*unit).saturating_mul(*size).saturating_sub(have)
        });
        missing.fold(0usize, usize::saturating_add).saturating_mul(size_of::<f32>())
    }
}

/// Tensors that the caller gives.
pub(super) fn tensors_given(entry: &Entry) -> impl Iterator<Item = (OperandId, &Operand)> {
    entry.operands_of(OperandKind::Input).filter(|(_, operand)| !operand.fact.is_of_call())
}

/// How long operands are alive; of those that lie in one place, the first stands for all.
struct Lives {
    /// By operand, the one in whose place it lies.
    root: Vec<OperandId>,
    /// By root, the last step that reads any.
    last: Vec<Option<usize>>,
    /// By root, whether any is an output.
    to_the_end: Vec<bool>,
}

impl Lives {
    fn of(entry: &Entry) -> Lives {
        let count = entry.operands.len();
        let mut root: Vec<OperandId> = (0..count).collect();
        let mut last = vec![None; count];
        for (at, step) in entry.steps().enumerate() {
            step.inputs.iter().for_each(|id| last[root[*id]] = Some(at));
            if let (Op::Reshape(_), &[x], &[out]) = (&step.op, &step.inputs[..], &step.outputs[..])
                && !matches!(entry.operands[x].kind, OperandKind::Weight(_))
            {
                root[out] = root[x];
            }
        }
        let mut to_the_end = vec![false; count];
        for (id, _) in entry.operands_of(OperandKind::Output) {
            to_the_end[root[id]] = true;
        }
        Lives { root, last, to_the_end }
    }
}
