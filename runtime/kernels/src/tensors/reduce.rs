//! Reductions of axes. Each result has one order of its sum, whatever the threads and its neighbours:
//! its elements in theirs go to eight sums in turn.

use super::moves::dense;
use super::{ElementsMut, Layout, TensorArg, TensorOut, check_shape};
use crate::elementwise::SharedRows;
use crate::error::Error;
use crate::pool::Pool;
use limbeck_plan::{Reduce, Reduction};

/// Sums side by side.
const SUMS: usize = 8;

/// The elements that a result is made of.
pub(crate) struct Parts {
    /// Where the first of each result's elements lies.
    pub kept: Layout,
    /// Where the others lie from there.
    pub reduced: Layout,
    pub count: usize,
}

impl Parts {
    pub fn of(p: &Reduce, shape: &[usize], out: &[usize]) -> Result<Parts, Error> {
        let mut wanted = shape.to_vec();
        for axis in &p.axes {
            let size = wanted.get_mut(*axis);
            *size.ok_or_else(|| Error::range(format!("there is no axis {axis}")))? = 1;
        }
        check_shape("the reduced tensor", out, &wanted)?;
        let strides = dense(shape);
        let axes = |reduced: bool| {
            let these = (0..shape.len()).filter(|axis| p.axes.contains(axis) == reduced);
            let (dims, strides): (Vec<_>, Vec<_>) = these.map(|a| (shape[a], strides[a])).unzip();
            (dims.iter().product(), Layout::new(&dims, &strides, 0))
        };
        let ((_, kept), (count, reduced)) = (axes(false), axes(true));
        Ok(Parts { kept, reduced, count })
    }
}

pub(super) fn run(
    pool: &Pool,
    p: &Reduce,
    x: TensorArg<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    if matches!(p.reduction, Reduction::ArgMax | Reduction::ArgMin) {
        return to_index(p, x, out);
    }
    let parts = Parts::of(p, x.shape, out.shape)?;
    match &mut out.data {
        ElementsMut::F32(out) => floats(pool, p.reduction, x.floats()?, &parts, out),
        ElementsMut::I32(out) => integers(p.reduction, x.integers()?, &parts, out),
    }
    Ok(())
}

/// What a reduction begins with.
fn start(reduction: Reduction) -> f64 {
    match reduction {
        Reduction::Prod => 1.0,
        Reduction::Max => f64::NEG_INFINITY,
        Reduction::Min => f64::INFINITY,
        _ => 0.0,
    }
}

#[inline(always)]
fn with(reduction: Reduction, sum: f64, v: f64) -> f64 {
    match reduction {
        Reduction::Prod => sum * v,
        Reduction::Max => {
            if v > sum || v.is_nan() {
                v
            } else {
                sum
            }
        }
        Reduction::Min => {
            if v < sum || v.is_nan() {
                v
            } else {
                sum
            }
        }
        Reduction::L1 => sum + v.abs(),
        Reduction::L2 | Reduction::SumSquares => sum + v * v,
        _ => sum + v,
    }
}

/// Two sums as one.
fn both(reduction: Reduction, a: f64, b: f64) -> f64 {
    match reduction {
        Reduction::Prod | Reduction::Max | Reduction::Min => with(reduction, a, b),
        _ => a + b,
    }
}

fn end(reduction: Reduction, sum: f64, count: usize) -> f32 {
    match reduction {
        Reduction::Mean => (sum / count as f64) as f32,
        Reduction::L2 => sum.sqrt() as f32,
        _ => sum as f32,
    }
}

