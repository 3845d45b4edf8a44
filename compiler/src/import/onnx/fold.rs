//! What is computed of constants when a model is compiled. Integers are 32 bits wide in a plan and 64 in a model:
//! what does not fit is not computed here.

use limbeck_graph::macs;
use limbeck_kernels::{Elements, ElementsMut, TensorArg, TensorOut, reference};
use limbeck_plan::{Binary, DType, Dim, Fact, Map, MapStep, Op, Reduction};

use super::constant::{Constant, Data, elements};
use super::importer::refused;
use crate::error::{Error, Result};

/// Elements of all constants that are computed.
const MAX_FOLDED: usize = 1 << 27;
/// Multiply-adds of all of them, but for a few of each element.
const MAX_WORK: u64 = 1 << 27;
/// Multiply-adds of an element that are not counted.
const FEW: u64 = 16;

/// What may be computed still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    elements: usize,
    work: u64,
}

impl Left {
    pub fn all() -> Left {
        Left { elements: MAX_FOLDED, work: MAX_WORK }
    }

    /// Takes what a result needs, if it is there.
    fn take(&mut self, elements: usize, work: u64) -> bool {
        let left = self.elements.checked_sub(elements).zip(self.work.checked_sub(work));
        left.map(|(elements, work)| *self = Left { elements, work }).is_some()
    }
}

/// Multiply-adds of an op that count.
fn work(op: &Op, inputs: &[Fact], result: &Fact) -> u64 {
    let given: Vec<&Fact> = inputs.iter().collect();
    let all = macs(op, &given, result).as_const().unwrap_or(u64::MAX);
    let size = |fact: &Fact| fact.shape.iter().cloned().fold(Dim::Const(1), Dim::times).as_const();
    let elements = given.into_iter().chain([result]).filter_map(size).fold(0, u64::saturating_add);
    if all > elements.saturating_mul(FEW) { all } else { 0 }
}

/// The result of an op on constants; `None` where it is not an op on tensors, or takes more than is left.
///
/// # Errors
/// Operands that do not fit; integers beyond 32 bits where the op does more than move them.
pub(super) fn fold(op: &Op, inputs: &[&Constant], left: &mut Left) -> Result<Option<Constant>> {
    let fact = |c: &&Constant| {
        let dtype = if c.is_float() { DType::F32 } else { DType::I32 };
        Fact::new(dtype, c.shape.iter().map(|n| Dim::from(*n)).collect())
    };
    let facts: Vec<Fact> = inputs.iter().map(fact).collect();
    let result = op.infer(&facts).map_err(|message| refused(op, facts.clone(), &message))?;
    let Some(result) = result.first() else { return Ok(None) };
    let shape: Option<Vec<usize>> = result.shape.iter().map(size).collect();
    let Some(shape) = shape else { return Ok(None) };
    let count = elements(&shape)?;
    // What a call would compute is computed once, but no model grows by it without bound.
    let given = inputs.iter().map(|c| c.len()).sum::<usize>();
    let large = count > 1 << 16 && count / 64 > given;
    if large || !left.take(count, work(op, &facts, result)) {
        return Ok(None);
    }
    if !inputs.iter().all(|c| is_narrow(c)) {
        return moved(op, inputs, &shape);
    }
    if overflows(op, inputs) {
        return Err(Error::unsupported("what it makes of constants may not fit 32 bits"));
    }
    let narrow = |v: &i64| *v as i32;
    let integers: Vec<Vec<i32>> = inputs
        .iter()
        .map(|c| c.as_integers().map_or_else(|_| Vec::new(), |v| v.iter().map(narrow).collect()))
        .collect();
    let arguments: Vec<TensorArg<'_>> = inputs
        .iter()
        .zip(&integers)
        .map(|(c, integers)| {
            let data = match &c.data {
                Data::F32(values) => Elements::F32(values),
                Data::I64(_) => Elements::I32(integers),
            };
            TensorArg { shape: &c.shape, data }
        })
        .collect();
    Ok(match result.dtype {
        DType::F32 => {
            let mut out = vec![0.0f32; count];
            let data = ElementsMut::F32(&mut out);
            let ran = reference::tensor(op, &size, &arguments, TensorOut { shape: &shape, data })?;
            ran.then(|| Constant::floats(shape, out))
        }
        DType::I32 => integers_of(op, &arguments, &shape)?.map(|out| {
            Constant::integers(shape, out.into_iter().map(i64::from).collect::<Vec<_>>())
        }),
    })
}

