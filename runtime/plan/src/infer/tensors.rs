//! The shape rules of tensors.

use super::images::{input, taps_in_range, with_channels};
use super::{floats, known_size, valid_eps, vector, weight};
use crate::ops::*;
use crate::{DType, Dim, Fact};

/// Most tensors that are put one after the other.
pub(super) const MAX_PARTS: usize = 1 << 10;
/// Most sizes of a call in one tensor.
const MAX_SIZES: usize = 1 << 10;
/// Largest distance, padding or window of an image.
const MAX_SIDE: usize = 1 << 14;

pub(super) fn infer(op: &Op, inputs: &[Fact]) -> Result<Fact, String> {
    inputs.iter().try_for_each(|fact| rank(fact.shape.len()))?;
    let fact = match op {
        Op::Map(p) => map(p, inputs)?,
        Op::MatMul(p) => mat_mul(p, &inputs[0], &inputs[1])?,
        Op::Reduce(p) => reduce(p, &inputs[0])?,
        Op::Reshape(p) => reshape(p, &inputs[0])?,
        Op::Transpose(p) => transpose(p, &inputs[0])?,
        Op::Expand(p) => expand(p, &inputs[0])?,
        Op::Slice(p) => slice(p, &inputs[0])?,
        Op::Concat(p) => concat(p, inputs)?,
        Op::Pad(p) => pad(p, &inputs[0])?,
        Op::Gather(p) => gather(p, &inputs[0], &inputs[1])?,
        Op::GatherElements(p) => gather_elements(p, &inputs[0], &inputs[1])?,
        Op::Softmax(_) => {
            floats(&inputs[0])?;
            axis(0, inputs[0].shape.len())?;
            inputs[0].clone()
        }
        Op::Attend(p) => super::attend::attend(p, inputs)?,
        Op::GroupNorm(p) => group_norm(p, inputs)?,
        Op::AveragePool2d(p) => {
            let (channels, sizes) = input(&p.window, &inputs[0])?;
            if inputs[0].shape.len() != 4 {
                return Err(format!("{} is not [batch, h, w, C]", inputs[0]));
            }
            taps_in_range(&p.window)?;
            with_channels(sizes, channels)
        }
        Op::ConvTranspose2d(p) => conv_transpose(p, inputs)?,
        Op::Resize(p) => resize(p, &inputs[0])?,
        Op::Sizes(p) if p.sizes.len() <= MAX_SIZES => integers(Dim::from(p.sizes.len())),
        Op::Sizes(p) => return Err(format!("{} sizes are too many", p.sizes.len())),
        Op::Range(p) => integers(p.count.clone()),
        Op::Lstm(p) => lstm(p, inputs)?,
        _ => return Err("it is not an op on tensors".into()),
    };
    rank(fact.shape.len())?;
    Ok(fact)
}

fn rank(axes: usize) -> Result<(), String> {
    if axes <= MAX_RANK { Ok(()) } else { Err(format!("{axes} axes are more than {MAX_RANK}")) }
}

fn axis(axis: usize, rank: usize) -> Result<(), String> {
    if axis < rank { Ok(()) } else { Err(format!("axis {axis} is none of {rank}")) }
}

fn integers(count: Dim) -> Fact {
    Fact::new(DType::I32, vec![count])
}

/// Whether two sizes are known and not the same.
pub(super) fn differ(a: &Dim, b: &Dim) -> bool {
    a.as_const().zip(b.as_const()).is_some_and(|(a, b)| a != b)
}

/// The shape that all of these have once axes of size 1 are repeated. A known size says more than an
/// expression, which a call has to agree with.
///
/// # Errors
/// Two known sizes that are neither the same nor 1.
pub fn broadcast(shapes: &[&[Dim]]) -> Result<Vec<Dim>, String> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let axis = |axis: usize| {
        let (mut known, mut open) = (Dim::Const(1), Vec::new());
        let at = |shape: &&[Dim]| (axis + shape.len()).checked_sub(rank);
        for size in shapes.iter().filter_map(|shape| shape.get(at(shape)?)) {
            match (size.as_const(), &known) {
                (None, _) => open.push(size),
                (Some(1), _) => {}
                (Some(n), Dim::Const(1)) => known = Dim::Const(n),
                (Some(n), known) if *known == Dim::Const(n) => {}
                (Some(n), known) => {
                    return Err(format!("sizes {known} and {n} do not go together"));
                }
            }
        }
        let open = if known == Dim::Const(1) { Dim::together(&open) } else { None };
        Ok(open.unwrap_or(known))
    };
    (0..rank).map(axis).collect()
}

