//! Ops on tensors of any rank.

use limbeck_kernels::resize_place;
use limbeck_plan::{
    Binary, DType, GroupNorm, MAX_RANK, Map, MapStep, MatMul, Op, OperandId, Pad, Padding,
    QUANT_BLOCK, Reduce, Reduction, Resize, Unary,
};

use super::images::{What, windows};
use super::{flag, number};
use crate::backend::lower::{Instruction, Source};
use crate::backend::slots::Value;
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::lacks;
use crate::backend::wgpu::pipelines::Shader;
use crate::backend::wgpu::record::Recorder;
use crate::error::{Error, ErrorKind, Result};

/// Items of a group.
const LANES: usize = 64;
/// Inputs that [`Shader::Map`] binds.
pub(super) const MAP_INPUTS: usize = 6;

/// Words of each axis, those in front of a tensor's being of size 1 and without steps.
type Axes = [u32; MAX_RANK];

/// An operand of an instruction: where it lies, and its shape.
struct Operand<'a> {
    slice: Slice,
    shape: &'a [usize],
    dtype: DType,
}

pub(super) fn tensor(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::Tensor { op, inputs, shape, out } = instruction else { return Ok(()) };
    let (out, value) = (operand(rec, &Source::Value(*out), *shape)?, *out);
    let given = inputs.iter().map(|(source, id)| operand(rec, source, *id));
    let given = given.collect::<Result<Vec<_>>>()?;
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

/// Whether [`tensor`] has an op.
pub(super) fn has(op: &Op) -> bool {
    match op {
        Op::Map(p) => p.inputs <= MAP_INPUTS,
        Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Expand(_)
        | Op::Slice(_)
        | Op::Concat(_)
        | Op::Pad(_)
        | Op::MatMul(_)
        | Op::Reduce(_)
        | Op::Softmax(_)
        | Op::GroupNorm(_)
        | Op::AveragePool2d(_)
        | Op::Resize(_)
        | Op::Sizes(_)
        | Op::Range(_) => true,
        _ => false,
    }
}

fn operand<'a>(rec: &Recorder<'a>, source: &Source, id: OperandId) -> Result<Operand<'a>> {
    let slice = match source {
        Source::Value(value) => rec.value(*value)?,
        Source::Weight(id) => rec.shared.weights.vector(*id)?.clone(),
    };
    let dtype = rec.entry.lowered.facts.get(id).map_or(DType::F32, |fact| fact.dtype);
    Ok(Operand { slice, shape: rec.sizes.shape(id), dtype })
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Plan, message)
}

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// From one element to the next along each axis.
fn strides(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as i64;
    }
    strides
}

/// [`strides`] of a shape that is aligned at the last of so many axes, 0 where its size is 1.
fn repeated(shape: &[usize], rank: usize) -> Vec<i64> {
    let mut found = vec![0; rank.saturating_sub(shape.len())];
    let of = |(size, stride): (&usize, i64)| if *size == 1 { 0 } else { stride };
    found.extend(shape.iter().zip(strides(shape)).map(of));
    found
}

/// Sizes aligned at the last axis.
fn sizes(shape: &[usize]) -> Axes {
    let mut axes = [1; MAX_RANK];
    let from = MAX_RANK - shape.len().min(MAX_RANK);
    axes[from..].iter_mut().zip(shape).for_each(|(axis, size)| *axis = *size as u32);
    axes
}

/// Steps aligned at the last axis.
fn words(steps: &[i64]) -> Axes {
    let mut axes = [0; MAX_RANK];
    let from = MAX_RANK - steps.len().min(MAX_RANK);
    axes[from..].iter_mut().zip(steps).for_each(|(axis, step)| *axis = *step as i32 as u32);
    axes
}

/// Copies elements that are so many along each axis, with steps and beginnings in both tensors.
fn copy(
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

fn map(rec: &mut Recorder<'_>, p: &Map, given: &[Operand<'_>], out: &Operand<'_>) -> Result<()> {
    let types: Vec<DType> = given.iter().map(|x| x.dtype).collect();
    let types = p.types(&types).map_err(|e| wrong(&e))?;
    let count = count(out.shape);
    let mut all = vec![count as u32, p.steps.len() as u32, 0, 0];
    all.extend(sizes(out.shape));
    for i in 0..MAP_INPUTS {
        let steps = given.get(i).map(|x| repeated(x.shape, out.shape.len()));
        all.extend(words(&steps.unwrap_or_default()));
    }
    let mut program = vec![0; 4 * Map::MAX_STEPS];
    for (step, words) in p.steps.iter().zip(program.chunks_exact_mut(4)) {
        let integers = |of: usize| types.get(of) == Some(&DType::I32);
        let found = match *step {
            MapStep::Input(i) => [0, i as u32, 0, 0],
            MapStep::Float(v) => [1, v.to_bits(), 0, 0],
            MapStep::Integer(v) => [1, v as u32, 0, 0],
            MapStep::Unary(f, a) => [2, unary(f, integers(a)), a as u32, 0],
            MapStep::Binary(f, a, b) => [3, binary(f, integers(a)), a as u32, b as u32],
            MapStep::Select(c, a, b) => [4, c as u32, a as u32, b as u32],
        };
        words.copy_from_slice(&found);
    }
    all.extend(program);
    let none = rec.none();
    let mut bindings: Vec<&Slice> =
        (0..MAP_INPUTS).map(|i| given.get(i).map_or(&none, |x| &x.slice)).collect();
    bindings.push(&out.slice);
    rec.dispatch(Shader::Map, &all, &bindings, count.div_ceil(LANES))
}

