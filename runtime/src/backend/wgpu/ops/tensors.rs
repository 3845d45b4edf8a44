//! Ops on tensors of any rank.

use limbeck_plan::{
    DType, Dim, Fact, GroupNorm, MAX_RANK, MatMul, Op, OperandId, Pad, Padding, Reduce, Reduction,
};

use super::gather::{gather, gather_elements};
use super::images::{What, resize, windows};
use super::lstm::lstm;
use super::map::map;
use super::{LANES, flag, number};
use crate::backend::lower::{Instruction, Source};
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::lacks;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::Shader;
use crate::error::{Error, ErrorKind, Result};

/// Words of each axis, those in front of a tensor's being of size 1 and without steps.
type Axes = [u32; MAX_RANK];

/// An operand of an instruction: where it lies, and its shape.
pub(super) struct Operand<'a> {
    pub slice: Slice,
    pub shape: &'a [usize],
    pub dtype: DType,
}

pub(super) fn tensor(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::Tensor { op, inputs, shape, out } = instruction else { return Ok(()) };
    let (out, value) = (operand(rec, &Source::Value(*out), *shape)?, *out);
    let given = inputs.iter().map(|(source, id)| operand(rec, source, *id));
    let given = given.collect::<Result<Vec<_>>>()?;
    check(rec, op, &given, &out)?;
    let first = || given.first().ok_or_else(|| wrong("an operand is missing"));
    match op {
        Op::Map(p) => map(rec, p, &given, &out),
        Op::Reshape(_) => copy(rec, first()?, &out, &[count(out.shape)], &[1], &[1], [0, 0]),
        Op::Transpose(p) => {
            let of = strides(first()?.shape);
            let from: Vec<i64> =
                p.order.iter().map(|axis| of.get(*axis).copied().unwrap_or(0)).collect();
            copy(rec, first()?, &out, out.shape, &from, &strides(out.shape), [0, 0])
        }
        Op::Expand(_) => {
            let from = repeated(first()?.shape, out.shape.len());
            copy(rec, first()?, &out, out.shape, &from, &strides(out.shape), [0, 0])
        }
        Op::Slice(p) => {
            let start = (rec.size)(&p.start).ok_or_else(|| wrong("a slice has no start"))?;
            let mut from = strides(first()?.shape);
            let axis = from.get_mut(p.axis).ok_or_else(|| wrong("an axis is missing"))?;
            let begin = start as i64 * *axis;
            *axis *= p.step;
            copy(rec, first()?, &out, out.shape, &from, &strides(out.shape), [begin, 0])
        }
        Op::Concat(p) => {
            let to = strides(out.shape);
            let axis = to.get(p.axis).copied().ok_or_else(|| wrong("an axis is missing"))?;
            let mut before = 0;
            for x in &given {
                copy(rec, x, &out, x.shape, &strides(x.shape), &to, [0, before * axis])?;
                before += x.shape.get(p.axis).map_or(0, |size| *size as i64);
            }
            Ok(())
        }
        Op::Pad(p) => pad(rec, p, first()?, &out),
        Op::MatMul(p) => mat_mul(rec, p, &given, &out),
        Op::Reduce(p) => reduce(rec, p, first()?, &out),
        Op::Softmax(p) => {
            let cols = out.shape.last().copied().unwrap_or(1).max(1);
            let rows = count(out.shape) / cols;
            let words = [rows as u32, cols as u32, flag(p.log, 1)];
            rec.dispatch(Shader::Softmax, &words, &[&first()?.slice, &out.slice], rows)
        }
        Op::GroupNorm(p) => group_norm(rec, p, &given, &out),
        Op::AveragePool2d(p) => {
            let Some((Source::Value(x), id)) = inputs.first() else {
                return Err(lacks("means over a weight"));
            };
            let what = What::Mean { count_padding: p.count_padding };
            windows(rec, what, (&p.window, Some(*id)), *x, value)
        }
        Op::Resize(p) => resize(rec, p, first()?, &out),
        Op::Gather(p) => gather(rec, p.axis, &given, &out),
        Op::GatherElements(p) => gather_elements(rec, p.axis, &given, &out),
        Op::Lstm(p) => lstm(rec, p, &given, &out),
        Op::Sizes(p) => {
            let size = |dim| (rec.size)(dim).and_then(|size| i32::try_from(size).ok());
            let sizes: Option<Vec<i32>> = p.sizes.iter().map(size).collect();
            let sizes = sizes.ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, "a size is unknown or beyond 2^31")
            })?;
            known(rec, &sizes, &out)
        }
        Op::Range(p) => {
            let at = |i| p.start.wrapping_add(p.step.wrapping_mul(i as i32));
            known(rec, &(0..count(out.shape)).map(at).collect::<Vec<_>>(), &out)
        }
        op => Err(lacks(format_args!("the op {}", op.name()))),
    }
}