fn map(p: &Map, inputs: &[Fact]) -> Result<Fact, String> {
    let shapes: Vec<&[Dim]> = inputs.iter().map(|f| f.shape.as_slice()).collect();
    let dtypes: Vec<DType> = inputs.iter().map(|f| f.dtype).collect();
    let types = p.types(&dtypes)?;
    let dtype = types.last().copied().ok_or("it has no steps")?;
    Ok(Fact::new(dtype, broadcast(&shapes)?))
}

impl Map {
    /// The type of each step's value.
    ///
    /// # Errors
    /// Steps that read what is not there yet, or what is not of their type; too many.
    pub fn types(&self, inputs: &[DType]) -> Result<Vec<DType>, String> {
        use DType::{F32, I32};
        if self.inputs != inputs.len() || self.inputs > Map::MAX_INPUTS {
            return Err(format!("{} inputs are out of range", self.inputs));
        }
        if self.steps.is_empty() || self.steps.len() > Map::MAX_STEPS {
            return Err(format!("{} steps are out of range", self.steps.len()));
        }
        let mut types: Vec<DType> = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            let of = |step: usize| {
                types.get(step).copied().ok_or_else(|| format!("step {at} reads step {step}"))
            };
            let dtype = match *step {
                MapStep::Input(i) => {
                    inputs.get(i).copied().ok_or_else(|| format!("there is no input {i}"))?
                }
                MapStep::Float(_) => F32,
                MapStep::Integer(_) => I32,
                MapStep::Unary(f, a) => {
                    let (takes, gives) = match f {
                        Unary::Neg | Unary::Abs | Unary::Sign => (of(a)?, of(a)?),
                        Unary::ToTruth => (of(a)?, I32),
                        Unary::Not => (I32, I32),
                        Unary::ToFloat => (I32, F32),
                        Unary::ToInteger | Unary::IsNan => (F32, I32),
                        _ => (F32, F32),
                    };
                    if of(a)? != takes {
                        return Err(format!("step {at} is {f:?} of another type"));
                    }
                    gives
                }
                MapStep::Binary(f, a, b) => {
                    let (a, b) = (of(a)?, of(b)?);
                    let fits = match f {
                        Binary::Pow => a == F32,
                        Binary::And | Binary::Or | Binary::Xor => a == I32,
                        _ => true,
                    };
                    if a != b || !fits {
                        return Err(format!("step {at} is {f:?} of other types"));
                    }
                    let truth = matches!(f, Binary::Eq | Binary::Lt | Binary::Le);
                    if truth { I32 } else { a }
                }
                MapStep::Select(c, a, b) => {
                    if of(c)? != I32 || of(a)? != of(b)? {
                        return Err(format!("step {at} selects from other types"));
                    }
                    of(a)?
                }
            };
            types.push(dtype);
        }
        Ok(types)
    }
}

fn mat_mul(p: &MatMul, a: &Fact, b: &Fact) -> Result<Fact, String> {
    floats(a)?;
    floats(b)?;
    if !p.scale.is_finite() {
        return Err(format!("scale {} is not finite", p.scale));
    }
    let ([batch_a @ .., m, ka], [batch_b @ .., x, y]) = (a.shape.as_slice(), b.shape.as_slice())
    else {
        return Err(format!("{a} and {b} are not matrices"));
    };
    let (kb, n) = if p.transposed { (y, x) } else { (x, y) };
    if differ(ka, kb) {
        return Err(format!("columns of {a} do not meet rows of {b}"));
    }
    let mut shape = broadcast(&[batch_a, batch_b])?;
    shape.extend([m.clone(), n.clone()]);
    Ok(Fact::new(DType::F32, shape))
}

fn reduce(p: &Reduce, x: &Fact) -> Result<Fact, String> {
    use Reduction::*;
    let ascending = p.axes.windows(2).all(|w| w[0] < w[1]);
    let Some(last) = p.axes.last().filter(|_| ascending) else {
        return Err(format!("axes {:?} are none, or not ascending", p.axes));
    };
    axis(*last, x.shape.len())?;
    let index = matches!(p.reduction, ArgMax | ArgMin);
    if index && p.axes.len() != 1 {
        return Err("an index is along one axis".into());
    }
    let integers = index || matches!(p.reduction, Sum | Prod | Max | Min);
    if x.dtype == DType::I32 && !integers {
        return Err(format!("{:?} is of floats, not of {x}", p.reduction));
    }
    let mut shape = x.shape.clone();
    p.axes.iter().for_each(|axis| shape[*axis] = Dim::Const(1));
    Ok(Fact::new(if index { DType::I32 } else { x.dtype }, shape))
}

