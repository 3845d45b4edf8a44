//! Ops on tensors. Those that move elements have no second version.

use super::math;
use crate::error::Error;
use crate::images::{Images, seen};
use crate::packed::Packed;
use crate::pool::Pool;
use crate::tensors::{
    Attended, ConvTranspose2dArgs, Elements, ElementsMut, Extent, Layout, Operands, Parts,
    Products, Sides, TensorArg, TensorOut, check_shape, giver, image, place, run_moves,
};
use half::{bf16, f16};
use limbeck_plan::{
    Attend, AveragePool2d, Binary, DType, Dim, GroupNorm, Lstm, Map, MapStep, MatMul, Op, Reduce,
    Reduction, Resize, Softmax, Unary,
};

/// See [`crate::tensor`].
///
/// # Errors
/// As there.
pub fn tensor(
    op: &Op,
    sizes: &dyn Fn(&Dim) -> Option<usize>,
    inputs: &[TensorArg<'_>],
    mut out: TensorOut<'_>,
) -> Result<bool, Error> {
    let operands = Operands::new(inputs, &out)?;
    match op {
        Op::Map(p) => map(p, inputs, &mut out)?,
        Op::MatMul(p) => mat_mul(p, &operands, &mut out)?,
        Op::Reduce(p) if !matches!(p.reduction, Reduction::ArgMax | Reduction::ArgMin) => {
            reduce(p, operands.get(0)?, &mut out)?;
        }
        Op::Reduce(p) => crate::tensors::reduce_to_index(p, operands.get(0)?, &mut out)?,
        Op::Softmax(p) => softmax(p, operands.get(0)?, &mut out)?,
        Op::Attend(p) => attend(p, &operands, &mut out)?,
        Op::GroupNorm(p) => group_norm(p, &operands, &mut out)?,
        Op::AveragePool2d(p) => average_pool(p, operands.get(0)?, &mut out)?,
        Op::Resize(p) => resize(p, operands.get(0)?, &mut out)?,
        Op::Lstm(p) => lstm(p, &operands, &mut out)?,
        _ => return run_moves(&Pool::new(1), op, sizes, &operands, &mut out),
    }
    Ok(true)
}

/// The value of a step.
#[derive(Clone, Copy)]
enum Value {
    Float(f32),
    Integer(i32),
}

fn map(p: &Map, inputs: &[TensorArg<'_>], out: &mut TensorOut<'_>) -> Result<(), Error> {
    let types: Vec<DType> = inputs.iter().map(|x| x.data.dtype()).collect();
    p.types(&types).map_err(Error::shape)?;
    let layouts = inputs.iter().map(|x| Layout::broadcast(x.shape, out.shape));
    let layouts = layouts.collect::<Result<Vec<_>, _>>()?;
    let count: usize = out.shape.iter().product();
    for at in 0..count {
        let mut values: Vec<Value> = Vec::new();
        for step in &p.steps {
            values.push(match *step {
                MapStep::Input(i) => match inputs[i].data {
                    Elements::F32(x) => Value::Float(x[layouts[i].place(at)]),
                    Elements::I32(x) => Value::Integer(x[layouts[i].place(at)]),
                },
                MapStep::Float(v) => Value::Float(v),
                MapStep::Integer(v) => Value::Integer(v),
                MapStep::Unary(f, a) => unary(f, values[a]),
                MapStep::Binary(f, a, b) => binary(f, values[a], values[b]),
                MapStep::Select(c, a, b) => match values[c] {
                    Value::Integer(0) => values[b],
                    _ => values[a],
                },
            });
        }
        match (&mut out.data, values.last()) {
            (ElementsMut::F32(out), Some(Value::Float(v))) => out[at] = *v,
            (ElementsMut::I32(out), Some(Value::Integer(v))) => out[at] = *v,
            _ => return Err(Error::shape("the result is of another type")),
        }
    }
    Ok(())
}

fn unary(f: Unary, a: Value) -> Value {
    use Value::{Float, Integer};
    match (f, a) {
        (Unary::ToFloat, Integer(a)) => Float(a as f32),
        (Unary::Neg, Integer(a)) => Integer(a.wrapping_neg()),
        (Unary::Abs, Integer(a)) => Integer(a.wrapping_abs()),
        (Unary::Sign, Integer(a)) => Integer(a.signum()),
        (Unary::Not, Integer(a)) => Integer(i32::from(a == 0)),
        (_, Integer(a)) => Integer(i32::from(a != 0)),
        (Unary::IsNan, Float(a)) => Integer(i32::from(a.is_nan())),
        (Unary::ToInteger, Float(a)) => Integer(a as i32),
        (Unary::ToTruth, Float(a)) => Integer(i32::from(a != 0.0)),
        (Unary::ToF16, Float(a)) => Float(f16::from_f32(a).to_f32()),
        (Unary::ToBf16, Float(a)) => Float(bf16::from_f32(a).to_f32()),
        (f, Float(v)) => {
            let a = f64::from(v);
            let y = match f {
                Unary::Neg => -a,
                Unary::Abs => a.abs(),
                Unary::Sign if a == 0.0 => a,
                Unary::Sign => a.signum(),
                Unary::Sqrt => a.sqrt(),
                Unary::Exp => a.exp(),
                Unary::Log => a.ln(),
                Unary::Reciprocal => 1.0 / a,
                Unary::Erf => math::erf(a),
                Unary::Sin => a.sin(),
                Unary::Cos => a.cos(),
                Unary::Floor => a.floor(),
                Unary::Ceil => a.ceil(),
                Unary::Round => a.round_ties_even(),
                Unary::Activation(f) => math::apply(f, a),
                _ => f64::NAN,
            };
            Float(y as f32)
        }
    }
}

fn binary(f: Binary, a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => {
            let (x, y) = (f64::from(a), f64::from(b));
            let either = || if a.is_nan() { x } else { y };
            let nan = a.is_nan() || b.is_nan();
            let v = match f {
                Binary::Eq => return Value::Integer(i32::from(a == b)),
                Binary::Lt => return Value::Integer(i32::from(a < b)),
                Binary::Le => return Value::Integer(i32::from(a <= b)),
                Binary::Add => x + y,
                Binary::Sub => x - y,
                Binary::Mul => x * y,
                Binary::Div => x / y,
                Binary::Mod => x - y * (x / y).floor(),
                Binary::Rem => x % y,
                Binary::Pow => x.powf(y),
                Binary::Min if nan => either(),
                Binary::Min => x.min(y),
                Binary::Max if nan => either(),
                Binary::Max => x.max(y),
                _ => f64::NAN,
            };
            Value::Float(v as f32)
        }
        (Value::Integer(a), Value::Integer(b)) => {
            let (x, y) = (i64::from(a), i64::from(b));
            let v = match f {
                Binary::Add => x + y,
                Binary::Sub => x - y,
                Binary::Mul => x * y,
                Binary::Div | Binary::Mod | Binary::Rem if y == 0 => 0,
                Binary::Div => x / y,
                Binary::Rem => x % y,
                Binary::Mod => x - y * (x as f64 / y as f64).floor() as i64,
                Binary::Min => x.min(y),
                Binary::Max => x.max(y),
                Binary::Eq => i64::from(x == y),
                Binary::Lt => i64::from(x < y),
                Binary::Le => i64::from(x <= y),
                Binary::And => i64::from(x != 0 && y != 0),
                Binary::Or => i64::from(x != 0 || y != 0),
                Binary::Xor => i64::from((x != 0) != (y != 0)),
                Binary::Pow => 0,
            };
            Value::Integer(v as i32)
        }
        _ => Value::Float(f32::NAN),
    }
}

fn mat_mul(p: &MatMul, operands: &Operands<'_>, out: &mut TensorOut<'_>) -> Result<(), Error> {
    let (a, b) = (operands.get(0)?, operands.get(1)?);
    let Products { sizes, batches, at_a, at_b } = Products::of(p, a.shape, b.shape, out.shape)?;
    let (m, k, n) = (sizes.m, sizes.k, sizes.n);
    let (a, b, out) = (a.floats()?, b.floats()?, out.floats()?);
    for batch in 0..batches {
        let (a, b) = (&a[at_a.place(batch) * m * k..], &b[at_b.place(batch) * k * n..]);
        for i in 0..m {
            for j in 0..n {
                let at = |l: usize| if p.transposed { j * k + l } else { l * n + j };
                let products = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[at(l)]));
                let sum = products.sum::<f64>() * f64::from(p.scale);
                out[(batch * m + i) * n + j] = sum as f32;
            }
        }
    }
    Ok(())
}

