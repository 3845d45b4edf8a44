//! Buffers of an entry: operands that are never alive together share one.

use std::collections::BTreeSet;

use limbeck_plan::{DType, Dim, Entry, OperandId, OperandKind, Symbol};

use crate::error::{Error, ErrorKind, Result};
use crate::memory;

/// Which size of the call gives an operand its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowCount {
    Tokens,
    Outputs,
    /// So many of each sequence, which has more than one: pixels of an image.
    PerSequence(usize),
    Sequences,
    Known(usize),
}

/// Where an operand lives and how large it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub slot: usize,
    pub rows: RowCount,
    pub cols: usize,
}

/// The buffers that an entry needs: each holds values of one row count, and the columns of the
/// widest.
#[derive(Debug, Default)]
pub(super) struct Slots {
    shapes: Vec<(RowCount, usize)>,
}

/// Slots that hold no living value, in the order of their row counts and columns.
type Free = BTreeSet<(RowCount, usize, usize)>;

impl RowCount {
    fn of(dim: &Dim) -> Option<RowCount> {
        if let Some(rows) = dim.factor_of(Symbol::SEQUENCES).filter(|rows| *rows > 1) {
            return Some(RowCount::PerSequence(usize::try_from(rows).ok()?));
        }
        Some(match dim {
            Dim::Const(n) => RowCount::Known(usize::try_from(*n).ok()?),
            Dim::Symbol(s) => match s.name() {
                Symbol::TOKENS => RowCount::Tokens,
                Symbol::OUTPUTS => RowCount::Outputs,
                Symbol::SEQUENCES => RowCount::Sequences,
                _ => return None,
            },
            _ => return None,
        })
    }
}

impl Slots {
    /// Gives every scratch and output operand of the entry its value. An operand is alive from
    /// the step that writes it to the last that reads it, outputs to the end; two that are alive
    /// in the same step never share a slot.
    pub fn assign(entry: &Entry) -> Result<(Slots, Vec<Option<Value>>)> {
        let last_read = last_reads(entry);
        let mut slots = Slots::default();
        let mut values: Vec<Option<Value>> = vec![None; entry.operands.len()];
        let mut free = Free::new();
        for (at, step) in entry.steps().enumerate() {
            // Choices are kept apart.
            let floats = |id: &&OperandId| entry.operands[**id].fact.dtype == DType::F32;
            for &id in step.outputs.iter().filter(floats) {
                let (rows, cols) = extent(entry, id)?;
                let slot = slots.take(&mut free, rows, cols);
                values[id] = Some(Value { slot, rows, cols });
            }
            let mut ended: Vec<OperandId> =
                step.inputs.iter().chain(&step.outputs).copied().collect();
            ended.sort_unstable();
            ended.dedup();
            for id in ended {
                let output = entry.operands[id].kind == OperandKind::Output;
                if let Some(value) = values[id]
                    && !output
                    && last_read[id].is_none_or(|last| last <= at)
                {
                    let (rows, widest) = slots.shapes[value.slot];
                    free.insert((rows, widest, value.slot));
                }
            }
        }
        Ok((slots, values))
    }

    /// A free slot of this row count, the one closest in size, or a new one.
    fn take(&mut self, free: &mut Free, rows: RowCount, cols: usize) -> usize {
        let wider = free.range((rows, cols, 0)..).next();
        let narrower = free.range(..(rows, cols, 0)).next_back();
        let found = [wider, narrower].into_iter().flatten().filter(|(r, ..)| *r == rows);
        let Some(closest) = found.min_by_key(|(_, c, _)| c.abs_diff(cols)).copied() else {
            self.shapes.push((rows, cols));
            return self.shapes.len() - 1;
        };
        free.remove(&closest);
        let (_, widest, slot) = closest;
        self.shapes[slot].1 = widest.max(cols);
        slot
    }

    /// Makes the buffers large enough for a call; `rows` gives its sizes. Buffers only grow, so
    /// memory follows what callers ask for, and a call no larger than one before allocates
    /// nothing.
    ///
    /// # Errors
    /// `Memory`, where the system has none left.
    pub fn fit(&self, rows: impl Fn(RowCount) -> usize, buffers: &mut Vec<Vec<f32>>) -> Result<()> {
        buffers.resize_with(self.shapes.len(), Vec::new);
        for (buffer, (count, cols)) in buffers.iter_mut().zip(&self.shapes) {
            let len = rows(*count).saturating_mul(*cols);
            if buffer.len() < len {
                // The old one goes first.
                *buffer = Vec::new();
                *buffer = memory::vector(len)?;
            }
        }
        Ok(())
    }

    /// Bytes that [`Slots::fit`] would take beside those that the buffers have.
    pub fn missing_bytes(&self, rows: impl Fn(RowCount) -> usize, buffers: &[Vec<f32>]) -> usize {
        let missing = self.shapes.iter().enumerate().map(|(i, (count, cols))| {
            let have = buffers.get(i).map_or(0, Vec::len);
            rows(*count).saturating_mul(*cols).saturating_sub(have)
        });
        missing.fold(0usize, usize::saturating_add).saturating_mul(size_of::<f32>())
    }
}

fn last_reads(entry: &Entry) -> Vec<Option<usize>> {
    let mut last = vec![None; entry.operands.len()];
    for (at, step) in entry.steps().enumerate() {
        step.inputs.iter().for_each(|&id| last[id] = Some(at));
    }
    last
}

fn extent(entry: &Entry, id: OperandId) -> Result<(RowCount, usize)> {
    let operand = &entry.operands[id];
    let found = match operand.fact.shape.as_slice() {
        [rows, cols] => RowCount::of(rows).zip(cols.as_const().map(|c| c as usize)),
        _ => None,
    };
    found.ok_or_else(|| {
        let message = format!("the cpu backend cannot place {}", operand.fact);
        Error::new(ErrorKind::Unsupported, message).at(format!("operand {:?}", operand.name))
    })
}
