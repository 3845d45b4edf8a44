//! Operators that make tensors of sizes and constants.

use limbeck_plan::{DType, Dim, Expand, Op, Range};

use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::constant::{Constant, Data, elements};
use crate::import::onnx::importer::{Importer, Item, Operand, plain};
use crate::import::onnx::sizes::{Size, Sizes};

pub(super) const TABLE: &[(&str, Operator)] = &[
    ("Constant", constant),
    ("ConstantOfShape", filled),
    ("Shape", shape),
    ("Size", size),
    ("Range", range),
];

fn constant(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let node = &call.node;
    if let Some(tensor) = node.tensor("value", importer.external)? {
        return Ok(vec![Item::Constant(tensor)]);
    }
    let single = |v: f32| Constant::floats(Vec::new(), vec![v]);
    let found = if let Some(v) = node.int("value_int")? {
        Constant::integers(Vec::new(), vec![v])
    } else if let Some(v) = node.ints("value_ints")? {
        Constant::integers(vec![v.len()], v)
    } else if let Some(v) = node.floats("value_floats")? {
        Constant::floats(vec![v.len()], v)
    } else if node.proto.attribute.iter().any(|a| a.name == "value_float") {
        single(node.float_or("value_float", 0.0)?)
    } else {
        return Err(Error::unsupported("a constant of another kind than numbers"));
    };
    Ok(vec![Item::Constant(found)])
}

fn filled(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let value = call.node.tensor("value", importer.external)?;
    let value = value.unwrap_or_else(|| Constant::floats(vec![1], vec![0.0f32]));
    let value = value.reshaped(Vec::new())?;
    let sizes = call.sizes(0)?.ok_or_else(|| Error::format("it has no shape"))?;
    let shape = sizes.iter().map(Size::dim).collect::<Option<Vec<Dim>>>();
    let shape = shape.ok_or_else(|| Error::format("a size is negative"))?;
    let known: Option<Vec<usize>> =
        shape.iter().map(|d| d.as_const().and_then(|n| usize::try_from(n).ok())).collect();
    if let Some(known) = known
        && let count = elements(&known)?
        && count <= 1 << 16
    {
        let constant = match &value.data {
            Data::F32(v) => Constant::floats(known, vec![v[0]; count]),
            Data::I64(v) => Constant::integers(known, vec![v[0]; count]),
        };
        return Ok(vec![Item::Constant(constant)]);
    }
    let rank = shape.len();
    // As a value, so that it is filled when it runs.
    let value = importer.value(Operand::Constant(value.reshaped(vec![1])?))?;
    Ok(vec![importer.laid(Op::Expand(Expand { shape }), &[value], plain(rank))?])
}

fn shape(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let dims = importer.shape(call.get(0)?);
    let rank = dims.len() as i64;
    let place = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let start = place(call.node.int_or("start", 0)?);
    let end = place(call.node.int_or("end", rank)?);
    let values = dims.get(start..end.max(start)).unwrap_or_default().iter().map(Size::from);
    let found = Sizes { scalar: false, values: values.collect() };
    Ok(vec![found.known().map_or(Item::Sizes(found), Item::Constant)])
}

fn size(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let product = importer.shape(call.get(0)?).into_iter().fold(Dim::Const(1), Dim::times);
    let found = Sizes { scalar: true, values: vec![Size::from(&product)] };
    Ok(vec![found.known().map_or(Item::Sizes(found), Item::Constant)])
}

fn range(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    if importer.fact(call.get(0)?).dtype == DType::F32 {
        return floats(call);
    }
    let one = |index: usize| -> Result<Size> {
        let sizes = call.sizes(index)?.unwrap_or_default();
        sizes.into_iter().next().ok_or_else(|| Error::format(format!("input {index} is empty")))
    };
    let (start, limit, step) = (one(0)?, one(1)?, one(2)?);
    let (Size::Known(start), Size::Known(step)) = (&start, &step) else {
        return Err(Error::unsupported("a range that starts or steps by a size of the call"));
    };
    let count = match (&limit, *step) {
        (_, 0) => return Err(Error::format("a range steps by 0")),
        (Size::Known(limit), step) => {
            let count = u64::try_from(steps(*start, *limit, step));
            Dim::Const(count.map_err(|_| Error::format("a range is too long"))?)
        }
        (limit, step) => {
            let reach = limit.minus(&Size::Known(*start)).and_then(|s| s.dim());
            let step = u64::try_from(step).ok();
            let found = reach.zip(step).map(|(reach, step)| reach.plus(step - 1).over(step));
            found.ok_or_else(|| Error::unsupported("a range that goes down from a size"))?
        }
    };
    let narrow = |v: i64| i32::try_from(v).map_err(|_| Error::unsupported("a range is too large"));
    if let Some(count) = count.as_const().filter(|n| *n <= 1 << 16) {
        let values = (0..count as i64).map(|i| start.wrapping_add(i.wrapping_mul(*step)));
        let values: Vec<i64> = values.collect();
        return Ok(vec![Item::Constant(Constant::integers(vec![values.len()], values))]);
    }
    let op = Op::Range(Range { count, start: narrow(*start)?, step: narrow(*step)? });
    Ok(vec![importer.laid(op, &[], plain(1))?])
}

/// How many steps lie between two numbers, the first included.
fn steps(start: i64, limit: i64, step: i64) -> u128 {
    let reach = i128::from(limit) - i128::from(start);
    if reach.signum() == i128::from(step.signum()) {
        reach.unsigned_abs().div_ceil(step.unsigned_abs().into())
    } else {
        0
    }
}

fn floats(call: &Call<'_>) -> Result<Vec<Item>> {
    let one = |index: usize| -> Result<f32> {
        let found = call.floats(index)?.and_then(|v| v.first()).copied();
        found.ok_or_else(|| Error::format(format!("input {index} is empty")))
    };
    let (start, limit, step) = (one(0)?, one(1)?, one(2)?);
    let count = ((f64::from(limit) - f64::from(start)) / f64::from(step)).ceil();
    if count.is_nan() || count > f64::from(1 << 20) {
        return Err(Error::format(format!("a range of {count} elements")));
    }
    let values: Vec<f32> = (0..count as usize).map(|i| start + i as f32 * step).collect();
    Ok(vec![Item::Constant(Constant::floats(vec![values.len()], values))])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python's `range`.
    #[test]
    fn ranges_go_up_and_down() {
        for (start, limit, step, count) in [
            (0, 4, 2, 2),
            (0, 5, 2, 3),
            (0, -4, -2, 2),
            (0, -5, -2, 3),
            (5, 0, -1, 5),
            (0, 4, -1, 0),
            (3, 3, 1, 0),
            (i64::MIN, i64::MAX, 1, u128::from(u64::MAX)),
        ] {
            assert_eq!(steps(start, limit, step), count, "{start} {limit} {step}");
        }
    }
}
