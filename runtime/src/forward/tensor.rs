//! Tensors with names, as a caller gives and takes them.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind, Result};

/// Elements that a caller gives, row-major.
#[derive(Clone, Copy, Debug)]
pub enum TensorData<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 32-bit integers.
    I32(&'a [i32]),
    /// 64-bit integers.
    I64(&'a [i64]),
}

/// A tensor that a caller gives.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its sizes, the outermost first.
    pub shape: &'a [usize],
    /// Its elements, as many as the sizes' product.
    pub data: TensorData<'a>,
}

/// Elements that a caller gets, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorValues {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 32-bit integers.
    I32(Vec<i32>),
}

/// A tensor that a caller gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its sizes, the outermost first.
    pub shape: Vec<usize>,
    /// Its elements.
    pub values: TensorValues,
}

impl Tensor {
    pub(super) fn floats(name: &'static str, shape: Vec<usize>, values: Vec<f32>) -> Tensor {
        Tensor { name: name.into(), shape, values: TensorValues::F32(values) }
    }
}

impl TensorData<'_> {
    fn len(&self) -> usize {
        match self {
            TensorData::F32(values) => values.len(),
            TensorData::I32(values) => values.len(),
            TensorData::I64(values) => values.len(),
        }
    }

    fn dtype(&self) -> &'static str {
        match self {
            TensorData::F32(_) => "f32",
            TensorData::I32(_) => "i32",
            TensorData::I64(_) => "i64",
        }
    }
}

impl<'a> TensorView<'a> {
    /// An error about this tensor.
    pub(super) fn wrong(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidInput, message).at(format!("tensor {:?}", self.name))
    }

    /// Checks that there are as many elements as the shape says.
    pub(crate) fn check(&self) -> Result<()> {
        let count = self.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if count == Some(self.data.len()) {
            return Ok(());
        }
        let (shape, len) = (self.shape, self.data.len());
        Err(self.wrong(format!("its shape {shape:?} is not that of {len} elements")))
    }

    /// Its elements as floats.
    pub(super) fn as_floats(&self) -> Result<&'a [f32]> {
        match self.data {
            TensorData::F32(values) => Ok(values),
            other => Err(self.wrong(format!("its dtype {} is not f32", other.dtype()))),
        }
    }

    /// Its elements as integers.
    pub(super) fn as_integers(&self) -> Result<Vec<i64>> {
        match self.data {
            TensorData::I64(values) => Ok(values.to_vec()),
            TensorData::I32(values) => Ok(values.iter().map(|v| i64::from(*v)).collect()),
            TensorData::F32(_) => Err(self.wrong("its dtype f32 is neither i32 nor i64")),
        }
    }

    /// Its elements as token ids.
    pub(super) fn as_ids(&self) -> Result<Vec<u32>> {
        let id =
            |v: i64| u32::try_from(v).map_err(|_| self.wrong(format!("{v} is not a token id")));
        self.as_integers()?.into_iter().map(id).collect()
    }
}