fn reduce(p: &Reduce, x: TensorArg<'_>, out: &mut TensorOut<'_>) -> Result<(), Error> {
    let Parts { kept, reduced, count } = Parts::of(p, x.shape, out.shape)?;
    let results: usize = out.shape.iter().product();
    for i in 0..results {
        let at = |j: usize| kept.place(i) + reduced.place(j);
        match (&mut out.data, x.data) {
            (ElementsMut::F32(out), Elements::F32(x)) => {
                let values = || (0..count).map(|j| f64::from(x[at(j)]));
                let nan = values().any(f64::is_nan);
                let v = match p.reduction {
                    Reduction::Max | Reduction::Min if nan => f64::NAN,
                    Reduction::Max => values().fold(f64::NEG_INFINITY, f64::max),
                    Reduction::Min => values().fold(f64::INFINITY, f64::min),
                    Reduction::Prod => values().product(),
                    Reduction::Mean => values().sum::<f64>() / count as f64,
                    Reduction::L1 => values().map(f64::abs).sum(),
                    Reduction::L2 => values().map(|v| v * v).sum::<f64>().sqrt(),
                    Reduction::SumSquares => values().map(|v| v * v).sum(),
                    _ => values().sum(),
                };
                out[i] = v as f32;
            }
            (ElementsMut::I32(out), Elements::I32(x)) => {
                let values = (0..count).map(|j| x[at(j)]);
                out[i] = match p.reduction {
                    Reduction::Max => values.max().unwrap_or(i32::MIN),
                    Reduction::Min => values.min().unwrap_or(i32::MAX),
                    Reduction::Prod => values.fold(1, i32::wrapping_mul),
                    _ => values.fold(0, i32::wrapping_add),
                };
            }
            _ => return Err(Error::shape("the result is of another type")),
        }
    }
    Ok(())
}

