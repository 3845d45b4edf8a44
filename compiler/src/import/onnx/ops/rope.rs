//! Rotary embeddings as ONNX Runtime has them.

use limbeck_plan::{Binary, Concat, DType, Dim, Gather, MapStep, Op, Range, Slice};

use super::elementwise::map;
use super::layout::{into_shape, with_axes};
use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::importer::{Importer, Item, plain};

pub(super) const TABLE: &[(&str, Operator)] = &[("RotaryEmbedding", rotary)];

/// `[batch, tokens, heads size]` or `[batch, heads, tokens, size]` with the first elements of each head
/// turned, by caches of cosines and sines `[positions, half]`.
fn rotary(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let node = &call.node;
    if node.float_or("scale", 1.0)? != 1.0 || node.is_set("is_packed_batching")? {
        return Err(Error::unsupported("a scale, or a batch without padding"));
    }
    let x = call.get(0)?;
    let half = match importer.shape(call.get(2)?).as_slice() {
        [_, half] => half.as_const().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0),
        _ => None,
    };
    let half = half.ok_or_else(|| Error::format("its cache is not of known columns"))?;
    let shape = importer.shape(x);
    let (heads_first, by_head) = match shape.as_slice() {
        [batch, tokens, all] => {
            let known = |name: &str| Ok(usize::try_from(node.int_or(name, 0)?).unwrap_or(0));
            let (heads, rotary): (Result<usize>, Result<usize>) =
                (known("num_heads"), known("rotary_embedding_dim"));
            let all = all.as_const().and_then(|n| usize::try_from(n).ok());
            let all = all.ok_or_else(|| Error::unsupported("heads of a size of the call"))?;
            let size = match (heads?, rotary?) {
                (0, 0) => 2 * half,
                (0, _) => return Err(Error::format("it turns a part and has no number of heads")),
                (heads, _) => all / heads,
            };
            if size == 0 || !all.is_multiple_of(size) {
                return Err(Error::format(format!("{all} columns are no heads of {size}")));
            }
            let dims = [batch.clone(), tokens.clone(), Dim::from(all / size), Dim::from(size)];
            (false, into_shape(importer, x, dims.to_vec())?)
        }
        [_, _, _, _] => (true, x.clone()),
        _ => return Err(Error::format("its input has neither three axes nor four")),
    };
    let places = importer.shape(&by_head);
    let size = places[3].as_const().and_then(|n| usize::try_from(n).ok());
    let size = size.filter(|n| *n >= 2 * half);
    let size = size.ok_or_else(|| Error::format("heads are smaller than what is turned"))?;
    let tokens = if heads_first { &places[2] } else { &places[1] };
    let ids = positions(importer, call.get(1)?, [&places[0], tokens])?;
    let mut turn = Vec::new();
    for cache in [call.get(2)?, call.get(3)?] {
        let rank = importer.rank(&ids) + 1;
        let operands = vec![importer.plain(cache)?, importer.plain(&ids)?];
        let rows = importer.apply(Op::Gather(Gather { axis: 0 }), operands, plain(rank))?;
        // Heads lie before or behind the tokens.
        let at = if heads_first { rank - 2 } else { rank - 1 };
        turn.push(with_axes(importer, &rows, &[at])?);
    }
    let interleaved = node.is_set("interleaved")?;
    let (start, step) = if interleaved { (1, 2) } else { (half, 1) };
    let a = part(importer, &by_head, (0, half, step))?;
    let b = part(importer, &by_head, (start, half, step))?;
    let rotated = |importer: &mut Importer<'_>, [x, y]: [&Item; 2], f: Binary| {
        let steps = vec![
            MapStep::Input(0),
            MapStep::Input(1),
            MapStep::Binary(Binary::Mul, 0, 1),
            MapStep::Input(2),
            MapStep::Input(3),
            MapStep::Binary(Binary::Mul, 3, 4),
            MapStep::Binary(f, 2, 5),
        ];
        map(importer, &[x, &turn[0], y, &turn[1]], steps)
    };
    let first = rotated(importer, [&a, &b], Binary::Sub)?;
    let second = rotated(importer, [&b, &a], Binary::Add)?;
    let mut parts = vec![first, second];
    if interleaved {
        let apart = [with_axes(importer, &parts[0], &[4])?, with_axes(importer, &parts[1], &[4])?];
        let pairs = joined(importer, &apart, 4)?;
        let mut dims = places.clone();
        dims[3] = Dim::from(2 * half);
        parts = vec![into_shape(importer, &pairs, dims)?];
    }
    if size > 2 * half {
        parts.push(part(importer, &by_head, (2 * half, size - 2 * half, 1))?);
    }
    let whole = joined(importer, &parts, 3)?;
    Ok(vec![if heads_first { whole } else { into_shape(importer, &whole, shape)? }])
}

/// Positions of tokens: given for each, or the first of them for all sequences.
fn positions(importer: &mut Importer<'_>, ids: &Item, [batch, tokens]: [&Dim; 2]) -> Result<Item> {
    let fact = importer.fact(ids);
    if fact.dtype != DType::I32 {
        return Err(Error::mismatch("positions are not integers"));
    }
    let fits = |have: &Dim, want: &Dim| {
        have.as_const().zip(want.as_const()).is_none_or(|(have, want)| have == want)
    };
    match fact.shape.as_slice() {
        [rows, columns]
            if fits(columns, tokens) && (*rows == Dim::Const(1) || fits(rows, batch)) =>
        {
            return Ok(ids.clone());
        }
        [one] if *one == Dim::Const(1) => {}
        _ => {
            let message = format!("positions {fact} are not those of {batch} x {tokens} tokens");
            return Err(Error::format(message));
        }
    }
    let op = Op::Range(Range { count: tokens.clone(), start: 0, step: 1 });
    let range = importer.laid(op, &[], plain(1))?;
    let steps = vec![MapStep::Input(0), MapStep::Input(1), MapStep::Binary(Binary::Add, 0, 1)];
    map(importer, &[&range, ids], steps)
}

/// Every `step`-th of the last axis, `count` of them.
fn part(
    importer: &mut Importer<'_>,
    item: &Item,
    (start, count, step): (usize, usize, i64),
) -> Result<Item> {
    let operand = importer.plain(item)?;
    let (start, count) = (Dim::from(start), Dim::from(count));
    let op = Op::Slice(Slice { axis: 3, start, count, step });
    importer.apply(op, vec![operand], plain(4))
}

fn joined(importer: &mut Importer<'_>, items: &[Item], axis: usize) -> Result<Item> {
    if let [one] = items {
        return Ok(one.clone());
    }
    let operands = items.iter().map(|item| importer.plain(item)).collect::<Result<Vec<_>>>()?;
    let op = Op::Concat(Concat { inputs: operands.len(), axis });
    importer.apply(op, operands, plain(axis + 1))
}
