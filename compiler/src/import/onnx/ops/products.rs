//! Matrix products.

use std::collections::BTreeMap;

use limbeck_plan::{Activation, Binary, DType, Dim, Linear, MapStep, MatMul, Op};

use super::elementwise::{map, two};
use super::layout::known_axis;
use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::constant::Constant;
use crate::import::onnx::importer::{Importer, Item, plain};

pub(super) const TABLE: &[(&str, Operator)] =
    &[("MatMul", mat_mul), ("Gemm", gemm), ("Einsum", einsum)];

fn mat_mul(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    Ok(vec![product(importer, call.get(0)?, call.get(1)?)?])
}

fn refuse_integers(importer: &Importer<'_>, factors: [&Item; 2]) -> Result<()> {
    match factors.iter().all(|item| importer.fact(item).dtype == DType::F32) {
        true => Ok(()),
        false => Err(Error::unsupported("a product of integers")),
    }
}

/// A product as numpy has it: vectors are matrices of one row or one column.
pub(super) fn product(importer: &mut Importer<'_>, a: &Item, b: &Item) -> Result<Item> {
    refuse_integers(importer, [a, b])?;
    let (rank_a, rank_b) = (importer.rank(a), importer.rank(b));
    if rank_a == 0 || rank_b == 0 {
        return Err(Error::format("a product of a number"));
    }
    if let (Item::Constant(b), Item::Value(_), true) = (b, a, rank_b == 2) {
        return linear(importer, a, &b.permuted(&[1, 0]), None);
    }
    if rank_b == 1 {
        let b = super::layout::with_axes(importer, b, &[1])?;
        let found = product(importer, a, &b)?;
        let last = importer.rank(&found) - 1;
        return super::layout::without(importer, &found, &[last]);
    }
    if rank_a == 1 {
        let a = super::layout::with_axes(importer, a, &[0])?;
        let found = product(importer, &a, b)?;
        let at = importer.rank(&found) - 2;
        return super::layout::without(importer, &found, &[at]);
    }
    scaled(importer, a, b, 1.0)
}

/// A product of tensors of matrices.
pub(super) fn scaled(importer: &mut Importer<'_>, a: &Item, b: &Item, scale: f32) -> Result<Item> {
    let (rank_a, rank_b) = (importer.rank(a), importer.rank(b));
    let mut order = plain(rank_b);
    // Where the axis that is summed over lies last, it stays there.
    let transposed = matches!(b, Item::Value(b) if b.order.last() == Some(&(rank_b - 2)));
    if transposed {
        order.swap(rank_b - 1, rank_b - 2);
    }
    let operands = vec![importer.plain(a)?, importer.operand(b, &order)?];
    let rank = rank_a.max(rank_b);
    importer.apply(Op::MatMul(MatMul { transposed, scale }), operands, plain(rank))
}

/// A linear: `weight [outputs, inputs]`. Only the last axis of the input need be stored last.
pub(super) fn linear(
    importer: &mut Importer<'_>,
    x: &Item,
    weight: &Constant,
    bias: Option<&[f32]>,
) -> Result<Item> {
    let [rows, cols] = weight.shape[..] else {
        return Err(Error::format("a weight is not a matrix"));
    };
    let last = importer.rank(x).checked_sub(1);
    let last = last.ok_or_else(|| Error::format("a scalar does not meet a weight"))?;
    if let Item::Constant(_) = x {
        let found = scaled(importer, x, &Item::Constant(weight.permuted(&[1, 0])), 1.0)?;
        let Some(bias) = bias else { return Ok(found) };
        let bias = Item::Constant(Constant::floats(vec![rows], bias.to_vec()));
        return two(importer, &found, &bias, Binary::Add);
    }
    let x = &known_axis(importer, x, last, cols)?;
    if importer.shape(x)[last].as_const().is_some_and(|n| n != cols as u64) {
        let shape = importer.fact(x);
        return Err(Error::format(format!("{shape} does not meet a weight of {cols} inputs")));
    }
    if weight.len() == 0 {
        return Err(Error::unsupported("a weight without elements"));
    }
    let mut order = importer.order(x);
    order.retain(|axis| *axis != last);
    order.push(last);
    let operand = importer.operand(x, &order)?;
    let x = importer.value(operand)?;
    let mut inputs = vec![x, importer.matrix(weight.as_floats()?.to_vec(), rows)];
    if let Some(bias) = bias {
        inputs.push(importer.matrix(bias.to_vec(), 1));
    }
    let op = Op::Linear(Linear {
        bias: bias.is_some(),
        activation: Activation::Identity,
        gated: false,
        residual: false,
        factors: false,
        precise: false,
    });
    importer.laid(op, &inputs, order)
}