fn size(dim: &Dim) -> Option<usize> {
    dim.as_const().and_then(|n| usize::try_from(n).ok())
}

/// What an op makes of its operands, of integers.
fn integers_of(op: &Op, inputs: &[TensorArg<'_>], shape: &[usize]) -> Result<Option<Vec<i32>>> {
    let mut out = vec![0i32; elements(shape)?];
    let data = ElementsMut::I32(&mut out);
    let ran = reference::tensor(op, &size, inputs, TensorOut { shape, data })?;
    Ok(ran.then_some(out))
}

/// Whether it is of floats, or of integers that fit 32 bits.
fn is_narrow(constant: &Constant) -> bool {
    let fits = |v: &i64| i32::try_from(*v).is_ok();
    constant.as_integers().map_or(true, |values| values.iter().all(fits))
}

/// The result of an op that only moves integers of any width: it moves their numbers.
fn moved(op: &Op, inputs: &[&Constant], shape: &[usize]) -> Result<Option<Constant>> {
    let moves = matches!(
        op,
        Op::Reshape(_) | Op::Transpose(_) | Op::Expand(_) | Op::Slice(_) | Op::Concat(_)
    );
    let values: Result<Vec<&[i64]>> = inputs.iter().map(|c| c.as_integers()).collect();
    let (true, Ok(values)) = (moves, values) else {
        return Err(Error::unsupported("it computes with a constant that does not fit 32 bits"));
    };
    let values = values.concat();
    let count = i32::try_from(values.len());
    let count = count.map_err(|_| Error::unsupported("it moves too many wide integers"))?;
    let numbers: Vec<i32> = (0..count).collect();
    let mut rest = numbers.as_slice();
    let arguments: Vec<TensorArg<'_>> = inputs
        .iter()
        .map(|c| {
            let own;
            (own, rest) = rest.split_at(c.len());
            TensorArg { shape: &c.shape, data: Elements::I32(own) }
        })
        .collect();
    let Some(out) = integers_of(op, &arguments, shape)? else { return Ok(None) };
    let value = |number: &i32| usize::try_from(*number).ok().and_then(|n| values.get(n)).copied();
    let out: Option<Vec<i64>> = out.iter().map(value).collect();
    Ok(out.map(|out| Constant::integers(shape.to_vec(), out)))
}

/// Whether an op on integers may give what 32 bits do not hold.
fn overflows(op: &Op, inputs: &[&Constant]) -> bool {
    match op {
        Op::Map(map) => map_overflows(map, inputs),
        Op::Reduce(p) => inputs.first().and_then(|c| c.as_integers().ok()).is_some_and(|values| {
            let sizes = values.iter().map(|v| v.unsigned_abs() as f64);
            let most = match p.reduction {
                Reduction::Sum | Reduction::L1 => sizes.sum(),
                Reduction::SumSquares => sizes.map(|v| v * v).sum(),
                Reduction::Prod => sizes.map(|v| v.max(1.0)).product(),
                _ => 0.0,
            };
            most > f64::from(i32::MAX)
        }),
        Op::MatMul(_) => {
            let most = |c: &&Constant| {
                let values = c.as_integers().unwrap_or_default();
                values.iter().map(|v| v.unsigned_abs() as f64).fold(0.0, f64::max)
            };
            let depth = inputs.first().and_then(|c| c.shape.last()).copied().unwrap_or(1);
            inputs.iter().map(most).product::<f64>() * depth as f64 > f64::from(i32::MAX)
        }
        _ => false,
    }
}

/// The same, by the least and the largest value of each step; what comes of floats is not followed.
fn map_overflows(map: &Map, inputs: &[&Constant]) -> bool {
    type Range = Option<(i64, i64)>;
    let of = |values: &[i64]| -> Range { Some((*values.iter().min()?, *values.iter().max()?)) };
    let mut ranges: Vec<Range> = Vec::with_capacity(map.steps.len());
    for step in &map.steps {
        let at = |step: usize| ranges.get(step).copied().flatten();
        let range = match *step {
            MapStep::Input(i) => inputs.get(i).and_then(|c| of(c.as_integers().ok()?)),
            MapStep::Integer(v) => Some((v.into(), v.into())),
            MapStep::Binary(f, a, b) => at(a).zip(at(b)).and_then(|((a, b), (c, d))| match f {
                Binary::Add => Some((a + c, b + d)),
                Binary::Sub => Some((a - d, b - c)),
                Binary::Mul => of(&[a * c, a * d, b * c, b * d]),
                Binary::Min => Some((a.min(c), b.min(d))),
                Binary::Max => Some((a.max(c), b.max(d))),
                _ => None,
            }),
            MapStep::Select(_, a, b) => {
                at(a).zip(at(b)).map(|((a, b), (c, d))| (a.min(c), b.max(d)))
            }
            _ => None,
        };
        let fits = |v: i64| i32::try_from(v).is_ok();
        if range.is_some_and(|(least, most)| !fits(least) || !fits(most)) {
            return true;
        }
        ranges.push(range);
    }
    false
}

#[cfg(test)]
mod tests {
    use limbeck_plan::{Concat, Reshape};

    use super::*;

    fn integers(values: &[i64]) -> Constant {
        Constant::integers(vec![values.len()], values.to_vec())
    }

    fn map(f: Binary) -> Op {
        let steps = vec![MapStep::Input(0), MapStep::Input(1), MapStep::Binary(f, 0, 1)];
        Op::Map(Map { inputs: 2, steps })
    }

    fn folded(op: &Op, inputs: &[&Constant]) -> Result<Vec<i64>> {
        let found = fold(op, inputs, &mut Left::all())?.expect("a constant");
        found.as_integers().map(<[i64]>::to_vec)
    }

    #[test]
    fn wide_integers_are_moved_as_they_are() {
        let (a, b) = (integers(&[i64::MAX, 3]), integers(&[i64::MIN]));
        let concat = Op::Concat(Concat { inputs: 2, axis: 0 });
        assert_eq!(folded(&concat, &[&a, &b]).unwrap(), [i64::MAX, 3, i64::MIN]);
        let reshape = Op::Reshape(Reshape { shape: vec![Dim::Const(2), Dim::Const(1)] });
        assert_eq!(folded(&reshape, &[&a]).unwrap(), [i64::MAX, 3]);
    }

    #[test]
    fn what_32_bits_do_not_hold_is_not_computed() {
        let (a, b) = (integers(&[70_000, 2]), integers(&[-70_000, 5]));
        assert_eq!(folded(&map(Binary::Add), &[&a, &b]).unwrap(), [0, 7]);
        for (f, a, b) in [
            (Binary::Mul, &a, &b),
            (Binary::Sub, &integers(&[i32::MAX.into()]), &integers(&[-1])),
            (Binary::Add, &integers(&[i64::MAX]), &integers(&[0])),
            (Binary::Min, &integers(&[1 << 31]), &integers(&[5])),
        ] {
            let error = folded(&map(f), &[a, b]).unwrap_err().to_string();
            assert!(error.contains("fit 32 bits"), "{error}");
        }
    }
}