fn floats(pool: &Pool, reduction: Reduction, x: &[f32], parts: &Parts, out: &mut [f32]) {
    let Parts { kept, reduced, count } = parts;
    let rows = reduced.dims.len() == 1 && reduced.strides == [1];
    let work = SharedRows::new(out);
    let body = |first: usize, out: &mut [f32]| {
        if *count == 0 {
            return out.fill(end(reduction, start(reduction), 0));
        }
        if !rows && kept.strides.last() == Some(&1) {
            return side_by_side(reduction, x, parts, first, out);
        }
        for (i, out) in out.iter_mut().enumerate() {
            let place = kept.place(first + i);
            let mut sums = [start(reduction); SUMS];
            for at in 0..*count {
                let v = x[place + if rows { at } else { reduced.place(at) }];
                sums[at % SUMS] = with(reduction, sums[at % SUMS], f64::from(v));
            }
            *out = end(reduction, fold(reduction, &sums), *count);
        }
    };
    // A few results of many elements each are worth threads too.
    match parts.count.saturating_mul(work.len()) {
        0..65_536 => body(0, out),
        _ => work.for_each_part(pool, 1, body),
    }
}

fn fold(reduction: Reduction, sums: &[f64; SUMS]) -> f64 {
    sums.iter().copied().reduce(|a, b| both(reduction, a, b)).unwrap_or(0.0)
}

/// Results that lie side by side, as their elements do: the elements of all are gone through in turn.
fn side_by_side(reduction: Reduction, x: &[f32], parts: &Parts, first: usize, out: &mut [f32]) {
    const WIDTH: usize = 64;
    let Parts { kept, reduced, count } = parts;
    let inner = kept.dims.last().copied().unwrap_or(1);
    let mut done = 0;
    while done < out.len() {
        let at = first + done;
        let width = WIDTH.min(inner - at % inner).min(out.len() - done);
        let place = kept.place(at);
        let mut sums = [[start(reduction); WIDTH]; SUMS];
        for i in 0..*count {
            let row = &x[place + reduced.place(i)..][..width];
            let pairs = sums[i % SUMS].iter_mut().zip(row);
            pairs.for_each(|(sum, v)| *sum = with(reduction, *sum, f64::from(*v)));
        }
        for (column, out) in out[done..done + width].iter_mut().enumerate() {
            let sums = sums.map(|sums| sums[column]);
            *out = end(reduction, fold(reduction, &sums), *count);
        }
        done += width;
    }
}

fn integers(reduction: Reduction, x: &[i32], parts: &Parts, out: &mut [i32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let place = parts.kept.place(i);
        let values = (0..parts.count).map(|at| x[place + parts.reduced.place(at)]);
        *out = match reduction {
            Reduction::Prod => values.fold(1, i32::wrapping_mul),
            Reduction::Max => values.max().unwrap_or(i32::MIN),
            Reduction::Min => values.min().unwrap_or(i32::MAX),
            _ => values.fold(0, i32::wrapping_add),
        };
    }
}

/// The index of the largest or smallest; it compares and computes nothing, so that it is its own
/// reference.
pub(crate) fn to_index(p: &Reduce, x: TensorArg<'_>, out: &mut TensorOut<'_>) -> Result<(), Error> {
    let parts = Parts::of(p, x.shape, out.shape)?;
    let ElementsMut::I32(out) = &mut out.data else {
        return Err(Error::shape("an index is an integer"));
    };
    let value = |at: usize| match x.data {
        super::Elements::F32(x) => f64::from(x[at]),
        super::Elements::I32(x) => f64::from(x[at]),
    };
    if parts.count == 0 && !out.is_empty() {
        return Err(Error::range("there is no largest of nothing"));
    }
    for (i, out) in out.iter_mut().enumerate() {
        let place = parts.kept.place(i);
        let mut best = 0;
        for at in 1..parts.count {
            let of = |at| value(place + parts.reduced.place(at));
            let (a, b) = (of(at), of(best));
            let better = if p.reduction == Reduction::ArgMax { a > b } else { a < b };
            if better {
                best = at;
            }
        }
        *out = i32::try_from(best).map_err(|_| Error::range("an index is too large"))?;
    }
    Ok(())
}
