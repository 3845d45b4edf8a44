//! Ops that move elements and compute nothing: each element of the result is found in an input by its
//! index. They are their own references.

use super::{Operands, TensorArg, TensorOut, check_shape, count, gather};
use crate::elementwise::SharedRows;
use crate::error::Error;
use crate::pool::Pool;
use limbeck_plan::{Concat, Dim, Expand, Op, Pad, Padding, Slice, Transpose};

/// Rows and columns of the square that a transposition moves at a time.
const SQUARE: usize = 16;

/// Where the elements of a row-major result lie among an input's.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Sizes of the result, those of 1 left out, neighbours in one where they are so in the input.
    pub dims: Vec<usize>,
    /// How far apart neighbours along each lie.
    pub strides: Vec<isize>,
    /// Where the first lies.
    pub offset: usize,
}

/// The strides of a row-major shape whose elements can be counted.
pub(crate) fn dense(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1].wrapping_mul(shape[axis + 1].max(1) as isize);
    }
    strides
}

impl Layout {
    pub fn new(dims: &[usize], strides: &[isize], offset: usize) -> Layout {
        let mut merged = Layout { dims: Vec::new(), strides: Vec::new(), offset };
        for (dim, stride) in dims.iter().zip(strides).filter(|(dim, _)| **dim != 1) {
            match (merged.dims.last_mut(), merged.strides.last_mut()) {
                (Some(last), Some(before)) if *before == stride.wrapping_mul(*dim as isize) => {
                    (*last, *before) = (*last * dim, *stride);
                }
                _ => {
                    merged.dims.push(*dim);
                    merged.strides.push(*stride);
                }
            }
        }
        merged
    }

    /// The input's layout where it is repeated to `shape`, aligned at the last axes.
    pub fn broadcast(from: &[usize], shape: &[usize]) -> Result<Layout, Error> {
        Ok(Layout::new(shape, &repeated(from, shape)?, 0))
    }

    /// Where the result's element `at` lies.
    pub fn place(&self, mut at: usize) -> usize {
        let mut place = self.offset as isize;
        for (dim, stride) in self.dims.iter().zip(&self.strides).rev() {
            place += (at % dim) as isize * stride;
            at /= dim;
        }
        place as usize
    }

    fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Checks that all elements lie among `len`.
    fn check(&self, len: usize) -> Result<(), Error> {
        if self.dims.contains(&0) {
            return Ok(());
        }
        let (mut least, mut most) = (self.offset as i128, self.offset as i128);
        for (dim, stride) in self.dims.iter().zip(&self.strides) {
            let reach = (*dim as i128 - 1) * *stride as i128;
            least += reach.min(0);
            most += reach.max(0);
        }
        if least >= 0 && most < len as i128 {
            Ok(())
        } else {
            Err(Error::range(format!("elements {least}..={most} of {len} are asked for")))
        }
    }

    /// Copies the elements `first..first + out.len()` of the result.
    pub fn copy(&self, x: &[u32], first: usize, out: &mut [u32]) {
        let (Some(inner), Some(stride)) = (self.dims.last(), self.strides.last()) else {
            return out.fill(x[self.offset]);
        };
        let mut at = first;
        let mut rest = out;
        while !rest.is_empty() {
            let run = (inner - at % inner).min(rest.len());
            let (now, after) = rest.split_at_mut(run);
            let place = self.place(at);
            match stride {
                1 => now.copy_from_slice(&x[place..place + run]),
                0 => now.fill(x[place]),
                _ => {
                    for (i, out) in now.iter_mut().enumerate() {
                        *out = x[(place as isize + i as isize * stride) as usize];
                    }
                }
            }
            (rest, at) = (after, at + run);
        }
    }

    /// The axis whose neighbours lie side by side in the input, where it is not the last: then
    /// squares of both are moved, so that neither is read or written in single elements.
    fn crossing(&self) -> Option<usize> {
        let last = self.dims.len().checked_sub(1)?;
        let side = |axis: &usize| self.strides[*axis] == 1 && self.dims[*axis] >= 4;
        (self.dims[last] >= 4 && self.strides[last] != 1).then(|| (0..last).find(side))?
    }

    /// Moves all elements from `x` to `out`.
    pub fn run(&self, pool: &Pool, x: &[u32], out: &mut [u32]) -> Result<(), Error> {
        self.check(x.len())?;
        crate::error::check_len("a result", out.len(), self.elements())?;
        if out.is_empty() {
            return Ok(());
        }
        let out = SharedRows::new(out);
        match self.crossing() {
            Some(axis) => self.run_squares(pool, axis, x, &out),
            None => out.for_each_chunk(pool, SQUARE, |first, out| self.copy(x, first, out)),
        }
        Ok(())
    }

