//! Operators that take tensors apart and put them together.

use limbeck_plan::{
    Concat, DType, Dim, Embedding, Gather, GatherElements, Op, Pad, Padding, Slice,
};

use super::layout::without;
use super::{Call, Operator, axis};
use crate::error::{Error, Result};
use crate::import::onnx::constant::{Constant, Data};
use crate::import::onnx::importer::{Importer, Item, plain};
use crate::import::onnx::sizes::{Size, Sizes};

/// Integers that are put together as sizes: more are elements.
const MAX_SIZES: usize = 1 << 10;

pub(super) const TABLE: &[(&str, Operator)] = &[
    ("Concat", concat),
    ("Split", split),
    ("Slice", slice),
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("Pad", pad),
];

fn concat(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let items = (0..call.inputs.len()).map(|i| call.get(i)).collect::<Result<Vec<_>>>()?;
    let sizes = |item: &&Item| match item {
        Item::Constant(c) => Sizes::of(c).filter(|s| !s.scalar),
        Item::Sizes(sizes) => Some(sizes.clone()).filter(|s| !s.scalar),
        Item::Value(_) => None,
    };
    let parts = items.iter().map(sizes).collect::<Option<Vec<_>>>();
    let few = |parts: &Vec<Sizes>| parts.iter().map(|s| s.values.len()).sum::<usize>() <= MAX_SIZES;
    if let Some(parts) = parts.filter(few) {
        let values = parts.into_iter().flat_map(|s| s.values).collect();
        let found = Sizes { scalar: false, values };
        return Ok(vec![found.known().map_or(Item::Sizes(found), Item::Constant)]);
    }
    // What has no elements adds none.
    let full = |item: &&&Item| !matches!(item, Item::Constant(c) if c.len() == 0);
    let items: Vec<&Item> = items.iter().filter(full).copied().collect();
    let Some(first) = items.first() else {
        return Err(Error::unsupported("a concatenation of nothing"));
    };
    if items.len() == 1 {
        return Ok(vec![(*first).clone()]);
    }
    let rank = importer.rank(first);
    let given = call.node.int("axis")?.ok_or_else(|| Error::format("it has no axis"))?;
    let along = axis(given, rank)?;
    let mut orders = items.iter().map(|item| importer.order(item));
    let order = orders.find(|o| o.len() == rank && !o.is_sorted()).unwrap_or_else(|| plain(rank));
    let place = order.iter().position(|a| *a == along).unwrap_or(along);
    let mut operands = Vec::new();
    for item in &items {
        if importer.rank(item) != rank {
            return Err(Error::format("its inputs have not the same number of axes"));
        }
        operands.push(importer.operand(item, &order)?);
    }
    let op = Op::Concat(Concat { inputs: operands.len(), axis: place });
    Ok(vec![importer.apply(op, operands, order)?])
}

/// `count` elements along an axis, every `step`-th from `start` on.
fn part(
    importer: &mut Importer<'_>,
    item: &Item,
    along: usize,
    (start, count, step): (Dim, Dim, i64),
) -> Result<Item> {
    let order = importer.order(item);
    let place = order.iter().position(|a| *a == along).unwrap_or(along);
    if importer.shape(item).get(along) == Some(&count) && start == Dim::Const(0) && step == 1 {
        return Ok(item.clone());
    }
    let operand = importer.operand(item, &order)?;
    let op = Op::Slice(Slice { axis: place, start, count, step });
    importer.apply(op, vec![operand], order)
}

fn split(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let shape = importer.shape(item);
    let along = axis(call.node.int_or("axis", 0)?, shape.len())?;
    let parts = call.node.proto.output.len();
    let counts: Vec<Dim> = match call.integers_or("split", 1)? {
        Some(counts) => {
            let known = counts.into_iter().map(|n| u64::try_from(n).map(Dim::Const));
            let known = known.collect::<std::result::Result<Vec<_>, _>>();
            let known = known.map_err(|_| Error::format("a part is negative"))?;
            let sum = known.iter().cloned().fold(Dim::Const(0), Dim::plus);
            if sum.as_const().zip(shape[along].as_const()).is_some_and(|(a, b)| a != b) {
                let message = format!("parts of {sum} are not the axis of {}", shape[along]);
                return Err(Error::format(message));
            }
            known
        }
        None => {
            let whole = shape[along].as_const().filter(|_| parts > 0);
            let whole = whole.ok_or_else(|| Error::unsupported("a size of the call is split"))?;
            // All as large as the first but the last.
            let each = whole.div_ceil(parts as u64);
            let left = |i: u64| whole.saturating_sub(i * each).min(each);
            (0..parts as u64).map(|i| Dim::Const(left(i))).collect()
        }
    };
    let mut start = Dim::Const(0);
    let mut found = Vec::new();
    for count in counts {
        let next = start.clone().plus(count.clone());
        found.push(part(importer, item, along, (start, count, 1))?);
        start = next;
    }
    Ok(found)
}