fn softmax(p: &Softmax, x: TensorArg<'_>, out: &mut TensorOut<'_>) -> Result<(), Error> {
    check_shape("the softmax", out.shape, x.shape)?;
    let cols = out.shape.last().copied().unwrap_or(0).max(1);
    let rows = x.floats()?.chunks_exact(cols);
    for (x, out) in rows.zip(out.floats()?.chunks_exact_mut(cols)) {
        let most = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(f64::from(*v)));
        let sum: f64 = x.iter().map(|v| (f64::from(*v) - most).exp()).sum();
        for (out, v) in out.iter_mut().zip(x) {
            let v = f64::from(*v) - most;
            *out = if p.log { v - sum.ln() } else { v.exp() / sum } as f32;
        }
    }
    Ok(())
}

fn attend(p: &Attend, operands: &Operands<'_>, out: &mut TensorOut<'_>) -> Result<(), Error> {
    let shape = Attended::of(p, operands, out.shape)?;
    let Attended { batches, m, k, n, width, .. } = shape;
    let [queries, keys, values] = [operands.get(0)?, operands.get(1)?, operands.get(2)?];
    let (queries, keys, values) = (queries.floats()?, keys.floats()?, values.floats()?);
    let out = out.floats()?;
    let mut mask = vec![0.0f32; n];
    for (batch, row) in (0..batches).flat_map(|batch| (0..m).map(move |row| (batch, row))) {
        let [q, k_at, v] = [0, 1, 2].map(|i| shape.at[i].place(batch));
        let q = &queries[(q * m + row) * k..][..k];
        shape.mask_of(batch, row, &mut mask);
        let score = |j: usize| {
            let key =
                |l: usize| keys[k_at * n * k + if p.keys_turned { l * n + j } else { j * k + l }];
            let products = q.iter().enumerate().map(|(l, a)| f64::from(*a) * f64::from(key(l)));
            products.sum::<f64>() * f64::from(p.scale) + f64::from(mask[j])
        };
        let scores: Vec<f64> = (0..n).map(score).collect();
        let most = scores.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v));
        let sum: f64 = scores.iter().map(|v| (v - most).exp()).sum();
        let weight = |v: &f64| match (v - most).exp() / sum {
            w if w.is_nan() && p.zero_nan => 0.0,
            w => w,
        };
        let weights: Vec<f64> = scores.iter().map(weight).collect();
        for c in 0..width {
            let at = |j: usize| if p.values_turned { c * n + j } else { j * width + c };
            let value = |j: usize| f64::from(values[v * n * width + at(j)]);
            let products = weights.iter().enumerate().map(|(j, w)| w * value(j));
            out[(batch * m + row) * width + c] = products.sum::<f64>() as f32;
        }
    }
    Ok(())
}

