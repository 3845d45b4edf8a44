//! What a sample is to be: values for the inputs that a sampler leaves to the caller.

use limbeck_plan::{Condition, DType, Dim, Fact};

use crate::error::{Error, ErrorKind, Result};
use crate::forward::{TensorData, TensorView};

/// Most elements that one number is repeated in.
const MAX_REPEATED: usize = 1 << 20;

/// An input with its shape and its elements.
#[derive(Debug)]
pub(super) struct Filled {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: FilledValues,
}

#[derive(Debug)]
pub(super) enum FilledValues {
    Floats(Vec<f32>),
    Integers(Vec<i32>),
}

impl Filled {
    /// A number in each element of an input's shape, whose first size, where it is open, is the batch.
    ///
    /// # Errors
    /// A size that only a tensor could tell; a number that is no integer, for integers.
    pub fn number(
        name: &str,
        fact: &Fact,
        batch: &Dim,
        samples: usize,
        value: f64,
    ) -> Result<Filled> {
        let refuse = |message: String| {
            Error::new(ErrorKind::InvalidInput, message).at(format!("condition {name:?}"))
        };
        let size = |dim: &Dim| match dim.as_const() {
            Some(size) => usize::try_from(size).ok(),
            None => (dim == batch).then_some(samples),
        };
        let shape: Option<Vec<usize>> = fact.shape.iter().map(size).collect();
        let shape =
            shape.ok_or_else(|| refuse(format!("it is {fact}: one number does not tell")))?;
        let count = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
        let count = count.filter(|count| *count <= MAX_REPEATED);
        let count = count.ok_or_else(|| refuse(format!("{fact} is too large for a number")))?;
        let values = match fact.dtype {
            DType::F32 => FilledValues::Floats(vec![value as f32; count]),
            DType::I32 if value.fract() == 0.0 && value.abs() <= f64::from(i32::MAX) => {
                FilledValues::Integers(vec![value as i32; count])
            }
            DType::I32 => return Err(refuse(format!("{value} is no integer"))),
        };
        Ok(Filled { name: name.to_owned(), shape, values })
    }

    pub fn view(&self) -> TensorView<'_> {
        let data = match &self.values {
            FilledValues::Floats(values) => TensorData::F32(values),
            FilledValues::Integers(values) => TensorData::I32(values),
        };
        TensorView { name: &self.name, shape: &self.shape, data }
    }

    /// Bytes of its elements.
    pub fn bytes(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}

/// Checks that each element lies within a condition's bounds.
///
/// # Errors
/// The first that does not.
pub(super) fn check_range(condition: &Condition, view: &TensorView<'_>) -> Result<()> {
    let least = condition.least.unwrap_or(f64::NEG_INFINITY);
    let most = condition.most.unwrap_or(f64::INFINITY);
    let outside = |v: &f64| !v.is_finite() || !(least..=most).contains(v);
    let found = match view.data {
        TensorData::F32(values) => values.iter().map(|v| f64::from(*v)).find(outside),
        TensorData::I32(values) => values.iter().map(|v| f64::from(*v)).find(outside),
        TensorData::I64(values) => values.iter().map(|v| *v as f64).find(outside),
    };
    match found {
        Some(value) => Err(out_of_range(condition, value)),
        None => Ok(()),
    }
}

/// Refuses a value.
pub(super) fn out_of_range(condition: &Condition, value: f64) -> Error {
    let bound = |bound: Option<f64>, open: &str| bound.map_or(open.to_owned(), |b| b.to_string());
    let (least, most) = (bound(condition.least, "-inf"), bound(condition.most, "inf"));
    let message = format!("{value} is not a number of {least} to {most}");
    Error::new(ErrorKind::InvalidInput, message).at(format!("condition {:?}", condition.name))
}
