//! Recurrent layers.

use limbeck_plan::{Concat, Dim, Lstm, Op, Slice};

use super::layout::without;
use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::importer::{Importer, Item, plain};

pub(super) const TABLE: &[(&str, Operator)] = &[("LSTM", lstm)];

fn lstm(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let node = &call.node;
    let reverse = match node.text_or("direction", "forward")? {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => return Err(Error::format(format!("the direction {other:?}"))),
    };
    let special = ["activations", "activation_alpha", "activation_beta", "clip"];
    let given = |name: &&str| node.proto.attribute.iter().any(|a| a.name == **name);
    if let Some(name) = special.iter().find(|name| given(name)) {
        return Err(Error::unsupported(format!("its attribute {name:?}")));
    }
    if node.is_set("input_forget")? || node.is_set("layout")? {
        return Err(Error::unsupported("coupled gates, or a batch that comes first"));
    }
    if call.optional(4).is_some() || call.optional(7).is_some() {
        return Err(Error::unsupported("lengths of sequences, or peepholes"));
    }
    let bias = call.optional(3);
    let state = match (call.optional(5), call.optional(6)) {
        (None, None) => None,
        (Some(h), Some(c)) => Some([h, c]),
        _ => return Err(Error::unsupported("one of two states")),
    };
    let items = [call.get(0)?, call.get(1)?, call.get(2)?];
    let items = items.into_iter().chain(bias).chain(state.into_iter().flatten());
    let operands = items.map(|item| importer.plain(item)).collect::<Result<Vec<_>>>()?;
    let op = Lstm { reverse: reverse.clone(), bias: bias.is_some(), state: state.is_some() };
    let all = importer.apply(Op::Lstm(op), operands, plain(4))?;
    let time = importer.shape(call.get(0)?)[0].clone();
    let rows = |importer: &mut Importer<'_>, item: &Item, axis, start, count| {
        let operand = importer.plain(item)?;
        let slice = Slice { axis, start, count, step: 1 };
        importer.apply(Op::Slice(slice), vec![operand], plain(4))
    };
    let hidden = rows(importer, &all, 0, Dim::Const(0), time.clone())?;
    let cells = rows(importer, &all, 0, time.clone(), Dim::Const(1))?;
    // Each direction ends where it went to.
    let mut ends = Vec::new();
    for (d, reverse) in reverse.iter().enumerate() {
        let step = if *reverse { Dim::Const(0) } else { time.clone().minus(1u64) };
        let last = rows(importer, &all, 0, step, Dim::Const(1))?;
        let last = rows(importer, &last, 1, Dim::from(d), Dim::Const(1))?;
        ends.push(importer.plain(&last)?);
    }
    let op = Op::Concat(Concat { inputs: ends.len(), axis: 1 });
    let last = importer.apply(op, ends, plain(4))?;
    let (last, cells) = (without(importer, &last, &[0])?, without(importer, &cells, &[0])?);
    Ok(vec![hidden, last, cells])
}