    fn run_squares(&self, pool: &Pool, axis: usize, x: &[u32], out: &SharedRows<'_, u32>) {
        let (last, to) = (self.dims.len() - 1, dense(&self.dims));
        // What comes before the axis is shared out; one part has all that lies below it.
        let (outer, below): (usize, usize) =
            (self.dims[..axis].iter().product(), self.dims[axis..].iter().product());
        let between: usize = self.dims[axis + 1..last].iter().product();
        let bands = self.dims[axis].div_ceil(SQUARE);
        // The bands of an axis write rows of their own.
        let band_rows = SQUARE * to[axis] as usize;
        pool.run(outer * bands, &|task| {
            let (block, band) = (task / bands, task % bands);
            let start = block * below + band * band_rows;
            let rows = SQUARE.min(self.dims[axis] - band * SQUARE);
            // SAFETY: bands are disjoint, and each is one task's.
            let part = unsafe { out.part(start, rows * to[axis] as usize) };
            for middle in 0..between {
                let row = middle * self.dims[last];
                let place = self.place(start + row) as isize;
                for first in (0..self.dims[last]).step_by(SQUARE) {
                    let across = SQUARE.min(self.dims[last] - first);
                    for r in 0..rows {
                        let line = &mut part[r * to[axis] as usize + row + first..][..across];
                        let from = place + first as isize * self.strides[last] + r as isize;
                        for (c, out) in line.iter_mut().enumerate() {
                            *out = x[(from + c as isize * self.strides[last]) as usize];
                        }
                    }
                }
            }
        });
    }
}

/// The strides of a dense tensor that is repeated to `shape`.
pub(crate) fn repeated(from: &[usize], shape: &[usize]) -> Result<Vec<isize>, Error> {
    let fail = || Error::shape(format!("{from:?} does not repeat to {shape:?}"));
    let before = shape.len().checked_sub(from.len()).ok_or_else(fail)?;
    let mut strides = vec![0; before];
    for ((have, want), stride) in from.iter().zip(&shape[before..]).zip(dense(from)) {
        if have != want && *have != 1 {
            return Err(fail());
        }
        strides.push(if *have == 1 { 0 } else { stride });
    }
    Ok(strides)
}