fn gemm(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let node = &call.node;
    let (alpha, beta) = (node.float_or("alpha", 1.0)?, node.float_or("beta", 1.0)?);
    let turn = |importer: &Importer<'_>, item: &Item, name: &str| -> Result<Item> {
        let turned = node.is_set(name)?;
        if importer.rank(item) != 2 {
            return Err(Error::format("an operand is not a matrix"));
        }
        Ok(match item {
            Item::Constant(c) if turned => Item::Constant(c.permuted(&[1, 0])),
            Item::Value(laid) if turned => {
                let mut laid = laid.clone();
                laid.order.iter_mut().for_each(|axis| *axis = 1 - *axis);
                Item::Value(laid)
            }
            item => item.clone(),
        })
    };
    refuse_integers(importer, [call.get(0)?, call.get(1)?])?;
    let a = turn(importer, call.get(0)?, "transA")?;
    let b = turn(importer, call.get(1)?, "transB")?;
    let times = |c: &Constant, by: f32| -> Result<Constant> {
        let values: Vec<f32> = c.as_floats()?.iter().map(|v| v * by).collect();
        Ok(Constant::floats(c.shape.clone(), values))
    };
    let added = call.optional(2);
    if let (Item::Value(_), Item::Constant(b)) = (&a, &b) {
        let weight = times(&b.permuted(&[1, 0]), alpha)?;
        let outputs = weight.shape[0];
        // A bias is a row, or one number for all.
        let bias = match added {
            Some(Item::Constant(c)) if c.shape.len() < 2 || c.shape[0] == 1 => {
                let c = times(c, beta)?;
                let values = c.as_floats()?;
                match values.len() {
                    1 => Some(vec![values[0]; outputs]),
                    n if n == outputs => Some(values.to_vec()),
                    n => return Err(Error::format(format!("{n} biases of {outputs} outputs"))),
                }
            }
            _ => None,
        };
        let found = linear(importer, &a, &weight, bias.as_deref())?;
        return match added.filter(|_| bias.is_none()) {
            None => Ok(vec![found]),
            Some(c) => Ok(vec![add_scaled(importer, &found, c, beta)?]),
        };
    }
    let found = scaled(importer, &a, &b, alpha)?;
    Ok(vec![match added {
        None => found,
        Some(c) => add_scaled(importer, &found, c, beta)?,
    }])
}

fn add_scaled(importer: &mut Importer<'_>, a: &Item, b: &Item, beta: f32) -> Result<Item> {
    if beta == 1.0 {
        return two(importer, a, b, Binary::Add);
    }
    let steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Float(beta),
        MapStep::Binary(Binary::Mul, 1, 2),
        MapStep::Binary(Binary::Add, 0, 3),
    ];
    map(importer, &[a, b], steps)
}