fn group_norm(
    p: &GroupNorm,
    operands: &Operands<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    let x = operands.get(0)?;
    check_shape("the group norm", out.shape, x.shape)?;
    let weight = operands.get(1)?.floats()?;
    let bias = operands.floats_if(p.bias, 2)?;
    let channels = weight.len();
    let fits = x.shape.len() > 1
        && x.shape.last() == Some(&channels)
        && bias.is_none_or(|b| b.len() == channels)
        && p.groups > 0
        && channels.is_multiple_of(p.groups);
    if !fits {
        return Err(Error::shape(format!("{:?} has no {channels} channels", x.shape)));
    }
    let (images, each) = (x.shape[0], channels / p.groups);
    let (x, out) = (x.floats()?, out.floats()?);
    let image = x.len().checked_div(images).unwrap_or(0);
    for first in (0..images).map(|i| i * image) {
        for group in 0..p.groups {
            let places: Vec<usize> =
                (first..first + image).filter(|i| (i - first) % channels / each == group).collect();
            let values = || places.iter().map(|i| f64::from(x[*i]));
            let mean = values().sum::<f64>() / places.len() as f64;
            let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / places.len() as f64;
            let root = (variance + f64::from(p.eps)).sqrt();
            for i in places {
                let channel = (i - first) % channels;
                let bias = bias.map_or(0.0, |b| f64::from(b[channel]));
                let v = (f64::from(x[i]) - mean) / root;
                let v = v * f64::from(weight[channel]) + bias;
                out[i] = math::apply(p.activation, v) as f32;
            }
        }
    }
    Ok(())
}

fn average_pool(p: &AveragePool2d, x: TensorArg<'_>, out: &mut TensorOut<'_>) -> Result<(), Error> {
    let [batch, height, width, channels] = image(x.shape)?;
    let window = p.window.over([height, width]);
    let x = x.floats()?;
    if x.is_empty() && batch > 0 {
        return Err(Error::shape("there is no image"));
    }
    let [down, across] = Images::of(&window, channels, x.len())?.out;
    check_shape("the means", out.shape, &[batch, down, across, channels])?;
    for (i, out) in out.floats()?.iter_mut().enumerate() {
        let (channel, i) = (i % channels, i / channels);
        let (at, line, image) = (i % across, i / across % down, i / across / down);
        let (top, lines) = seen(&window, 0, line);
        let (left, columns) = seen(&window, 1, at);
        let count = if p.count_padding { window.taps() } else { lines.len() * columns.len() };
        let mut sum = 0.0;
        for i in lines {
            for j in columns.clone() {
                let y = (top + (i * window.dilation[0]) as isize) as usize;
                let at = (left + (j * window.dilation[1]) as isize) as usize;
                sum += f64::from(x[((image * height + y) * width + at) * channels + channel]);
            }
        }
        *out = (sum / count as f64) as f32;
    }
    Ok(())
}

fn resize(p: &Resize, x: TensorArg<'_>, out: &mut TensorOut<'_>) -> Result<(), Error> {
    let [batch, height, width, channels] = image(x.shape)?;
    let [_, down, across, _] = image(out.shape)?;
    check_shape("the resized images", out.shape, &[batch, down, across, channels])?;
    let x = x.floats()?;
    if x.is_empty() && !out.floats()?.is_empty() {
        return Err(Error::shape("an image without pixels cannot be resized"));
    }
    for (i, out) in out.floats()?.iter_mut().enumerate() {
        let (channel, i) = (i % channels, i / channels);
        let image = i / across / down;
        let line = place(p, 0, i / across % down, height, down);
        let column = place(p, 1, i % across, width, across);
        let mut sum = 0.0;
        for (y, share) in [(line.first, 1.0 - line.share), (line.second, line.share)] {
            for (at, part) in [(column.first, 1.0 - column.share), (column.second, column.share)] {
                let v = x[((image * height + y) * width + at) * channels + channel];
                if share * part != 0.0 {
                    sum += f64::from(share) * f64::from(part) * f64::from(v);
                }
            }
        }
        *out = sum as f32;
    }
    Ok(())
}

