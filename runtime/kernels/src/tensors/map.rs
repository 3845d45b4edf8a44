//! Elementwise computation. The elements of a result are cut into chunks that the first cache holds
//! with what is computed on the way, and each step goes over a chunk.

use super::{Layout, TensorArg, TensorOut};
use crate::elementwise::SharedRows;
use crate::error::Error;
use crate::math;
use crate::pool::Pool;
use crate::simd::{LANES, Simd};
use crate::table::Kernels;
use limbeck_plan::{Binary, DType, Map, MapStep, Unary};

/// Elements of a chunk.
const CHUNK: usize = 512;

/// The steps over one chunk. Values are the bits of floats or integers.
pub(crate) struct MapTask<'a> {
    steps: &'a [MapStep],
    /// Of each step's value.
    types: &'a [DType],
    /// By input.
    inputs: &'a [&'a [f32]],
    /// A chunk for each step.
    registers: &'a mut [f32],
    len: usize,
}

/// How an input's elements come to a chunk.
enum Source<'a> {
    /// As they lie.
    Direct(&'a [f32]),
    /// Gathered.
    Laid(&'a [u32], Layout),
}

pub(super) fn run(
    kernels: &Kernels,
    pool: &Pool,
    p: &Map,
    inputs: &[TensorArg<'_>],
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    let dtypes: Vec<DType> = inputs.iter().map(|x| x.data.dtype()).collect();
    let types = p.types(&dtypes).map_err(Error::shape)?;
    if types.last() != Some(&out.data.dtype()) {
        return Err(Error::shape("the result is of another type"));
    }
    let shape = out.shape;
    let sources = inputs.iter().map(|x| source(x, shape)).collect::<Result<Vec<_>, _>>()?;
    let words: &mut [f32] = bytemuck::cast_slice_mut(out.data.words());
    if words.is_empty() {
        return Ok(());
    }
    SharedRows::new(words).for_each_chunk(pool, CHUNK, |first, out| {
        let mut registers = vec![0.0f32; p.steps.len() * CHUNK];
        let mut gathered = vec![0.0f32; sources.len() * CHUNK];
        for (i, out) in out.chunks_mut(CHUNK).enumerate() {
            let (at, len) = (first + i * CHUNK, out.len());
            let chunks = sources.iter().zip(gathered.chunks_exact_mut(CHUNK));
            let mut taken = [&[][..]; Map::MAX_INPUTS];
            for (taken, (source, room)) in taken.iter_mut().zip(chunks) {
                *taken = match source {
                    Source::Direct(x) => &x[at..at + len],
                    Source::Laid(x, layout) => {
                        layout.copy(x, at, bytemuck::cast_slice_mut(&mut room[..len]));
                        &room[..len]
                    }
                };
            }
            let inputs = &taken[..sources.len()];
            let registers = &mut registers;
            kernels.map(&mut MapTask { steps: &p.steps, types: &types, inputs, registers, len });
            out.copy_from_slice(&registers[(p.steps.len() - 1) * CHUNK..][..len]);
        }
    });
    Ok(())
}

fn source<'a>(x: &TensorArg<'a>, shape: &[usize]) -> Result<Source<'a>, Error> {
    if x.shape == shape {
        return Ok(Source::Direct(x.data.buffer()));
    }
    Ok(Source::Laid(x.data.words(), Layout::broadcast(x.shape, shape)?))
}

/// The first register's place, and what lies before it.
fn split(registers: &mut [f32], at: usize, len: usize) -> (&[f32], &mut [f32]) {
    let (before, rest) = registers.split_at_mut(at * CHUNK);
    (before, &mut rest[..len])
}