fn reshape(p: &Reshape, x: &Fact) -> Result<Fact, String> {
    let to = Fact::new(x.dtype, p.shape.clone());
    let known = |shape: &[Dim]| -> Result<Option<u64>, String> {
        let sizes: Option<Vec<u64>> = shape.iter().map(Dim::as_const).collect();
        let product = |sizes: Vec<u64>| sizes.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        sizes.map(|s| product(s).ok_or_else(|| format!("{to} is too large"))).transpose()
    };
    if known(&p.shape)?.zip(known(&x.shape)?).is_some_and(|(a, b)| a != b) {
        return Err(format!("{x} has not the elements of {to}"));
    }
    Ok(to)
}

fn transpose(p: &Transpose, x: &Fact) -> Result<Fact, String> {
    let mut seen = p.order.clone();
    seen.sort_unstable();
    if !seen.into_iter().eq(0..x.shape.len()) {
        return Err(format!("order {:?} has not each axis of {x} once", p.order));
    }
    let shape = p.order.iter().map(|axis| x.shape[*axis].clone());
    Ok(Fact::new(x.dtype, shape.collect()))
}

fn expand(p: &Expand, x: &Fact) -> Result<Fact, String> {
    let wide = x.shape.len() <= p.shape.len();
    let aligned = || p.shape.iter().rev().zip(x.shape.iter().rev());
    if !wide || aligned().any(|(to, from)| *from != Dim::Const(1) && differ(to, from)) {
        return Err(format!("{x} does not repeat to {}", Fact::new(x.dtype, p.shape.clone())));
    }
    Ok(Fact::new(x.dtype, p.shape.clone()))
}

fn slice(p: &Slice, x: &Fact) -> Result<Fact, String> {
    axis(p.axis, x.shape.len())?;
    if p.step == 0 || p.step.unsigned_abs() > u64::from(u32::MAX) {
        return Err(format!("step {} is out of range", p.step));
    }
    let mut shape = x.shape.clone();
    shape[p.axis] = p.count.clone();
    Ok(Fact::new(x.dtype, shape))
}

fn concat(p: &Concat, inputs: &[Fact]) -> Result<Fact, String> {
    let Some((first, others)) = inputs.split_first().filter(|_| p.inputs == inputs.len()) else {
        return Err(format!("{} parts are out of range", p.inputs));
    };
    axis(p.axis, first.shape.len())?;
    let mut shape = first.shape.clone();
    for other in others {
        let ranks = other.dtype == first.dtype && other.shape.len() == shape.len();
        let sizes = shape.iter().zip(&other.shape).enumerate();
        if !ranks || sizes.into_iter().any(|(i, (a, b))| i != p.axis && differ(a, b)) {
            return Err(format!("{other} does not follow {first} along axis {}", p.axis));
        }
        let sum = std::mem::replace(&mut shape[p.axis], Dim::Const(0));
        shape[p.axis] = sum.plus(other.shape[p.axis].clone());
        if shape[p.axis].depth() > Dim::MAX_DEPTH {
            return Err(format!("the size of axis {} is too involved", p.axis));
        }
    }
    Ok(Fact::new(first.dtype, shape))
}

fn pad(p: &Pad, x: &Fact) -> Result<Fact, String> {
    let rank = x.shape.len();
    let sizes = p.before.iter().chain(&p.after);
    if p.before.len() != rank || p.after.len() != rank || sizes.into_iter().any(|n| *n > 1 << 30) {
        return Err(format!("{:?} and {:?} do not pad {x}", p.before, p.after));
    }
    let both = p.before.iter().zip(&p.after).map(|(before, after)| before + after);
    let shape = x.shape.iter().zip(both).map(|(d, more)| d.clone().plus(more));
    Ok(Fact::new(x.dtype, shape.collect()))
}

fn gather(p: &Gather, x: &Fact, indices: &Fact) -> Result<Fact, String> {
    axis(p.axis, x.shape.len())?;
    if indices.dtype != DType::I32 {
        return Err(format!("indices {indices} are not i32"));
    }
    let mut shape = x.shape.clone();
    shape.splice(p.axis..=p.axis, indices.shape.iter().cloned());
    Ok(Fact::new(x.dtype, shape))
}

fn gather_elements(p: &GatherElements, x: &Fact, indices: &Fact) -> Result<Fact, String> {
    axis(p.axis, x.shape.len())?;
    if indices.dtype != DType::I32 || indices.shape.len() != x.shape.len() {
        return Err(format!("indices {indices} are not i32 of the axes of {x}"));
    }
    Ok(Fact::new(x.dtype, indices.shape.clone()))
}

