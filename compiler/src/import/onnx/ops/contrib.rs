//! Operators of ONNX Runtime's own domain, `com.microsoft`.

use limbeck_plan::{Activation, Binary, MapStep, NormKind, Unary};

use super::elementwise::{map, two};
use super::norm::over_last;
use super::products::{linear, scaled};
use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::constant::{Constant, elements};
use crate::import::onnx::importer::{Importer, Item};

pub(super) const TABLE: &[(&str, Operator)] = &[
    ("SimplifiedLayerNormalization", simplified),
    ("SkipSimplifiedLayerNormalization", |i, c| skip(i, c, NormKind::Rms)),
    ("SkipLayerNormalization", |i, c| skip(i, c, NormKind::Layer)),
    ("Gelu", |i, c| gelu(i, c, Activation::Gelu)),
    ("BiasGelu", |i, c| gelu(i, c, Activation::Gelu)),
    ("FastGelu", |i, c| gelu(i, c, Activation::GeluTanh)),
    ("QuickGelu", quick_gelu),
    ("FusedMatMul", fused_mat_mul),
    ("MatMulNBits", mat_mul_bits),
];

/// An RMS norm; ONNX Runtime has it in ONNX's own domain too.
pub(super) fn simplified(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (x, eps) = (call.get(0)?, call.node.float_or("epsilon", 1e-5)?);
    let rank = importer.rank(x);
    if super::axis(call.node.int_or("axis", -1)?, rank)? + 1 != rank {
        return Err(Error::unsupported("a norm over several axes"));
    }
    Ok(vec![over_last(importer, x, NormKind::Rms, eps, call.floats(1)?, None)?])
}

/// The norm of a sum, and the sum.
fn skip(importer: &mut Importer<'_>, call: &Call<'_>, kind: NormKind) -> Result<Vec<Item>> {
    let mut sum = two(importer, call.get(0)?, call.get(1)?, Binary::Add)?;
    // A layer norm has its bias before that of the sum.
    let (beta, bias) = match kind {
        NormKind::Layer => (call.floats(3)?, call.optional(4)),
        NormKind::Rms => (None, call.optional(3)),
    };
    if let Some(bias) = bias {
        sum = two(importer, &sum, bias, Binary::Add)?;
    }
    let eps = call.node.float_or("epsilon", 1e-12)?;
    let found = over_last(importer, &sum, kind, eps, call.floats(2)?, beta)?;
    let outputs = &call.node.proto.output;
    if outputs.iter().skip(1).take(2).any(|name| !name.is_empty()) {
        return Err(Error::unsupported("the mean or the deviation as an output"));
    }
    Ok(vec![found, sum.clone(), sum.clone(), sum])
}

fn gelu(importer: &mut Importer<'_>, call: &Call<'_>, f: Activation) -> Result<Vec<Item>> {
    let mut x = call.get(0)?.clone();
    if let Some(bias) = call.optional(1) {
        x = two(importer, &x, bias, Binary::Add)?;
    }
    let steps = vec![MapStep::Input(0), MapStep::Unary(Unary::Activation(f), 0)];
    Ok(vec![map(importer, &[&x], steps)?])
}

fn quick_gelu(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let steps = vec![
        MapStep::Input(0),
        MapStep::Float(call.node.float_or("alpha", 1.702)?),
        MapStep::Binary(Binary::Mul, 0, 1),
        MapStep::Unary(Unary::Activation(Activation::Sigmoid), 2),
        MapStep::Binary(Binary::Mul, 0, 3),
    ];
    Ok(vec![map(importer, &[call.get(0)?], steps)?])
}

