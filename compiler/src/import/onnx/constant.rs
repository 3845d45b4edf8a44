//! Tensors whose elements are known when a model is compiled: initialisers, attributes, and what is
//! computed from them.

use std::sync::Arc;

use half::{bf16, f16};

use super::external::External;
use super::proto::{TensorProto, dtype};
use super::types;
use crate::error::{Error, Result};

/// Bytes that the elements of one tensor may take once they are decoded.
const MAX_BYTES: usize = 1 << 34;

/// Elements: floats, or integers and truth values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    F32(Arc<[f32]>),
    I64(Arc<[i64]>),
}

/// A tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Constant {
    pub shape: Vec<usize>,
    pub data: Data,
    /// How the model stores it, one of the numbers of [`dtype`].
    pub dtype: i32,
}

/// The elements of a shape, as long as they can be held.
pub(super) fn elements(shape: &[usize]) -> Result<usize> {
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let count = count.filter(|n| n.checked_mul(8).is_some_and(|bytes| bytes <= MAX_BYTES));
    count.ok_or_else(|| Error::format(format!("its shape {shape:?} is too large")))
}

impl Constant {
    pub fn floats(shape: Vec<usize>, values: impl Into<Arc<[f32]>>) -> Constant {
        Constant { shape, data: Data::F32(values.into()), dtype: dtype::FLOAT }
    }

    pub fn integers(shape: Vec<usize>, values: impl Into<Arc<[i64]>>) -> Constant {
        Constant { shape, data: Data::I64(values.into()), dtype: dtype::INT64 }
    }

    pub fn len(&self) -> usize {
        match &self.data {
            Data::F32(values) => values.len(),
            Data::I64(values) => values.len(),
        }
    }

    pub fn is_float(&self) -> bool {
        matches!(self.data, Data::F32(_))
    }

    /// Its floats.
    pub fn as_floats(&self) -> Result<&[f32]> {
        match &self.data {
            Data::F32(values) => Ok(values),
            Data::I64(_) => Err(Error::mismatch("a tensor is of integers, not of floats")),
        }
    }

    /// Its integers.
    pub fn as_integers(&self) -> Result<&[i64]> {
        match &self.data {
            Data::I64(values) => Ok(values),
            Data::F32(_) => Err(Error::mismatch("a tensor is of floats, not of integers")),
        }
    }

    /// The same elements in other sizes.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Constant> {
        if elements(&shape)? != self.len() {
            return Err(Error::mismatch(format!("{:?} does not become {shape:?}", self.shape)));
        }
        Ok(Constant { shape, ..self.clone() })
    }

    /// With axis `order[i]` as axis `i`.
    pub fn permuted(&self, order: &[usize]) -> Constant {
        if order.iter().copied().eq(0..self.shape.len()) {
            return self.clone();
        }
        let mut strides = vec![1usize; self.shape.len()];
        for axis in (0..self.shape.len().saturating_sub(1)).rev() {
            // Of a tensor without elements they are not used.
            strides[axis] = strides[axis + 1].saturating_mul(self.shape[axis + 1].max(1));
        }
        let axis = |axis: &usize| Some((*self.shape.get(*axis)?, *strides.get(*axis)?));
        let (shape, strides): (Vec<_>, Vec<_>) = order.iter().filter_map(axis).unzip();
        let data = match &self.data {
            Data::F32(values) => Data::F32(permute(values, &shape, &strides).into()),
            Data::I64(values) => Data::I64(permute(values, &shape, &strides).into()),
        };
        Constant { shape, data, dtype: self.dtype }
    }

    /// Reads an initialiser or an attribute.
    pub fn read(tensor: &TensorProto, external: &External) -> Result<Constant> {
        let shape = tensor.dims.iter().map(|d| usize::try_from(*d));
        let shape: Vec<usize> = shape
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Error::format(format!("its sizes {:?} are out of range", tensor.dims)))?;
        let count = elements(&shape)?;
        let stored;
        let raw: &[u8] = match tensor.data_location {
            0 => &tensor.raw_data,
            1 => {
                stored = external.read(tensor)?;
                &stored
            }
            other => return Err(Error::format(format!("its data lie in the place {other}"))),
        };
        let data = decode(tensor, raw, count)?;
        let constant = Constant { shape, data, dtype: tensor.data_type };
        if constant.len() == count {
            return Ok(constant);
        }
        let message = format!("it has {} elements, its shape {count}", constant.len());
        Err(Error::format(message))
    }
}