fn group_norm(p: &GroupNorm, inputs: &[Fact]) -> Result<Fact, String> {
    let x = &inputs[0];
    floats(x)?;
    let channels = x.shape.get(1..).and_then(|rest| rest.last()).and_then(known_size);
    let channels = channels.ok_or_else(|| format!("{x} has no known channels"))?;
    valid_eps(p.eps)?;
    if p.groups == 0 || !channels.is_multiple_of(p.groups) {
        return Err(format!("{} groups do not divide {channels} channels", p.groups));
    }
    for v in &inputs[1..] {
        vector(v, channels, "group norm's weight")?;
    }
    Ok(x.clone())
}

fn conv_transpose(p: &ConvTranspose2d, inputs: &[Fact]) -> Result<Fact, String> {
    let x = &inputs[0];
    floats(x)?;
    let [batch, height, width, channels] = x.shape.as_slice() else {
        return Err(format!("{x} is not images"));
    };
    let channels = known_size(channels).ok_or_else(|| format!("{x} has no known channels"))?;
    let (rows, k) = weight(&inputs[1])?;
    let taps = p.kernel[0].saturating_mul(p.kernel[1]);
    let sizes = [p.kernel, p.stride, p.dilation];
    let in_range = sizes.as_flattened().iter().all(|n| (1..=MAX_SIDE).contains(n))
        && p.padding.iter().chain(&p.output_padding).all(|n| *n <= MAX_SIDE);
    // The rows of the weight are the outputs of all taps, so that it is a linear's.
    if !in_range || !rows.is_multiple_of(taps.max(1)) || k != channels {
        return Err(format!("a kernel of {:?} is out of range or not {rows} x {k}", p.kernel));
    }
    let outputs = rows / taps;
    inputs.get(2).map_or(Ok(()), |bias| vector(bias, outputs, "bias"))?;
    let [above, left, below, right] = p.padding;
    let side = |axis: usize, size: &Dim, cut: usize| {
        let reach = (p.kernel[axis] - 1) * p.dilation[axis] + 1 + p.output_padding[axis];
        // (size - 1) stride + reach - cut
        let all = size.clone().times(p.stride[axis]).plus(reach.saturating_sub(p.stride[axis]));
        all.minus(p.stride[axis].saturating_sub(reach)).minus(cut)
    };
    let sizes = vec![batch.clone(), side(0, height, above + below), side(1, width, left + right)];
    Ok(with_channels(sizes, outputs))
}

fn resize(p: &Resize, x: &Fact) -> Result<Fact, String> {
    floats(x)?;
    let [batch, _, _, channels] = x.shape.as_slice() else {
        return Err(format!("{x} is not images"));
    };
    if p.scales.is_some_and(|s| s.iter().any(|s| !(s.is_finite() && *s > 0.0))) {
        return Err(format!("scales {:?} are not positive numbers", p.scales));
    }
    let [height, width] = p.sides.clone();
    Ok(Fact::new(DType::F32, vec![batch.clone(), height, width, channels.clone()]))
}

fn lstm(p: &Lstm, inputs: &[Fact]) -> Result<Fact, String> {
    inputs.iter().try_for_each(floats)?;
    let directions = p.reverse.len();
    let ([time, batch, k], Some([d, _, hidden])) =
        (inputs[0].shape.as_slice(), inputs.get(2).map(|r| r.shape.as_slice()))
    else {
        return Err(format!("{} is not a sequence", inputs[0]));
    };
    let hidden = known_size(hidden).filter(|h| *h <= 1 << 20);
    let (Some(h), 1..=2) = (hidden, directions) else {
        return Err(format!("{d} directions of unknown size"));
    };
    let known = |sizes: &[usize]| sizes.iter().map(|n| Dim::from(*n)).collect::<Vec<_>>();
    let w: Vec<Dim> = known(&[directions, 4 * h]).into_iter().chain([k.clone()]).collect();
    let mut wanted = vec![w, known(&[directions, 4 * h, h])];
    wanted.extend(p.bias.then(|| known(&[directions, 8 * h])));
    let state = vec![Dim::from(directions), batch.clone(), Dim::from(h)];
    wanted.extend(std::iter::repeat_n(state.clone(), if p.state { 2 } else { 0 }));
    for (input, wanted) in inputs[1..].iter().zip(&wanted) {
        let pairs = input.shape.iter().zip(wanted);
        if input.shape.len() != wanted.len() || pairs.into_iter().any(|(a, b)| differ(a, b)) {
            let wanted = Fact::new(DType::F32, wanted.clone());
            return Err(format!("{input} is not {wanted}"));
        }
    }
    let mut shape = vec![time.clone().plus(1u64)];
    shape.extend(state);
    Ok(Fact::new(DType::F32, shape))
}