/// The number by which the shader knows a function; see `shaders/map.wgsl`.
fn unary(f: Unary, integers: bool) -> u32 {
    match f {
        Unary::Neg if integers => 100,
        Unary::Abs if integers => 101,
        Unary::Sign if integers => 102,
        Unary::Neg => 0,
        Unary::Abs => 1,
        Unary::Sign => 2,
        Unary::Sqrt => 3,
        Unary::Exp => 4,
        Unary::Log => 5,
        Unary::Reciprocal => 6,
        Unary::Erf => 7,
        Unary::Sin => 8,
        Unary::Cos => 9,
        Unary::Floor => 10,
        Unary::Ceil => 11,
        Unary::Round => 12,
        Unary::IsNan => 13,
        Unary::ToInteger => 14,
        Unary::ToTruth if integers => 105,
        Unary::ToTruth => 15,
        Unary::Not => 103,
        Unary::ToFloat => 104,
        Unary::Activation(activation) => 16 + number(activation),
    }
}

fn binary(f: Binary, integers: bool) -> u32 {
    let f = match f {
        Binary::Add => 0,
        Binary::Sub => 1,
        Binary::Mul => 2,
        Binary::Div => 3,
        Binary::Mod => 4,
        Binary::Rem => 5,
        Binary::Pow => 6,
        Binary::Min => 7,
        Binary::Max => 8,
        Binary::Eq => 9,
        Binary::Lt => 10,
        Binary::Le => 11,
        Binary::And => 12,
        Binary::Or => 13,
        Binary::Xor => 14,
    };
    if integers { 100 + f } else { f }
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

fn resize(rec: &mut Recorder<'_>, p: &Resize, x: &Operand<'_>, out: &Operand<'_>) -> Result<()> {
    let (&[_, height, width, channels], &[_, down, across, _]) = (x.shape, out.shape) else {
        return Err(wrong("a resized tensor is not of images"));
    };
    let count = count(out.shape);
    if count == 0 {
        return Ok(());
    }
    let mut places = Vec::new();
    for (axis, from, to) in [(0, height, down), (1, width, across)] {
        for at in 0..to {
            let place = resize_place(p, axis, at, from, to);
            places.extend([place.first as u32, place.second as u32, place.share.to_bits()]);
        }
    }
    let places = rec.constants(&places)?;
    let sizes = [count, channels, height, width, down, across].map(|size| size as u32);
    let bindings = [&x.slice, &places, &out.slice];
    rec.dispatch(Shader::Resize, &sizes, &bindings, count.div_ceil(LANES))
}

pub(super) fn conv_transpose(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::ConvTranspose2d { params: p, x, weight, bias, shapes, out } = instruction
    else {
        return Ok(());
    };
    let (input, target): (Value, Value) = (*x, *out);
    let (&[_, height, width, _], &[_, down, across, outputs]) =
        (rec.sizes.shape(shapes[0]), rec.sizes.shape(shapes[1]))
    else {
        return Err(wrong("a transposed convolution is not of images"));
    };
    let w = rec.shared.weights.get(*weight)?;
    let [shard] = w.shards.as_slice() else {
        return Err(lacks("transposed convolutions whose weight is beyond one binding"));
    };
    let count = rec.sizes.len(target);
    let sizes = [count, w.cols, w.cols.div_ceil(QUANT_BLOCK), outputs, height, width, down, across];
    let window = [p.kernel, p.stride, [p.padding[0], p.padding[1]], p.dilation].concat();
    let words: Vec<u32> = sizes
        .into_iter()
        .chain(window)
        .chain([usize::from(bias.is_some())])
        .map(|size| size as u32)
        .collect();
    let bias = rec.vector_or_none(*bias)?;
    let (x, out) = (rec.value(input)?, rec.value(target)?);
    let bindings = [&shard.slice, &x, &bias, &out];
    rec.dispatch(Shader::ConvTranspose(w.format), &words, &bindings, count.div_ceil(LANES))
}