/// Compares the sizes of a call's operands, as the rules of the op's shapes have it.
fn check(rec: &Recorder<'_>, op: &Op, given: &[Operand<'_>], out: &Operand<'_>) -> Result<()> {
    let fact = |x: &Operand<'_>| {
        let shape = x.shape.iter().map(|size| Dim::from(*size));
        Fact::new(x.dtype, shape.collect())
    };
    let facts: Vec<Fact> = given.iter().map(fact).collect();
    let found = op.infer(&facts).map_err(unfit)?;
    let shape = found.first().map_or(&[][..], |fact| &fact.shape);
    let shape: Option<Vec<usize>> = shape.iter().map(|dim| (rec.size)(dim)).collect();
    if shape.as_deref() == Some(out.shape) {
        return Ok(());
    }
    Err(unfit(format!("its result is not of {:?}", out.shape)))
}

pub(super) fn unfit(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

fn operand<'a>(rec: &Recorder<'a>, source: &Source, id: OperandId) -> Result<Operand<'a>> {
    let slice = match source {
        Source::Value(value) => rec.value(*value)?,
        Source::Weight(id) => rec.shared.weights.vector(*id)?.clone(),
    };
    let dtype = rec.entry.lowered.facts.get(id).map_or(DType::F32, |fact| fact.dtype);
    Ok(Operand { slice, shape: rec.sizes.shape(id), dtype })
}

pub(super) fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Plan, message)
}

pub(super) fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// From one element to the next along each axis.
pub(super) fn strides(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as i64;
    }
    strides
}

/// [`strides`] of a shape that is aligned at the last of so many axes, 0 where its size is 1.
pub(super) fn repeated(shape: &[usize], rank: usize) -> Vec<i64> {
    let mut found = vec![0; rank.saturating_sub(shape.len())];
    let of = |(size, stride): (&usize, i64)| if *size == 1 { 0 } else { stride };
    found.extend(shape.iter().zip(strides(shape)).map(of));
    found
}

/// Sizes aligned at the last axis.
pub(super) fn sizes(shape: &[usize]) -> Axes {
    let mut axes = [1; MAX_RANK];
    let from = MAX_RANK - shape.len().min(MAX_RANK);
    axes[from..].iter_mut().zip(shape).for_each(|(axis, size)| *axis = *size as u32);
    axes
}

/// Steps aligned at the last axis.
pub(super) fn words(steps: &[i64]) -> Axes {
    let mut axes = [0; MAX_RANK];
    let from = MAX_RANK - steps.len().min(MAX_RANK);
    axes[from..].iter_mut().zip(steps).for_each(|(axis, step)| *axis = *step as i32 as u32);
    axes
}

/// Copies elements that are so many along each axis, with steps and beginnings in both tensors.
pub(super) fn copy(
    rec: &mut Recorder<'_>,
    x: &Operand<'_>,
    out: &Operand<'_>,
    shape: &[usize],
    from: &[i64],
    to: &[i64],
    begin: [i64; 2],
) -> Result<()> {
    let count = count(shape);
    let head = [count as u32, begin[0] as u32, begin[1] as u32, 0];
    let words = [&head[..], &sizes(shape), &words(from), &words(to)].concat();
    rec.dispatch(Shader::Moves, &words, &[&x.slice, &out.slice], count.div_ceil(LANES))
}

/// Integers that the sizes of a call decide.
fn known(rec: &mut Recorder<'_>, values: &[i32], out: &Operand<'_>) -> Result<()> {
    if values.len() != count(out.shape) {
        return Err(wrong("a tensor of sizes is of another size"));
    }
    let slice = rec.constants(bytemuck::cast_slice(values))?;
    let x = Operand { slice, shape: out.shape, dtype: DType::I32 };
    copy(rec, &x, out, &[values.len()], &[1], &[1], [0, 0])
}