pub(crate) fn run(
    pool: &Pool,
    op: &Op,
    sizes: &dyn Fn(&Dim) -> Option<usize>,
    operands: &Operands<'_>,
    out: &mut TensorOut<'_>,
) -> Result<bool, Error> {
    let size =
        |dim: &Dim| sizes(dim).ok_or_else(|| Error::range(format!("the size {dim} has no value")));
    match op {
        Op::Reshape(_) => {
            let x = operands.get(0)?.data.words();
            crate::error::check_len("the result", out.data.words().len(), x.len())?;
            out.data.words().copy_from_slice(x);
        }
        Op::Transpose(Transpose { order }) => {
            let x = operands.get(0)?;
            let strides = dense(x.shape);
            let axis = |axis: &usize| Some((*x.shape.get(*axis)?, *strides.get(*axis)?));
            let axes: Option<Vec<_>> = order.iter().map(axis).collect();
            let axes = axes.ok_or_else(|| Error::range(format!("{order:?} has no such axis")))?;
            let (dims, strides): (Vec<_>, Vec<_>) = axes.into_iter().unzip();
            check_shape("the result", out.shape, &dims)?;
            Layout::new(&dims, &strides, 0).run(pool, x.data.words(), out.data.words())?;
        }
        Op::Expand(Expand { .. }) => {
            let x = operands.get(0)?;
            let layout = Layout::broadcast(x.shape, out.shape)?;
            layout.run(pool, x.data.words(), out.data.words())?;
        }
        Op::Slice(p) => slice(pool, p, size(&p.start)?, operands.get(0)?, out)?,
        Op::Concat(p) => concat(p, operands.all(), out)?,
        Op::Pad(p) => pad(pool, p, operands.get(0)?, out)?,
        Op::Gather(p) => gather::gather(p, operands.get(0)?, operands.get(1)?, out)?,
        Op::GatherElements(p) => {
            gather::gather_elements(p, operands.get(0)?, operands.get(1)?, out)?;
        }
        Op::Sizes(p) => {
            let count = p.sizes.len();
            crate::error::check_len("the sizes", out.data.words().len(), count)?;
            for (out, dim) in out.data.words().iter_mut().zip(&p.sizes) {
                let found = i32::try_from(size(dim)?);
                *out = found.map_err(|_| Error::range(format!("{dim} is too large")))? as u32;
            }
        }
        Op::Range(p) => {
            check_shape("the range", out.shape, &[size(&p.count)?])?;
            for (i, out) in out.data.words().iter_mut().enumerate() {
                *out = p.start.wrapping_add((i as i32).wrapping_mul(p.step)) as u32;
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn slice(
    pool: &Pool,
    p: &Slice,
    start: usize,
    x: TensorArg<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    let mut strides = dense(x.shape);
    let fits = out.shape.len() == x.shape.len()
        && out.shape.iter().zip(x.shape).enumerate().all(|(i, (a, b))| a == b || i == p.axis);
    let Some(stride) = strides.get_mut(p.axis).filter(|_| fits) else {
        return Err(Error::shape(format!("{:?} is no slice of {:?}", out.shape, x.shape)));
    };
    let (along, count) = (x.shape[p.axis] as i128, out.shape[p.axis] as i128);
    let last = start as i128 + (count - 1) * i128::from(p.step);
    if count > 0 && (start as i128 >= along || !(0..along).contains(&last)) {
        let message = format!("{count} elements from {start} by {} of {along}", p.step);
        return Err(Error::range(message));
    }
    let offset = if count > 0 { start * *stride as usize } else { 0 };
    *stride = stride.wrapping_mul(p.step as isize);
    Layout::new(out.shape, &strides, offset).run(pool, x.data.words(), out.data.words())
}

fn concat(p: &Concat, parts: &[TensorArg<'_>], out: &mut TensorOut<'_>) -> Result<(), Error> {
    let mut along = 0;
    for part in parts {
        let pairs = part.shape.iter().zip(out.shape).enumerate();
        let fits = part.shape.len() == out.shape.len()
            && p.axis < part.shape.len()
            && pairs.into_iter().all(|(i, (a, b))| a == b || i == p.axis);
        if !fits {
            return Err(Error::shape(format!("{:?} is no part of {:?}", part.shape, out.shape)));
        }
        along += part.shape[p.axis];
    }
    if out.shape.get(p.axis) != Some(&along) {
        return Err(Error::shape(format!("parts of {along} do not make {:?}", out.shape)));
    }
    let inner: usize = out.shape[p.axis + 1..].iter().product();
    let (mut first, row) = (0, along * inner);
    let words = out.data.words();
    if words.is_empty() {
        return Ok(());
    }
    for part in parts {
        let run = part.shape[p.axis] * inner;
        let rows = words.chunks_exact_mut(row);
        for (out, x) in rows.zip(part.data.words().chunks_exact(run.max(1))) {
            out[first..first + run].copy_from_slice(x);
        }
        first += run;
    }
    Ok(())
}

fn pad(pool: &Pool, p: &Pad, x: TensorArg<'_>, out: &mut TensorOut<'_>) -> Result<(), Error> {
    let rank = x.shape.len();
    let sizes = p.before.iter().zip(x.shape).zip(&p.after);
    let wanted: Vec<usize> = sizes.map(|((before, n), after)| before + n + after).collect();
    if p.before.len() != rank || p.after.len() != rank {
        return Err(Error::shape(format!("{p:?} does not pad {:?}", x.shape)));
    }
    check_shape("the padded tensor", out.shape, &wanted)?;
    if p.padding != Padding::Constant && x.shape.contains(&0) {
        return Err(Error::shape("nothing is padded with its own elements"));
    }
    let fill = match x.data {
        super::Elements::F32(_) => p.value.to_bits(),
        super::Elements::I32(_) => p.value.round() as i32 as u32,
    };
    let (strides, to) = (dense(x.shape), dense(out.shape));
    let shape = out.shape;
    let words = x.data.words();
    let inner = shape.last().copied().unwrap_or(1).max(1);
    SharedRows::new(out.data.words()).for_each_chunk(pool, inner, |first, out| {
        for (i, out) in out.iter_mut().enumerate() {
            let mut at = first + i;
            let mut place = Some(0usize);
            for axis in 0..rank {
                let index = at / to[axis] as usize;
                at %= to[axis] as usize;
                let from = source(p, axis, index as isize, x.shape[axis] as isize);
                place = place.zip(from).map(|(place, i)| place + i * strides[axis] as usize);
            }
            *out = place.and_then(|place| words.get(place).copied()).unwrap_or(fill);
        }
    });
    Ok(())
}

/// Where index `at` along an axis of `n` elements comes from; `None` for the value.
fn source(p: &Pad, axis: usize, at: isize, n: isize) -> Option<usize> {
    let at = at - p.before[axis] as isize;
    let found = match p.padding {
        _ if (0..n).contains(&at) => at,
        Padding::Constant => return None,
        Padding::Edge => at.clamp(0, n - 1),
        Padding::Wrap => at.rem_euclid(n),
        Padding::Reflect if n == 1 => 0,
        Padding::Reflect => {
            let period = 2 * (n - 1);
            let at = at.rem_euclid(period);
            at.min(period - at)
        }
    };
    Some(found as usize)
}

/// What lies before an axis, along it and after it.
pub(super) fn around(shape: &[usize], axis: usize) -> Result<[usize; 3], Error> {
    let along = *shape.get(axis).ok_or_else(|| Error::shape(format!("no axis {axis}")))?;
    let counted = count(&shape[..axis]).zip(count(&shape[axis + 1..]));
    let (before, after) = counted.ok_or_else(|| Error::shape("a tensor is too large"))?;
    Ok([before, along, after])
}