/// A sum of products over axes with letters: of two tensors, in which each letter comes once.
fn einsum(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let equation: String = call.node.text_or("equation", "")?.split_whitespace().collect();
    let refuse = || Error::unsupported(format!("the equation {equation:?}"));
    let (left, out) = equation.split_once("->").ok_or_else(refuse)?;
    let (a, b) = left.split_once(',').ok_or_else(refuse)?;
    let letters = |text: &str| -> Option<Vec<char>> {
        let found: Vec<char> = text.chars().collect();
        let once =
            found.iter().enumerate().all(|(i, c)| c.is_alphabetic() && !found[..i].contains(c));
        once.then_some(found)
    };
    let (Some(a), Some(b), Some(out)) = (letters(a), letters(b), letters(out)) else {
        return Err(refuse());
    };
    let (x, y) = (call.get(0)?.clone(), call.get(1)?.clone());
    if importer.rank(&x) != a.len() || importer.rank(&y) != b.len() {
        return Err(Error::format("the equation has not the axes of its inputs"));
    }
    let of = |from: &[char], f: &dyn Fn(&char) -> bool| -> Vec<char> {
        from.iter().copied().filter(|c| f(c)).collect()
    };
    let batch = of(&a, &|c| b.contains(c) && out.contains(c));
    let summed = of(&a, &|c| b.contains(c) && !out.contains(c));
    let rows = of(&a, &|c| !b.contains(c) && out.contains(c));
    let cols = of(&b, &|c| !a.contains(c) && out.contains(c));
    let known = a
        .iter()
        .chain(&b)
        .chain(&out)
        .all(|c| [&batch, &summed, &rows, &cols].iter().any(|group| group.contains(c)));
    if !known {
        return Err(refuse());
    }
    // [batch.., rows, summed] times [batch.., cols, summed], each group of letters as one axis.
    let (sizes_x, sizes_y) = (importer.shape(&x), importer.shape(&y));
    let mut common: BTreeMap<char, Dim> = BTreeMap::new();
    for (c, size) in a.iter().zip(&sizes_x).chain(b.iter().zip(&sizes_y)) {
        let before = common.get(c).cloned().unwrap_or(Dim::Const(1));
        let both = limbeck_plan::broadcast(&[&[before], std::slice::from_ref(size)]);
        common.extend(both.map_err(Error::format)?.into_iter().map(|size| (*c, size)));
    }
    let dim = |c: &char| common.get(c).cloned().unwrap_or(Dim::Const(1));
    let joined = |group: &[char]| group.iter().map(dim).fold(Dim::Const(1), Dim::times);
    let x = turned(&x, &a, &[&batch, &rows, &summed].map(|v| v.as_slice()))?;
    let y = turned(&y, &b, &[&batch, &summed, &cols].map(|v| v.as_slice()))?;
    let x = flat(importer, &x, batch.len(), [joined(&rows), joined(&summed)])?;
    let y = flat(importer, &y, batch.len(), [joined(&summed), joined(&cols)])?;
    let found = scaled(importer, &x, &y, 1.0)?;
    let order: Vec<char> = batch.iter().chain(&rows).chain(&cols).copied().collect();
    let dims: Vec<Dim> = order.iter().map(dim).collect();
    let found = super::layout::into_shape(importer, &found, dims)?;
    turned(&found, &order, &[&out]).map(|item| vec![item])
}

/// An item with its lettered axes in the order of groups; only the order of a value changes.
fn turned(item: &Item, letters: &[char], groups: &[&[char]]) -> Result<Item> {
    let to: Vec<char> = groups.iter().flat_map(|g| g.iter().copied()).collect();
    let place = |c: &char| letters.iter().position(|l| l == c);
    let turn: Option<Vec<usize>> = to.iter().map(place).collect();
    let turn = turn.ok_or_else(|| Error::format("a letter is missing"))?;
    Ok(match item {
        Item::Constant(c) => Item::Constant(c.permuted(&turn)),
        Item::Value(laid) => {
            let mut laid = laid.clone();
            let now = |axis: &usize| turn.iter().position(|t| t == axis).unwrap_or(0);
            laid.order = laid.order.iter().map(now).collect();
            Item::Value(laid)
        }
        item => item.clone(),
    })
}

/// The axes after the first `batch` as two.
fn flat(importer: &mut Importer<'_>, item: &Item, batch: usize, two: [Dim; 2]) -> Result<Item> {
    let shape = importer.shape(item);
    let dims: Vec<Dim> = shape[..batch].iter().cloned().chain(two).collect();
    if dims == shape {
        return Ok(item.clone());
    }
    super::layout::into_shape(importer, item, dims)
}
