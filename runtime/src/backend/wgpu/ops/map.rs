//! Elementwise programs.

use limbeck_plan::{Binary, DType, Map, MapStep, Unary};

use super::tensors::{Operand, copy, count, repeated, sizes, strides, words, wrong};
use super::{LANES, number};
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::Shader;
use crate::error::Result;

/// Inputs that [`Shader::Map`] binds.
const INPUTS: usize = 6;

/// How many of so many inputs are bound as they lie: all, or all but one binding, which has the others.
fn bound(inputs: usize) -> usize {
    if inputs <= INPUTS { inputs } else { INPUTS - 1 }
}

/// Inputs that are put one after the other.
pub(in crate::backend::wgpu) fn gathered(inputs: usize) -> usize {
    inputs - bound(inputs)
}

pub(super) fn map(
    rec: &mut Recorder<'_>,
    p: &Map,
    given: &[Operand<'_>],
    out: &Operand<'_>,
) -> Result<()> {
    let types: Vec<DType> = given.iter().map(|x| x.dtype).collect();
    let types = p.types(&types).map_err(|e| wrong(&e))?;
    let count = count(out.shape);
    let mut all = vec![count as u32, p.steps.len() as u32, 0, 0];
    all.extend(sizes(out.shape));
    let (bound, more) = given.split_at(bound(given.len()));
    for i in 0..INPUTS {
        let steps = bound.get(i).map(|x| repeated(x.shape, out.shape.len()));
        all.extend(words(&steps.unwrap_or_default()));
    }
    // Those that no binding is left for, one after the other as the result has them.
    let gathered = Slice::whole(rec.buffers.hidden);
    for (i, x) in more.iter().enumerate() {
        let (from, to) = (repeated(x.shape, out.shape.len()), strides(out.shape));
        let target = Operand { slice: gathered.clone(), shape: out.shape, dtype: x.dtype };
        copy(rec, x, &target, out.shape, &from, &to, [0, (i * count) as i64])?;
    }
    let mut program = vec![0; 4 * Map::MAX_STEPS];
    for (step, words) in p.steps.iter().zip(program.chunks_exact_mut(4)) {
        let integers = |of: usize| types.get(of) == Some(&DType::I32);
        let found = match *step {
            MapStep::Input(i) if i >= bound.len() => [5, ((i - bound.len()) * count) as u32, 0, 0],
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
    let last = if more.is_empty() { &none } else { &gathered };
    let mut bindings: Vec<&Slice> =
        (0..INPUTS).map(|i| bound.get(i).map_or(last, |x| &x.slice)).collect();
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
        Unary::ToF16 => 106,
        Unary::ToBf16 => 107,
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