fn lstm(p: &Lstm, operands: &Operands<'_>, out: &mut TensorOut<'_>) -> Result<(), Error> {
    let Extent { time, batch, inputs, hidden } = Extent::of(p, operands, out.shape)?;
    let x = operands.get(0)?.floats()?;
    let (w, r) = (operands.get(1)?.floats()?, operands.get(2)?.floats()?);
    let bias = operands.floats_if(p.bias, 3)?;
    let first = 3 + usize::from(p.bias);
    let h0 = operands.floats_if(p.state, first)?;
    let c0 = operands.floats_if(p.state, first + 1)?;
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (out, directions) = (out.floats()?, p.reverse.len());
    for d in 0..directions {
        for b in 0..batch {
            let at = (d * batch + b) * hidden;
            let start = |of: Option<&[f32]>| -> Vec<f64> {
                (0..hidden).map(|i| of.map_or(0.0, |v| f64::from(v[at + i]))).collect()
            };
            let (mut h, mut c) = (start(h0), start(c0));
            for step in 0..time {
                let t = if p.reverse[d] { time - 1 - step } else { step };
                let x = &x[(t * batch + b) * inputs..][..inputs];
                let gate = |g: usize, i: usize| -> f64 {
                    let row = d * 4 * hidden + g * hidden + i;
                    let w = w[row * inputs..][..inputs].iter().zip(x);
                    let r = r[row * hidden..][..hidden].iter().zip(&h);
                    let bias = bias.map_or(0.0, |b| {
                        let at = d * 8 * hidden + g * hidden + i;
                        f64::from(b[at]) + f64::from(b[at + 4 * hidden])
                    });
                    w.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>()
                        + r.map(|(r, h)| f64::from(*r) * h).sum::<f64>()
                        + bias
                };
                let next: Vec<(f64, f64)> = (0..hidden)
                    .map(|i| {
                        let c =
                            sigmoid(gate(2, i)) * c[i] + sigmoid(gate(0, i)) * gate(3, i).tanh();
                        (sigmoid(gate(1, i)) * c.tanh(), c)
                    })
                    .collect();
                (h, c) = next.into_iter().unzip();
                for (i, h) in h.iter().enumerate() {
                    out[t * directions * batch * hidden + at + i] = *h as f32;
                }
            }
            for (i, c) in c.iter().enumerate() {
                out[time * directions * batch * hidden + at + i] = *c as f32;
            }
        }
    }
    Ok(())
}

/// See [`crate::conv_transpose2d`].
///
/// # Errors
/// As there.
pub fn conv_transpose2d(args: ConvTranspose2dArgs<'_>) -> Result<(), Error> {
    let Sides { image: [height, width], out: [down, across], outputs } = args.check()?;
    let p = args.params;
    let weight = rows(&args.w)?;
    let channels = args.w.cols();
    for (i, out) in args.out.iter_mut().enumerate() {
        let (output, i) = (i % outputs, i / outputs);
        let (column, line, image) = (i % across, i / across % down, i / across / down);
        let mut sum = args.bias.map_or(0.0, |b| f64::from(b[output]));
        for tap in 0..p.kernel[0] * p.kernel[1] {
            let y = giver(p, 0, line, tap / p.kernel[1], height);
            let at = giver(p, 1, column, tap % p.kernel[1], width);
            let Some((y, at)) = y.zip(at) else { continue };
            let x = &args.x[((image * height + y) * width + at) * channels..][..channels];
            let w = &weight[(tap * outputs + output) * channels..][..channels];
            sum += x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
        }
        *out = sum as f32;
    }
    Ok(())
}

/// All rows of a weight.
fn rows(w: &Packed<'_>) -> Result<Vec<f32>, Error> {
    let mut values = vec![0.0; w.rows() * w.cols()];
    for (i, row) in values.chunks_exact_mut(w.cols()).enumerate() {
        w.unpack_row(i, row)?;
    }
    Ok(values)
}