#[inline(always)]
pub(crate) fn map_chunk<S: Simd>(s: S, task: &mut MapTask<'_>) {
    let len = task.len;
    for (at, step) in task.steps.iter().enumerate() {
        let (before, out) = split(task.registers, at, len);
        let of = |step: usize| &before[step * CHUNK..][..len];
        match *step {
            MapStep::Input(i) => out.copy_from_slice(task.inputs[i]),
            MapStep::Float(v) => out.fill(v),
            MapStep::Integer(v) => bytemuck::cast_slice_mut::<f32, i32>(out).fill(v),
            MapStep::Unary(f, a) => match task.types[a] {
                DType::F32 => unary(s, f, of(a), out),
                DType::I32 if f == Unary::ToFloat => each(integers(of(a)), out, |a| a as f32),
                DType::I32 => unary_integer(f, integers(of(a)), out),
            },
            MapStep::Binary(f, a, b) => match task.types[a] {
                DType::F32 => binary(f, of(a), of(b), out),
                DType::I32 => binary_integer(f, integers(of(a)), integers(of(b)), out),
            },
            MapStep::Select(c, a, b) => {
                let values =
                    integers(of(c)).iter().zip(integers(of(a)).iter().zip(integers(of(b))));
                let out = bytemuck::cast_slice_mut::<f32, i32>(out);
                out.iter_mut().zip(values).for_each(|(o, (c, (a, b)))| {
                    *o = if *c != 0 { *a } else { *b };
                });
            }
        }
    }
}

fn integers(x: &[f32]) -> &[i32] {
    bytemuck::cast_slice(x)
}

#[inline(always)]
fn each<A: Copy, O>(a: &[A], out: &mut [O], f: impl Fn(A) -> O) {
    out.iter_mut().zip(a).for_each(|(o, a)| *o = f(*a));
}

#[inline(always)]
fn pairs<A: Copy, O>(a: &[A], b: &[A], out: &mut [O], f: impl Fn(A, A) -> O) {
    out.iter_mut().zip(a.iter().zip(b)).for_each(|(o, (a, b))| *o = f(*a, *b));
}

/// A vector function of each element. Not a closure: what is called in one lacks the caller's
/// instruction set, and is not inlined.
macro_rules! lanes {
    ($s:ident, $a:ident, $out:ident, $v:ident => $y:expr) => {
        for at in (0..$out.len()).step_by(LANES) {
            let $v = $s.load_some($a, at);
            $s.store_some($out, at, $y);
        }
    };
}

#[inline(always)]
fn unary<S: Simd>(s: S, f: Unary, a: &[f32], out: &mut [f32]) {
    let truth = bytemuck::cast_slice_mut::<f32, i32>;
    match f {
        Unary::Neg => each(a, out, |a| -a),
        Unary::Abs => each(a, out, f32::abs),
        Unary::Sign => each(a, out, |a| if a == 0.0 || a.is_nan() { a } else { a.signum() }),
        Unary::Sqrt => each(a, out, f32::sqrt),
        Unary::Exp => lanes!(s, a, out, v => s.exp(v)),
        Unary::Log => each(a, out, f32::ln),
        Unary::Reciprocal => each(a, out, |a| 1.0 / a),
        Unary::Erf => lanes!(s, a, out, v => math::erf(s, v)),
        Unary::Sin => each(a, out, f32::sin),
        Unary::Cos => each(a, out, f32::cos),
        Unary::Floor => each(a, out, f32::floor),
        Unary::Ceil => each(a, out, f32::ceil),
        Unary::Round => each(a, out, f32::round_ties_even),
        Unary::IsNan => each(a, truth(out), |a| i32::from(a.is_nan())),
        Unary::ToInteger => each(a, truth(out), |a| a as i32),
        Unary::ToTruth => each(a, truth(out), |a| i32::from(a != 0.0)),
        Unary::ToF16 | Unary::ToBf16 => narrowed(f, a, out),
        Unary::Activation(f) => lanes!(s, a, out, v => math::apply(s, f, v)),
        // Of integers alone.
        Unary::Not | Unary::ToFloat => out.fill(f32::NAN),
    }
}

/// Rounds to floats of 16 bits: the same code for every instruction set.
#[inline(never)]
fn narrowed(f: Unary, a: &[f32], out: &mut [f32]) {
    match f {
        Unary::ToF16 => each(a, out, |a| {
            // A sum with a number so large that its last digit is the last one that is kept.
            let digit = (a.to_bits() >> 23 & 255).max(113) - 10;
            let large = f32::from_bits((digit + 23) << 23 | 1 << 22);
            let near = if a.abs() < 65520.0 { a + large - large } else { a * f32::INFINITY };
            near.abs().copysign(a)
        }),
        _ => each(a, out, |a| {
            let bits = a.to_bits();
            let near = f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000);
            if a.is_nan() { a } else { near }
        }),
    }
}