fn slice(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let mut item = call.get(0)?.clone();
    let need = |index: usize| -> Result<Vec<Size>> {
        call.sizes(index)?.ok_or_else(|| Error::format(format!("input {index} is missing")))
    };
    let (starts, ends) = (need(1)?, need(2)?);
    let rank = importer.rank(&item);
    let along = call.integers(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.integers(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || along.len() != starts.len() || steps.len() != starts.len() {
        return Err(Error::format("starts, ends, axes and steps are not as many"));
    }
    if let (Item::Sizes(sizes), [Size::Known(start)], [Size::Known(end)], [step]) =
        (&item, &starts[..], &ends[..], &steps[..])
    {
        let n = sizes.values.len() as i64;
        let (start, count) = known_part(*start, *end, *step, n)?;
        let at = |i: i64| sizes.values.get((start + i * step) as usize).cloned();
        let values = (0..count).filter_map(at).collect();
        let found = Sizes { scalar: false, values };
        return Ok(vec![found.known().map_or(Item::Sizes(found), Item::Constant)]);
    }
    for (((start, end), along), step) in starts.iter().zip(&ends).zip(along).zip(steps) {
        let along = axis(along, rank)?;
        let size = Size::from(&importer.shape(&item)[along]);
        let chosen = match (start, end, &size) {
            (Size::Known(start), Size::Known(end), Size::Known(n)) => {
                let (start, count) = known_part(*start, *end, step, *n)?;
                (Dim::Const(start as u64), Dim::Const(count as u64), step)
            }
            _ => open_part(start, end, step, &size)?,
        };
        item = part(importer, &item, along, chosen)?;
    }
    Ok(vec![item])
}

/// The first index and how many, of an axis of `n`.
fn known_part(start: i64, end: i64, step: i64, n: i64) -> Result<(i64, i64)> {
    let from_end = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (start, end) = (from_end(start), from_end(end));
    let (start, reach) = match step {
        0 => return Err(Error::format("a slice steps by 0")),
        1.. => {
            let start = start.clamp(0, n);
            (start, end.clamp(0, n) - start)
        }
        _ => {
            // A start before the axis is its first place.
            let start = start.clamp(0, (n - 1).max(0)).min(n - 1);
            (start, start - end.clamp(-1, n - 1))
        }
    };
    let size = step.unsigned_abs();
    let count = if reach > 0 { (reach as u64).div_ceil(size) as i64 } else { 0 };
    Ok(if count == 0 { (0, 0) } else { (start, count) })
}

/// An end of a slice that is beyond every axis.
const FAR: i64 = 1 << 30;

/// The same where sizes of the call have a part in it.
fn open_part(start: &Size, end: &Size, step: i64, n: &Size) -> Result<(Dim, Dim, i64)> {
    let refuse = || Error::unsupported("a slice whose ends are not known well enough");
    if step < 0 {
        // The whole axis backwards is what exporters write.
        let whole = *start == Size::Known(-1) && matches!(end, Size::Known(e) if *e < -FAR);
        let n = n.dim().filter(|_| whole && step == -1).ok_or_else(refuse)?;
        return Ok((n.clone().minus(1u64), n, -1));
    }
    // The last of an axis: all of it where it has fewer.
    if let (Size::Known(last @ ..-1), Size::Known(FAR..), 1) = (start, end, step)
        && let Some(n) = n.dim()
    {
        let count = Size::Dim(n.clone()).least(&Size::Known(last.saturating_neg()));
        let count = count.and_then(|count| count.dim()).ok_or_else(refuse)?;
        return Ok((n.minus(count.clone()), count, 1));
    }
    let place = |v: &Size| -> Option<Size> {
        match v {
            Size::Known(v) if *v < 0 => n.plus(&Size::Known(*v)),
            // Beyond every size, and every size but this one.
            Size::Known(v) if *v >= FAR => Some(n.clone()),
            Size::Known(0) => Some(Size::Known(0)),
            v if v == n => Some(n.clone()),
            v => v.least(n),
        }
    };
    let (start, end) = (place(start).ok_or_else(refuse)?, place(end).ok_or_else(refuse)?);
    let count = end.minus(&start).and_then(|size| size.dim()).ok_or_else(refuse)?;
    let step = u64::try_from(step).ok().filter(|s| *s > 0).ok_or_else(refuse)?;
    let start = start.dim().ok_or_else(refuse)?;
    Ok((start, count.plus(step - 1).over(step), step as i64))
}

fn gather(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (data, indices) = (call.get(0)?, call.get(1)?);
    let rank = importer.rank(data);
    let along = axis(call.node.int_or("axis", 0)?, rank)?;
    if let Item::Constant(c) = indices
        && let ([], Data::I64(values)) = (c.shape.as_slice(), &c.data)
    {
        return Ok(vec![single(importer, data, along, values[0])?]);
    }
    if let (Item::Sizes(sizes), Item::Constant(c)) = (data, indices)
        && c.shape.len() < 2
    {
        let n = sizes.values.len() as i64;
        let at = |v: &i64| {
            let place = usize::try_from(if *v < 0 { v + n } else { *v }).ok()?;
            sizes.values.get(place).cloned()
        };
        let values: Option<Vec<Size>> = c.as_integers()?.iter().map(at).collect();
        let values = values.ok_or_else(|| Error::format("an index is out of range"))?;
        let found = Sizes { scalar: c.shape.is_empty(), values };
        return Ok(vec![found.known().map_or(Item::Sizes(found), Item::Constant)]);
    }
    if let (Item::Constant(table), 0, Item::Value(_)) = (data, along, indices)
        && let (Data::F32(values), [rows, _]) = (&table.data, table.shape.as_slice())
        && values.iter().all(|v| v.is_finite())
        && table.len() > 0
    {
        let ids = super::elementwise::from_end(importer, indices, &Dim::from(*rows))?;
        let ids = importer.plain_value(&ids)?;
        let table = importer.matrix(values.to_vec(), *rows);
        let out = importer.rank(indices) + 1;
        let op = Op::Embedding(Embedding { scale: 1.0 });
        return Ok(vec![importer.laid(op, &[ids, table], plain(out))?]);
    }
    let operands = vec![importer.plain(data)?, importer.plain(indices)?];
    let out = rank - 1 + importer.rank(indices);
    Ok(vec![importer.apply(Op::Gather(Gather { axis: along }), operands, plain(out))?])
}

/// The elements at one index, without the axis.
fn single(importer: &mut Importer<'_>, item: &Item, along: usize, at: i64) -> Result<Item> {
    if let Item::Sizes(sizes) = item {
        let n = sizes.values.len() as i64;
        let place = usize::try_from(if at < 0 { at + n } else { at }).ok();
        let found = place.and_then(|place| sizes.values.get(place)).cloned();
        let found = found.ok_or_else(|| Error::format(format!("index {at} is out of range")))?;
        let found = Sizes { scalar: true, values: vec![found] };
        return Ok(found.known().map_or(Item::Sizes(found), Item::Constant));
    }
    let size = importer.shape(item)[along].clone();
    let back = at.unsigned_abs();
    let start = match (at >= 0, size.as_const()) {
        (true, Some(n)) if back >= n => {
            return Err(Error::format(format!("index {at} is out of range")));
        }
        (false, Some(n)) if back > n => {
            return Err(Error::format(format!("index {at} is out of range")));
        }
        (true, _) => Dim::Const(back),
        (false, _) => size.minus(back),
    };
    let found = part(importer, item, along, (start, Dim::Const(1), 1))?;
    without(importer, &found, &[along])
}

fn gather_elements(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (data, indices) = (call.get(0)?, call.get(1)?);
    let rank = importer.rank(data);
    let along = axis(call.node.int_or("axis", 0)?, rank)?;
    let operands = vec![importer.plain(data)?, importer.plain(indices)?];
    let op = Op::GatherElements(GatherElements { axis: along });
    Ok(vec![importer.apply(op, operands, plain(rank))?])
}

/// Indices that name places along the leading axes: these are joined to one, whose index is computed.
fn gather_nd(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (data, indices) = (call.get(0)?, call.get(1)?);
    if call.node.int_or("batch_dims", 0)? != 0 {
        return Err(Error::unsupported("batch_dims that are not 0"));
    }
    let (shape, places) = (importer.shape(data), importer.shape(indices));
    let depth = places.last().and_then(Dim::as_const).and_then(|n| usize::try_from(n).ok());
    let depth = depth.filter(|n| (1..=shape.len()).contains(n));
    let depth = depth.ok_or_else(|| Error::format("indices of an unknown number of axes"))?;
    let last = places.len() - 1;
    let mut index: Option<Item> = None;
    for (i, size) in shape.iter().take(depth).enumerate() {
        let at = single(importer, indices, last, i as i64)?;
        let at = super::elementwise::from_end(importer, &at, size)?;
        index = Some(match index {
            None => at,
            Some(before) => super::elementwise::row(importer, &before, &at, size)?,
        });
    }
    let index = index.ok_or_else(|| Error::format("indices of no axis"))?;
    let joined = shape[..depth].iter().cloned().fold(Dim::Const(1), Dim::times);
    let dims = [joined].into_iter().chain(shape[depth..].iter().cloned()).collect();
    let data = super::layout::into_shape(importer, data, dims)?;
    let rank = importer.rank(&index) + importer.rank(&data) - 1;
    let operands = vec![importer.plain(&data)?, importer.plain(&index)?];
    Ok(vec![importer.apply(Op::Gather(Gather { axis: 0 }), operands, plain(rank))?])
}

fn pad(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let rank = importer.rank(item);
    let padding = match call.node.text_or("mode", "constant")? {
        "constant" => Padding::Constant,
        "edge" => Padding::Edge,
        "reflect" => Padding::Reflect,
        "wrap" => Padding::Wrap,
        other => return Err(Error::unsupported(format!("padding by {other:?}"))),
    };
    let pads = call.integers(1)?.ok_or_else(|| Error::format("it has no pads"))?;
    let along = match call.integers(3)? {
        Some(given) => given.iter().map(|a| axis(*a, rank)).collect::<Result<Vec<_>>>()?,
        None => plain(rank),
    };
    if pads.len() != 2 * along.len() {
        return Err(Error::format(format!("{} pads of {} axes", pads.len(), along.len())));
    }
    let value = match call.optional(2) {
        None => 0.0,
        Some(Item::Constant(Constant { data: Data::F32(v), .. })) if v.len() == 1 => v[0],
        Some(Item::Constant(Constant { data: Data::I64(v), .. })) if v.len() == 1 => v[0] as f32,
        Some(_) => return Err(Error::unsupported("padding with a value that is not constant")),
    };
    let mut item = item.clone();
    let (mut before, mut after) = (vec![0usize; rank], vec![0usize; rank]);
    for (i, along) in along.iter().enumerate() {
        for (sides, at) in [(&mut before, i), (&mut after, i + pads.len() / 2)] {
            match usize::try_from(pads[at]) {
                Ok(n) => sides[*along] = n,
                Err(_) => {
                    // Less than nothing is cut off.
                    let size = importer.shape(&item)[*along].clone();
                    let cut = pads[at].unsigned_abs();
                    let start = if at == i { Dim::Const(cut) } else { Dim::Const(0) };
                    item = part(importer, &item, *along, (start, size.minus(cut), 1))?;
                }
            }
        }
    }
    if before.iter().chain(&after).all(|n| *n == 0) {
        return Ok(vec![item]);
    }
    let order = importer.order(&item);
    let stored = |sides: &[usize]| order.iter().map(|axis| sides[*axis]).collect();
    let op = Op::Pad(Pad { padding, before: stored(&before), after: stored(&after), value });
    let operand = importer.operand(&item, &order)?;
    if importer.fact(&item).dtype == DType::I32 && value.abs() > (1 << 24) as f32 {
        return Err(Error::unsupported("padding integers with a value beyond 24 bits"));
    }
    Ok(vec![importer.apply(op, vec![operand], order)?])
}
