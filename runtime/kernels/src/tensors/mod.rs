//! Ops on tensors of any rank: row-major elements with sizes that are known when an op runs.
//!
//! Every op checks the sizes that it is given, since those of a plan are only compared where they are
//! known without a call.

mod attend;
mod conv_transpose;
mod gather;
mod group_norm;
mod lstm;
mod map;
mod mat_mul;
mod moves;
mod pool2d;
mod reduce;
mod resize;
mod softmax;

pub(crate) use attend::Attended;
pub use conv_transpose::{ConvTranspose2dArgs, conv_transpose2d};
pub(crate) use conv_transpose::{Sides, giver};
pub(crate) use group_norm::{ChannelRowsTask, channel_rows_task};
pub(crate) use lstm::Extent;
pub(crate) use map::{MapTask, map_chunk};
pub(crate) use mat_mul::Products;
pub use mat_mul::TensorScratch;
pub(crate) use moves::{Layout, run as run_moves};
pub(crate) use reduce::{Parts, to_index as reduce_to_index};
pub use resize::{Place, place};
pub(crate) use softmax::softmax_row;

use crate::error::{Error, ErrorKind, check_len};
use crate::pool::Pool;
use crate::table::Kernels;
use limbeck_plan::{DType, Dim, Op};

/// Elements to read.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// Floats.
    F32(&'a [f32]),
    /// Integers and truth values.
    I32(&'a [i32]),
}

/// Elements to write.
#[derive(Debug)]
pub enum ElementsMut<'a> {
    /// Floats.
    F32(&'a mut [f32]),
    /// Integers and truth values.
    I32(&'a mut [i32]),
}

/// A tensor to read.
#[derive(Clone, Copy, Debug)]
pub struct TensorArg<'a> {
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// As many as their product.
    pub data: Elements<'a>,
}

/// A tensor to write.
#[derive(Debug)]
pub struct TensorOut<'a> {
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// As many as their product.
    pub data: ElementsMut<'a>,
}

/// The elements of a shape; `None` where there are too many to count.
pub(crate) fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

impl<'a> Elements<'a> {
    /// The words of a buffer as elements of this type.
    pub fn of(dtype: DType, words: &'a [f32]) -> Elements<'a> {
        match dtype {
            DType::F32 => Elements::F32(words),
            DType::I32 => Elements::I32(bytemuck::cast_slice(words)),
        }
    }

    /// Their type.
    pub fn dtype(&self) -> DType {
        match self {
            Elements::F32(_) => DType::F32,
            Elements::I32(_) => DType::I32,
        }
    }

    /// Their bits, as a buffer holds them.
    pub fn buffer(&self) -> &'a [f32] {
        match self {
            Elements::F32(values) => values,
            Elements::I32(values) => bytemuck::cast_slice(values),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Elements::F32(values) => values.len(),
            Elements::I32(values) => values.len(),
        }
    }

    /// Their bits.
    pub(crate) fn words(&self) -> &'a [u32] {
        match self {
            Elements::F32(values) => bytemuck::cast_slice(values),
            Elements::I32(values) => bytemuck::cast_slice(values),
        }
    }
}

impl<'a> ElementsMut<'a> {
    /// The words of a buffer as elements of this type.
    pub fn of(dtype: DType, words: &'a mut [f32]) -> ElementsMut<'a> {
        match dtype {
            DType::F32 => ElementsMut::F32(words),
            DType::I32 => ElementsMut::I32(bytemuck::cast_slice_mut(words)),
        }
    }

    /// Their type.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            ElementsMut::F32(_) => DType::F32,
            ElementsMut::I32(_) => DType::I32,
        }
    }

    fn len(&self) -> usize {
        match self {
            ElementsMut::F32(values) => values.len(),
            ElementsMut::I32(values) => values.len(),
        }
    }

    pub(crate) fn words(&mut self) -> &mut [u32] {
        match self {
            ElementsMut::F32(values) => bytemuck::cast_slice_mut(values),
            ElementsMut::I32(values) => bytemuck::cast_slice_mut(values),
        }
    }
}

impl<'a> TensorArg<'a> {
    fn check(&self) -> Result<(), Error> {
        match count(self.shape) {
            Some(n) => check_len("a tensor", self.data.len(), n),
            None => Err(Error::shape(format!("{:?} is too large", self.shape))),
        }
    }

