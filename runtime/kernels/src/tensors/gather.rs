//! Elements by their indices.

use super::moves::{around, dense};
use super::{TensorArg, TensorOut, check_shape};
use crate::error::Error;
use limbeck_plan::{Gather, GatherElements};

/// The element that an index means, which counts from the end where it is negative.
fn index(at: i32, along: usize) -> Result<usize, Error> {
    let found = if at < 0 { along as i64 + i64::from(at) } else { i64::from(at) };
    let found = usize::try_from(found).ok().filter(|i| *i < along);
    found.ok_or_else(|| Error::range(format!("index {at} is outside {along} elements")))
}

pub(super) fn gather(
    p: &Gather,
    x: TensorArg<'_>,
    indices: TensorArg<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    let [before, along, after] = around(x.shape, p.axis)?;
    let shape = [&x.shape[..p.axis], indices.shape, &x.shape[p.axis + 1..]].concat();
    check_shape("the gathered elements", out.shape, &shape)?;
    let ids = indices.integers()?;
    let places = ids.iter().map(|at| index(*at, along)).collect::<Result<Vec<_>, _>>()?;
    let words = out.data.words();
    if words.is_empty() {
        return Ok(());
    }
    let x = x.data.words();
    let rows = words.chunks_exact_mut(after);
    let from =
        (0..before).flat_map(|b| places.iter().map(move |place| (b * along + place) * after));
    rows.zip(from).for_each(|(out, from)| out.copy_from_slice(&x[from..][..after]));
    Ok(())
}

pub(super) fn gather_elements(
    p: &GatherElements,
    x: TensorArg<'_>,
    indices: TensorArg<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    check_shape("the gathered elements", out.shape, indices.shape)?;
    let [_, along, _] = around(x.shape, p.axis)?;
    let fits = indices.shape.len() == x.shape.len()
        && (0..x.shape.len()).all(|i| i == p.axis || indices.shape[i] <= x.shape[i]);
    if !fits {
        let message = format!("indices of {:?} are beyond {:?}", indices.shape, x.shape);
        return Err(Error::shape(message));
    }
    let (from, to) = (dense(x.shape), dense(indices.shape));
    let words = x.data.words();
    for (i, (out, at)) in out.data.words().iter_mut().zip(indices.integers()?).enumerate() {
        let mut rest = i;
        let mut place = 0;
        for axis in 0..x.shape.len() {
            let here = rest / to[axis] as usize;
            rest %= to[axis] as usize;
            let here = if axis == p.axis { index(*at, along)? } else { here };
            place += here * from[axis] as usize;
        }
        *out = words[place];
    }
    Ok(())
}
