//! Elements by indices that are computed.

use super::LANES;
use super::tensors::{Operand, count, sizes, strides, unfit, words, wrong};
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::Shader;
use crate::error::Result;

pub(super) fn gather(
    rec: &mut Recorder<'_>,
    axis: usize,
    given: &[Operand<'_>],
    out: &Operand<'_>,
) -> Result<()> {
    let [x, indices] = given else { return Err(wrong("an operand is missing")) };
    let (before, rest) = x.shape.split_at(axis.min(x.shape.len()));
    let [along, after @ ..] = rest else { return Err(wrong("an axis is missing")) };
    let (before, after) = (count(before), count(after));
    let shape = [before, count(indices.shape), after];
    let from = [(along * after) as i64, 0, 1];
    dispatch(rec, [x, indices, out], &shape, [&from, &[0, 1, 0]], [*along, after])
}

pub(super) fn gather_elements(
    rec: &mut Recorder<'_>,
    axis: usize,
    given: &[Operand<'_>],
    out: &Operand<'_>,
) -> Result<()> {
    let [x, indices] = given else { return Err(wrong("an operand is missing")) };
    let mut from = strides(x.shape);
    let (Some(step), Some(along)) = (from.get_mut(axis), x.shape.get(axis)) else {
        return Err(wrong("an axis is missing"));
    };
    let mut sides = indices.shape.iter().zip(x.shape).enumerate();
    if sides.any(|(i, (of_index, of_x))| i != axis && of_index > of_x) {
        let message = format!("indices of {:?} are beyond {:?}", indices.shape, x.shape);
        return Err(unfit(message));
    }
    let stride = std::mem::take(step) as usize;
    let to = strides(indices.shape);
    dispatch(rec, [x, indices, out], out.shape, [&from, &to], [*along, stride])
}

/// `steps` are those of `x` and of the indices along the axes of `shape`; `along` is how many elements an index
/// says one of, and the words from one to the next.
fn dispatch(
    rec: &mut Recorder<'_>,
    [x, indices, out]: [&Operand<'_>; 3],
    shape: &[usize],
    steps: [&[i64]; 2],
    along: [usize; 2],
) -> Result<()> {
    let count = count(shape);
    let head = [count, along[0], along[1], rec.number(), rec.made.fault(), 0, 0, 0];
    let [from, to] = steps.map(words);
    let words = [&head.map(|word| word as u32)[..], &sizes(shape), &from, &to].concat();
    let made = rec.choices();
    let bindings = [&x.slice, &indices.slice, &out.slice, &made];
    rec.dispatch(Shader::Gather, &words, &bindings, count.div_ceil(LANES))
}