fn fused_mat_mul(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let node = &call.node;
    if node.is_set("transBatchA")? || node.is_set("transBatchB")? {
        return Err(Error::unsupported("a batch that is not first"));
    }
    let turned = |importer: &Importer<'_>, item: &Item, name: &str| -> Result<Item> {
        let rank = importer.rank(item);
        if rank < 2 {
            return Err(Error::unsupported("a vector"));
        }
        let swap = |axis: usize| match axis {
            a if a + 1 == rank => rank - 2,
            a if a + 2 == rank => rank - 1,
            a => a,
        };
        let order: Vec<usize> = (0..rank).map(swap).collect();
        Ok(match item {
            _ if !node.is_set(name)? => item.clone(),
            Item::Constant(c) => Item::Constant(c.permuted(&order)),
            Item::Value(laid) => {
                let mut laid = laid.clone();
                laid.order.iter_mut().for_each(|axis| *axis = swap(*axis));
                Item::Value(laid)
            }
            item => item.clone(),
        })
    };
    let a = turned(importer, call.get(0)?, "transA")?;
    let b = turned(importer, call.get(1)?, "transB")?;
    Ok(vec![scaled(importer, &a, &b, node.float_or("alpha", 1.0)?)?])
}

/// A linear whose weight is in blocks of few bits. It becomes floats, and is packed as all are.
fn mat_mul_bits(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let node = &call.node;
    let size = |name: &str| -> Result<usize> {
        let found = node.int(name)?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        found.ok_or_else(|| Error::format(format!("attribute {name:?} is missing or not > 0")))
    };
    let (k, n, block) = (size("K")?, size("N")?, size("block_size")?);
    let bits = node.int_or("bits", 4)?;
    if !matches!(bits, 4 | 8) || call.optional(4).is_some() {
        return Err(Error::unsupported(format!("{bits} bits, or channels in another order")));
    }
    let blocks = k.div_ceil(block);
    let constant = |index: usize| match call.optional(index) {
        None => Ok(None),
        Some(Item::Constant(c)) => Ok(Some(c)),
        Some(_) => Err(Error::unsupported("a weight that is not constant")),
    };
    let of = |index: usize| -> Result<&Constant> {
        constant(index)?.ok_or_else(|| Error::format(format!("input {index} is missing")))
    };
    let (weight, scales) = (of(1)?.as_integers()?, of(2)?.as_floats()?);
    let per_byte = 8 / bits as usize;
    let block_bytes = block.div_ceil(per_byte);
    let count = n.checked_mul(blocks);
    let bytes = count.and_then(|c| c.checked_mul(block_bytes));
    if Some(scales.len()) != count || Some(weight.len()) != bytes {
        return Err(Error::format(format!("its weight is not {n} x {k} in blocks of {block}")));
    }
    let value = |bytes: &[i64], at: usize| -> f32 {
        let byte = bytes.get(at / per_byte).copied().unwrap_or(0);
        let shift = bits * (at % per_byte) as i64;
        ((byte >> shift) & ((1 << bits) - 1)) as f32
    };
    // Zero points are floats, or bits whose rows begin with a byte of their own.
    let zeros = constant(3)?;
    let zero_row = blocks.div_ceil(per_byte);
    if let Some(zeros) = zeros {
        let wanted = if zeros.is_float() { count } else { n.checked_mul(zero_row) };
        if Some(zeros.len()) != wanted {
            return Err(Error::format(format!("{} zero points of {n} x {blocks}", zeros.len())));
        }
    }
    let zero = |row: usize, at: usize| -> f32 {
        match zeros.map(|z| (z.as_floats(), z.as_integers())) {
            None => (1 << (bits - 1)) as f32,
            Some((Ok(floats), _)) => floats[row * blocks + at],
            Some((_, Ok(bytes))) => value(&bytes[row * zero_row..][..zero_row], at),
            Some(_) => 0.0,
        }
    };
    let mut floats = Vec::with_capacity(elements(&[n, k])?);
    for row in 0..n {
        for column in 0..k {
            let at = row * blocks + column / block;
            let bytes = &weight[at * block_bytes..][..block_bytes];
            floats.push((value(bytes, column % block) - zero(row, column / block)) * scales[at]);
        }
    }
    let weight = Constant::floats(vec![n, k], floats);
    Ok(vec![linear(importer, call.get(0)?, &weight, call.floats(5)?)?])
}