fn pad(rec: &mut Recorder<'_>, p: &Pad, x: &Operand<'_>, out: &Operand<'_>) -> Result<()> {
    let rule = match p.padding {
        Padding::Constant => 0,
        Padding::Edge => 1,
        Padding::Reflect => 2,
        Padding::Wrap => 3,
    };
    let value = match out.dtype {
        DType::F32 => p.value.to_bits(),
        DType::I32 => p.value.round() as i32 as u32,
    };
    let count = count(out.shape);
    let before: Vec<i64> = p.before.iter().map(|n| *n as i64).collect();
    let head = [count as u32, rule, value, 0];
    let words = [&head[..], &sizes(out.shape), &sizes(x.shape), &words(&before)].concat();
    rec.dispatch(Shader::Pad, &words, &[&x.slice, &out.slice], count.div_ceil(LANES))
}

fn mat_mul(
    rec: &mut Recorder<'_>,
    p: &MatMul,
    given: &[Operand<'_>],
    out: &Operand<'_>,
) -> Result<()> {
    let [a, b] = given else { return Err(wrong("an operand is missing")) };
    let ([.., m, k], [batch @ .., _, n]) = (a.shape, out.shape) else {
        return Err(wrong("a product is not of matrices"));
    };
    // Steps from matrix to matrix, in elements.
    let matrices = |x: &Operand<'_>, size: usize| -> Vec<i64> {
        let axes = x.shape.get(..x.shape.len().saturating_sub(2)).unwrap_or_default();
        repeated(axes, batch.len()).iter().map(|step| step * size as i64).collect()
    };
    let (tile, count) = (16, count(batch));
    let head = [*m as u32, *k as u32, *n as u32, flag(p.transposed, 1)];
    let more = [p.scale.to_bits(), count as u32, 0, 0];
    let (of_a, of_b) = (words(&matrices(a, m * k)), words(&matrices(b, k * n)));
    let words = [&head[..], &more, &sizes(batch), &of_a, &of_b].concat();
    let groups = count * m.div_ceil(tile) * n.div_ceil(tile);
    rec.dispatch(Shader::MatMul, &words, &[&a.slice, &b.slice, &out.slice], groups)
}

fn reduce(rec: &mut Recorder<'_>, p: &Reduce, x: &Operand<'_>, out: &Operand<'_>) -> Result<()> {
    let rule = match p.reduction {
        Reduction::Sum => 0,
        Reduction::Mean => 1,
        Reduction::Prod => 2,
        Reduction::Max => 3,
        Reduction::Min => 4,
        Reduction::L2 => 5,
        Reduction::L1 => 6,
        Reduction::SumSquares => 7,
        Reduction::ArgMax => 8,
        Reduction::ArgMin => 9,
    };
    let steps = strides(x.shape);
    let (mut kept, mut reduced) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (axis, (size, stride)) in x.shape.iter().zip(steps).enumerate() {
        let part = if p.axes.contains(&axis) { &mut reduced } else { &mut kept };
        part.0.push(*size);
        part.1.push(stride);
    }
    let (results, each) = (count(out.shape), count(&reduced.0));
    if each == 0 && results > 0 {
        return Err(lacks("reductions of no elements"));
    }
    let head = [results as u32, each as u32, rule, flag(x.dtype == DType::I32, 1)];
    let [kept, reduced] = [kept, reduced].map(|(s, steps)| [sizes(&s), words(&steps)].concat());
    let words = [&head[..], &kept, &reduced].concat();
    rec.dispatch(Shader::Reduce, &words, &[&x.slice, &out.slice], results)
}

fn group_norm(
    rec: &mut Recorder<'_>,
    p: &GroupNorm,
    given: &[Operand<'_>],
    out: &Operand<'_>,
) -> Result<()> {
    let [x, weight, rest @ ..] = given else { return Err(wrong("an operand is missing")) };
    let (Some(images), Some(channels)) = (x.shape.first(), x.shape.last()) else {
        return Err(wrong("a group norm is not of images"));
    };
    let positions = count(x.shape) / (images * channels).max(1);
    let words = [
        *images as u32,
        positions as u32,
        *channels as u32,
        p.groups as u32,
        p.eps.to_bits(),
        flag(p.bias, 1),
        number(p.activation),
    ];
    let none = rec.none();
    let bias = rest.first().map_or(&none, |bias| &bias.slice);
    let bindings = [&x.slice, &weight.slice, bias, &out.slice];
    rec.dispatch(Shader::GroupNorm, &words, &bindings, images * p.groups)
}
