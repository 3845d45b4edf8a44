//! The sizes of a call of a lowered entry.

use limbeck_plan::{Dim, Fact, OperandId};

use super::Call;
use super::lower::Lowered;
use super::slots::{Unit, Value};
use crate::error::{Error, ErrorKind, Result};

/// The sizes of a call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sizes {
    tokens: usize,
    outputs: usize,
    sequences: usize,
    /// What tensors' sizes are multiples of.
    products: Vec<usize>,
    /// By operand, where the entry asks for shapes.
    shapes: Vec<Vec<usize>>,
}

impl Sizes {
    /// Of a call of an entry.
    pub fn of(entry: &Lowered, call: &Call<'_>) -> Result<Sizes> {
        let size = |dim: &Dim| {
            let found = call.size(dim).and_then(|n| usize::try_from(n).ok());
            found.ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, format!("the size {dim} has no value here"))
            })
        };
        let shape = |(fact, open): (&Fact, &bool)| match open {
            true => Ok(Vec::new()),
            false => fact.shape.iter().map(size).collect(),
        };
        Ok(Sizes {
            tokens: call.tokens,
            outputs: call.output_rows.len(),
            sequences: call.sequences.len(),
            products: entry.slots.products.iter().map(size).collect::<Result<_>>()?,
            shapes: entry.facts.iter().zip(&entry.open).map(shape).collect::<Result<_>>()?,
        })
    }

    /// How many of a unit there are.
    pub fn units(&self, unit: Unit) -> usize {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Outputs => self.outputs,
            Unit::Sequences => self.sequences,
            Unit::One => 1,
            Unit::Product(index) => self.products.get(index).copied().unwrap_or(0),
        }
    }

    /// Elements of a value.
    pub fn len(&self, value: Value) -> usize {
        self.units(value.unit).saturating_mul(value.rows).saturating_mul(value.cols)
    }

    /// The shape of an operand, where the entry asks for shapes.
    pub fn shape(&self, operand: OperandId) -> &[usize] {
        self.shapes.get(operand).map_or(&[], Vec::as_slice)
    }

    /// Height and width of a tensor of images.
    pub fn sides(&self, operand: OperandId) -> [usize; 2] {
        match self.shape(operand) {
            &[_, height, width, _] => [height, width],
            _ => [0, 0],
        }
    }
}