    pub(crate) fn floats(&self) -> Result<&'a [f32], Error> {
        match self.data {
            Elements::F32(values) => Ok(values),
            Elements::I32(_) => Err(Error::shape("a tensor is of integers, not of floats")),
        }
    }

    pub(crate) fn integers(&self) -> Result<&'a [i32], Error> {
        match self.data {
            Elements::I32(values) => Ok(values),
            Elements::F32(_) => Err(Error::shape("a tensor is of floats, not of integers")),
        }
    }
}

impl TensorOut<'_> {
    fn check(&self) -> Result<(), Error> {
        match count(self.shape) {
            Some(n) => check_len("a result", self.data.len(), n),
            None => Err(Error::shape(format!("{:?} is too large", self.shape))),
        }
    }

    pub(crate) fn floats(&mut self) -> Result<&mut [f32], Error> {
        match &mut self.data {
            ElementsMut::F32(values) => Ok(values),
            ElementsMut::I32(_) => Err(Error::shape("a result is of integers, not of floats")),
        }
    }
}

/// The operands of an op, checked to hold what their shapes say.
pub(crate) struct Operands<'a> {
    inputs: &'a [TensorArg<'a>],
}

impl<'a> Operands<'a> {
    /// Checks all of them.
    pub(crate) fn new(inputs: &'a [TensorArg<'a>], out: &TensorOut<'_>) -> Result<Self, Error> {
        inputs.iter().try_for_each(TensorArg::check)?;
        out.check()?;
        Ok(Self { inputs })
    }

    pub(crate) fn all(&self) -> &'a [TensorArg<'a>] {
        self.inputs
    }

    pub(crate) fn get(&self, index: usize) -> Result<TensorArg<'a>, Error> {
        let found = self.inputs.get(index).copied();
        found.ok_or_else(|| Error::shape(format!("input {index} is missing")))
    }

    /// An input that is there where `present`.
    pub(crate) fn floats_if(
        &self,
        present: bool,
        index: usize,
    ) -> Result<Option<&'a [f32]>, Error> {
        if present { Ok(Some(self.get(index)?.floats()?)) } else { Ok(None) }
    }
}

/// `[batch, h, w, channels]`.
pub(crate) fn image(shape: &[usize]) -> Result<[usize; 4], Error> {
    shape.try_into().map_err(|_| Error::shape(format!("{shape:?} is not [batch, h, w, C]")))
}

/// Makes room for so many values, where a call may ask for more than there is.
fn grow(values: &mut Vec<f32>, len: usize) -> Result<(), Error> {
    let more = len.saturating_sub(values.len());
    let room = values.try_reserve_exact(more);
    room.map_err(|_| Error::new(ErrorKind::Memory, format!("no memory for {len} values")))?;
    values.resize(values.len() + more, 0.0);
    Ok(())
}

/// Refuses a shape that is not `want`.
pub(crate) fn check_shape(what: &str, got: &[usize], want: &[usize]) -> Result<(), Error> {
    if got == want {
        Ok(())
    } else {
        Err(Error::shape(format!("{what} is {got:?}, expected {want:?}")))
    }
}

/// Runs an op on tensors whose inputs are tensors alone; `sizes` gives the dims of the call. Gives
/// whether it is one.
///
/// # Errors
/// `Shape` when the operands do not fit each other, `Range` for an index or a dim out of range, `Memory`
/// when there is none.
pub fn tensor(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut TensorScratch,
    op: &Op,
    sizes: &dyn Fn(&Dim) -> Option<usize>,
    inputs: &[TensorArg<'_>],
    mut out: TensorOut<'_>,
) -> Result<bool, Error> {
    let operands = Operands::new(inputs, &out)?;
    match op {
        Op::Map(p) => map::run(kernels, pool, p, operands.all(), &mut out)?,
        Op::MatMul(p) => mat_mul::run(kernels, pool, scratch, p, &operands, &mut out)?,
        Op::Reduce(p) => reduce::run(pool, p, operands.get(0)?, &mut out)?,
        Op::Softmax(p) => softmax::run(kernels, pool, p, operands.get(0)?, &mut out)?,
        Op::Attend(p) => attend::run(kernels, pool, scratch, p, &operands, &mut out)?,
        Op::GroupNorm(p) => group_norm::run(kernels, pool, p, &operands, &mut out)?,
        Op::AveragePool2d(p) => pool2d::run(pool, p, operands.get(0)?, &mut out)?,
        Op::Resize(p) => resize::run(pool, p, operands.get(0)?, &mut out)?,
        Op::Lstm(p) => lstm::run(kernels, pool, scratch, p, &operands, &mut out)?,
        _ => return moves::run(pool, op, sizes, &operands, &mut out),
    }
    Ok(true)
}