/// The same code for every instruction set: integers are few, but for those that become floats.
#[inline(never)]
fn unary_integer(f: Unary, a: &[i32], out: &mut [f32]) {
    let integers = bytemuck::cast_slice_mut::<f32, i32>;
    match f {
        Unary::Neg => each(a, integers(out), i32::wrapping_neg),
        Unary::Abs => each(a, integers(out), i32::wrapping_abs),
        Unary::Sign => each(a, integers(out), i32::signum),
        Unary::Not => each(a, integers(out), |a| i32::from(a == 0)),
        _ => each(a, integers(out), |a| i32::from(a != 0)),
    }
}

#[inline(always)]
fn binary(f: Binary, a: &[f32], b: &[f32], out: &mut [f32]) {
    let truth = bytemuck::cast_slice_mut::<f32, i32>;
    match f {
        Binary::Add => pairs(a, b, out, |a, b| a + b),
        Binary::Sub => pairs(a, b, out, |a, b| a - b),
        Binary::Mul => pairs(a, b, out, |a, b| a * b),
        Binary::Div => pairs(a, b, out, |a, b| a / b),
        Binary::Mod => pairs(a, b, out, |a, b| a - b * (a / b).floor()),
        Binary::Rem => pairs(a, b, out, |a, b| a % b),
        Binary::Pow => power(a, b, out),
        Binary::Min => pairs(a, b, out, |a, b| if a < b || a.is_nan() { a } else { b }),
        Binary::Max => pairs(a, b, out, |a, b| if a > b || a.is_nan() { a } else { b }),
        Binary::Eq => pairs(a, b, truth(out), |a, b| i32::from(a == b)),
        Binary::Lt => pairs(a, b, truth(out), |a, b| i32::from(a < b)),
        Binary::Le => pairs(a, b, truth(out), |a, b| i32::from(a <= b)),
        // Of integers alone.
        Binary::And | Binary::Or | Binary::Xor => out.fill(f32::NAN),
    }
}

/// Squares and roots, which are most, without the logarithm that others take.
#[inline(always)]
fn power(a: &[f32], b: &[f32], out: &mut [f32]) {
    let all = |v: f32| b.iter().all(|b| *b == v);
    if all(2.0) {
        each(a, out, |a| a * a);
    } else {
        pairs(a, b, out, |a, b| if b == 2.0 { a * a } else { a.powf(b) });
    }
}

/// The same code for every instruction set.
#[inline(never)]
fn binary_integer(f: Binary, a: &[i32], b: &[i32], out: &mut [f32]) {
    let out = bytemuck::cast_slice_mut::<f32, i32>(out);
    let floor = |a: i32, b: i32| {
        let rest = a.checked_rem(b).unwrap_or(0);
        if rest != 0 && (rest < 0) != (b < 0) { rest.wrapping_add(b) } else { rest }
    };
    match f {
        Binary::Add => pairs(a, b, out, i32::wrapping_add),
        Binary::Sub => pairs(a, b, out, i32::wrapping_sub),
        Binary::Mul => pairs(a, b, out, i32::wrapping_mul),
        Binary::Div => pairs(a, b, out, |a, b| if b == 0 { 0 } else { a.wrapping_div(b) }),
        Binary::Mod => pairs(a, b, out, floor),
        Binary::Rem => pairs(a, b, out, |a, b| a.checked_rem(b).unwrap_or(0)),
        Binary::Min => pairs(a, b, out, i32::min),
        Binary::Max => pairs(a, b, out, i32::max),
        Binary::Eq => pairs(a, b, out, |a, b| i32::from(a == b)),
        Binary::Lt => pairs(a, b, out, |a, b| i32::from(a < b)),
        Binary::Le => pairs(a, b, out, |a, b| i32::from(a <= b)),
        Binary::And => pairs(a, b, out, |a, b| i32::from(a != 0 && b != 0)),
        Binary::Or => pairs(a, b, out, |a, b| i32::from(a != 0 || b != 0)),
        Binary::Xor => pairs(a, b, out, |a, b| i32::from((a != 0) != (b != 0))),
        // Of floats alone.
        Binary::Pow => out.fill(0),
    }
}