fn permute<T: Copy>(values: &[T], shape: &[usize], strides: &[usize]) -> Vec<T> {
    let mut out = Vec::with_capacity(values.len());
    let mut index = vec![0usize; shape.len()];
    let mut place = 0;
    for _ in 0..values.len() {
        out.extend(values.get(place));
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            place += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            place -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

/// The elements: raw bytes in little-endian order, or the list of their type.
fn decode(tensor: &TensorProto, raw: &[u8], count: usize) -> Result<Data> {
    fn parts<const N: usize, T>(raw: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
        raw.as_chunks::<N>().0.iter().map(|bytes| of(*bytes)).collect()
    }
    let bytes = match tensor.data_type {
        dtype::UINT8 | dtype::INT8 | dtype::BOOL => 1,
        dtype::UINT16 | dtype::INT16 | dtype::FLOAT16 | dtype::BFLOAT16 => 2,
        dtype::FLOAT | dtype::INT32 | dtype::UINT32 => 4,
        dtype::INT64 | dtype::DOUBLE | dtype::UINT64 => 8,
        other => {
            let message = format!("its elements, of {}, are not read", types::name(other));
            return Err(Error::unsupported(message));
        }
    };
    // An empty list of bytes is a list of a type that is not used, unless nothing is stored.
    let is_raw = !raw.is_empty() || tensor.data_location == 1;
    if is_raw && count.checked_mul(bytes) != Some(raw.len()) {
        let message = format!("its {} bytes are not {count} elements of {bytes}", raw.len());
        return Err(Error::format(message));
    }
    let words = || tensor.int32_data.iter();
    let floats = |v: Vec<f32>| Data::F32(v.into());
    let integers = |v: Vec<i64>| Data::I64(v.into());
    Ok(match (tensor.data_type, is_raw) {
        (dtype::FLOAT, true) => floats(parts(raw, f32::from_le_bytes)),
        (dtype::FLOAT, false) => floats(tensor.float_data.clone()),
        (dtype::DOUBLE, true) => floats(parts(raw, |b| f64::from_le_bytes(b) as f32)),
        (dtype::DOUBLE, false) => floats(tensor.double_data.iter().map(|v| *v as f32).collect()),
        (dtype::FLOAT16, true) => floats(parts(raw, |b| f16::from_le_bytes(b).to_f32())),
        (dtype::FLOAT16, false) => {
            floats(words().map(|v| f16::from_bits(*v as u16).to_f32()).collect())
        }
        (dtype::BFLOAT16, true) => floats(parts(raw, |b| bf16::from_le_bytes(b).to_f32())),
        (dtype::BFLOAT16, false) => {
            floats(words().map(|v| bf16::from_bits(*v as u16).to_f32()).collect())
        }
        (dtype::INT64, true) => integers(parts(raw, i64::from_le_bytes)),
        (dtype::INT64, false) => integers(tensor.int64_data.clone()),
        (dtype::INT32, true) => integers(parts(raw, |b| i64::from(i32::from_le_bytes(b)))),
        (dtype::INT16, true) => integers(parts(raw, |b| i64::from(i16::from_le_bytes(b)))),
        (dtype::UINT16, true) => integers(parts(raw, |b| i64::from(u16::from_le_bytes(b)))),
        (dtype::INT8, true) => integers(raw.iter().map(|v| i64::from(v.cast_signed())).collect()),
        (dtype::UINT8 | dtype::BOOL, true) => integers(raw.iter().map(|v| i64::from(*v)).collect()),
        (dtype::UINT32, true) => integers(parts(raw, |b| i64::from(u32::from_le_bytes(b)))),
        (dtype::UINT64, true) => integers(parts(raw, |b| u64::from_le_bytes(b) as i64)),
        (dtype::UINT32 | dtype::UINT64, false) => {
            integers(tensor.uint64_data.iter().map(|v| *v as i64).collect())
        }
        (dtype::UINT8 | dtype::BOOL, false) => {
            integers(words().map(|v| i64::from(*v as u8)).collect())
        }
        (dtype::UINT16, false) => integers(words().map(|v| i64::from(*v as u16)).collect()),
        _ => integers(words().map(|v| i64::from(*v)).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dims: &[i64], data_type: i32, raw: &[u8]) -> TensorProto {
        let raw_data = raw.to_vec();
        TensorProto { dims: dims.to_vec(), data_type, raw_data, ..TensorProto::default() }
    }

    fn read(tensor: &TensorProto) -> Result<Constant> {
        Constant::read(tensor, &External::none())
    }

    #[test]
    fn raw_bytes_and_typed_lists_give_the_same() {
        let raw = tensor(&[2], dtype::INT32, &[1, 0, 0, 0, 255, 255, 255, 255]);
        let listed = TensorProto { int32_data: vec![1, -1], ..tensor(&[2], dtype::INT32, &[]) };
        assert_eq!(read(&raw).unwrap().as_integers().unwrap(), [1, -1]);
        assert_eq!(read(&raw).unwrap(), read(&listed).unwrap());
        let half = tensor(&[1, 2], dtype::FLOAT16, &[0, 0x3c, 0, 0xc0]);
        assert_eq!(read(&half).unwrap().as_floats().unwrap(), [1.0, -2.0]);
        let listed = TensorProto {
            int32_data: vec![0x3c00, 0xc000],
            ..tensor(&[1, 2], dtype::FLOAT16, &[])
        };
        assert_eq!(read(&half).unwrap(), read(&listed).unwrap());
        let bytes = tensor(&[3], dtype::INT8, &[1, 255, 128]);
        assert_eq!(read(&bytes).unwrap().as_integers().unwrap(), [1, -1, -128]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        for (dims, bytes) in
            [(&[3][..], 8), (&[-1], 4), (&[i64::MAX, i64::MAX], 4), (&[1 << 40], 4), (&[], 8)]
        {
            assert!(read(&tensor(dims, dtype::FLOAT, &vec![0; bytes])).is_err(), "{dims:?}");
        }
        assert!(read(&tensor(&[1], 99, &[0; 4])).is_err());
        assert_eq!(read(&tensor(&[0, 4], dtype::FLOAT, &[])).unwrap().len(), 0);
    }

    #[test]
    fn axes_are_put_in_another_order() {
        let constant = Constant::integers(vec![2, 3], (0..6).collect::<Vec<i64>>());
        let turned = constant.permuted(&[1, 0]);
        assert_eq!(turned.shape, [3, 2]);
        assert_eq!(turned.as_integers().unwrap(), [0, 3, 1, 4, 2, 5]);
    }
}
