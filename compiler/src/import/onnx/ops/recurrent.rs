//! Recurrent layers.

use limbeck_plan::{Binary, Concat, Dim, Lstm, MapStep, Op, Slice, Unary};

use super::elementwise::map;
use super::layout::{with_axes, without};
use super::products::linear;
use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::constant::Constant;
use crate::import::onnx::importer::{Importer, Item, plain};

pub(super) const TABLE: &[(&str, Operator)] = &[("LSTM", lstm), ("GRU", gru)];

fn lstm(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let node = &call.node;
    let reverse = directions(call)?;
    check_units(importer, call)?;
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

/// Compares the hidden units that a node says with those of its recurrence weights.
fn check_units(importer: &Importer<'_>, call: &Call<'_>) -> Result<()> {
    let Some(given) = call.node.int("hidden_size")? else { return Ok(()) };
    let shape = importer.shape(call.get(2)?);
    match shape.last().and_then(Dim::as_const) {
        Some(n) if i64::try_from(n) != Ok(given) => {
            let message = format!("hidden_size {given} is not that of its weights, {n}");
            Err(Error::format(message))
        }
        _ => Ok(()),
    }
}

/// Which way each direction goes: from the end where it is set.
fn directions(call: &Call<'_>) -> Result<Vec<bool>> {
    let special = ["activations", "activation_alpha", "activation_beta", "clip"];
    let given = |name: &&str| call.node.proto.attribute.iter().any(|a| a.name == **name);
    if let Some(name) = special.iter().find(|name| given(name)) {
        return Err(Error::unsupported(format!("its attribute {name:?}")));
    }
    match call.node.text_or("direction", "forward")? {
        "forward" => Ok(vec![false]),
        "reverse" => Ok(vec![true]),
        "bidirectional" => Ok(vec![false, true]),
        other => Err(Error::format(format!("the direction {other:?}"))),
    }
}

/// Steps that a GRU may have: each becomes ops of its own.
const MAX_STEPS: u64 = 64;

/// Weights of one direction of a GRU.
struct Gru {
    /// `[3 H, K]`, gates in the order update, reset, hidden.
    w: Constant,
    /// `[2 H, H]` and `[H, H]`.
    gates: Constant,
    hidden: Constant,
    /// `[3 H]`, `[2 H]` and `[H]`.
    of_w: Vec<f32>,
    of_gates: Vec<f32>,
    of_hidden: Vec<f32>,
    /// Hidden units.
    units: usize,
    /// The reset gate comes after the product.
    after: bool,
}

/// A gated recurrent unit over a known number of steps.
fn gru(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let reverse = directions(call)?;
    check_units(importer, call)?;
    if call.node.is_set("layout")? || call.optional(4).is_some() {
        return Err(Error::unsupported("a batch that comes first, or lengths of sequences"));
    }
    let x = call.get(0)?;
    let time = match importer.shape(x).as_slice() {
        [time, _, _] => time.as_const().filter(|n| (1..=MAX_STEPS).contains(n)),
        _ => return Err(Error::format("its input has not three axes")),
    };
    let time =
        time.ok_or_else(|| Error::unsupported("its steps are a size of the call, or many"))?;
    let mut steps: Vec<Vec<Item>> = vec![Vec::new(); time as usize];
    let mut ends = Vec::new();
    let count = reverse.len();
    for (d, reverse) in reverse.into_iter().enumerate() {
        let gru = Gru::read(call, d, count)?;
        let all = linear(importer, x, &gru.w, Some(&gru.of_w))?;
        let mut h = match call.optional(5) {
            Some(start) => {
                let one = part(importer, start, 0, (d, 1), 3)?;
                Some(without(importer, &one, &[0])?)
            }
            None => None,
        };
        let order: Vec<usize> = match reverse {
            true => (0..time as usize).rev().collect(),
            false => (0..time as usize).collect(),
        };
        for t in order {
            let now = part(importer, &all, 0, (t, 1), 3)?;
            let now = without(importer, &now, &[0])?;
            let next = gru.step(importer, &now, h.as_ref())?;
            steps[t].push(with_axes(importer, &next, &[0, 1])?);
            h = Some(next);
        }
        let last = h.ok_or_else(|| Error::format("it has no steps"))?;
        ends.push(with_axes(importer, &last, &[0])?);
    }
    let mut rows = Vec::with_capacity(steps.len());
    for step in steps {
        rows.push(joined(importer, &step, 1, 4)?);
    }
    Ok(vec![joined(importer, &rows, 0, 4)?, joined(importer, &ends, 0, 3)?])
}

/// Items one after the other along an axis.
fn joined(importer: &mut Importer<'_>, items: &[Item], axis: usize, rank: usize) -> Result<Item> {
    if let [one] = items {
        return Ok(one.clone());
    }
    let operands = items.iter().map(|item| importer.plain(item)).collect::<Result<Vec<_>>>()?;
    let op = Op::Concat(Concat { inputs: operands.len(), axis });
    importer.apply(op, operands, plain(rank))
}

/// Some elements along an axis.
fn part(
    importer: &mut Importer<'_>,
    item: &Item,
    axis: usize,
    (start, count): (usize, usize),
    rank: usize,
) -> Result<Item> {
    let operand = importer.plain(item)?;
    let slice = Slice { axis, start: Dim::from(start), count: Dim::from(count), step: 1 };
    importer.apply(Op::Slice(slice), vec![operand], plain(rank))
}

impl Gru {
    fn read(call: &Call<'_>, direction: usize, directions: usize) -> Result<Gru> {
        let constant = |index: usize| match call.get(index)? {
            Item::Constant(c) => Ok(c),
            _ => Err(Error::unsupported("weights that are not constant")),
        };
        let (w, r) = (constant(1)?, constant(2)?);
        let (&[d, rows, cols], &[_, _, units]) = (&w.shape[..], &r.shape[..]) else {
            return Err(Error::format("its weights have not three axes"));
        };
        if d != directions || r.shape != [d, rows, units] || rows != 3 * units || units == 0 {
            return Err(Error::format("its weights do not fit together"));
        }
        let of = |values: &[f32], first: usize, count: usize| {
            let found = values.get(first..first + count).map(<[f32]>::to_vec);
            found.ok_or_else(|| Error::format("its weights are too short"))
        };
        let biases = match call.optional(3) {
            Some(_) => constant(3)?.as_floats()?.to_vec(),
            None => vec![0.0; d * 2 * rows],
        };
        let (w, r) = (w.as_floats()?, r.as_floats()?);
        let (gates, base) = (2 * units, direction * rows * units);
        let bias = direction * 2 * rows;
        let matrix = |rows: usize, cols: usize, values| Constant::floats(vec![rows, cols], values);
        Ok(Gru {
            w: matrix(rows, cols, of(w, direction * rows * cols, rows * cols)?),
            gates: matrix(gates, units, of(r, base, gates * units)?),
            hidden: matrix(units, units, of(r, base + gates * units, units * units)?),
            of_w: of(&biases, bias, rows)?,
            of_gates: of(&biases, bias + rows, gates)?,
            of_hidden: of(&biases, bias + rows + gates, units)?,
            units,
            after: call.node.is_set("linear_before_reset")?,
        })
    }

    /// The next state `[batch, H]` of what a step's input gives, `[batch, 3 H]`.
    fn step(&self, importer: &mut Importer<'_>, now: &Item, h: Option<&Item>) -> Result<Item> {
        let row =
            |values: &[f32]| Item::Constant(Constant::floats(vec![values.len()], values.to_vec()));
        let units = self.units;
        let gates = match h {
            Some(h) => linear(importer, h, &self.gates, Some(&self.of_gates))?,
            None => row(&self.of_gates),
        };
        let given = part(importer, now, 1, (0, 2 * units), 2)?;
        let sigmoid = vec![
            MapStep::Input(0),
            MapStep::Input(1),
            MapStep::Binary(Binary::Add, 0, 1),
            MapStep::Unary(Unary::Activation(limbeck_plan::Activation::Sigmoid), 2),
        ];
        let gates = map(importer, &[&given, &gates], sigmoid)?;
        let update = part(importer, &gates, 1, (0, units), 2)?;
        let reset = part(importer, &gates, 1, (units, units), 2)?;
        let given = part(importer, now, 1, (2 * units, units), 2)?;
        // What the state gives, times the reset gate before or after the product.
        let product = |a: usize, b: usize| MapStep::Binary(Binary::Mul, a, b);
        let from_state = match (h, self.after) {
            (Some(h), true) => {
                let all = linear(importer, h, &self.hidden, Some(&self.of_hidden))?;
                map(
                    importer,
                    &[&all, &reset],
                    vec![MapStep::Input(0), MapStep::Input(1), product(0, 1)],
                )?
            }
            (Some(h), false) => {
                let steps = vec![MapStep::Input(0), MapStep::Input(1), product(0, 1)];
                let kept = map(importer, &[h, &reset], steps)?;
                linear(importer, &kept, &self.hidden, Some(&self.of_hidden))?
            }
            (None, true) => {
                let steps = vec![MapStep::Input(0), MapStep::Input(1), product(0, 1)];
                map(importer, &[&row(&self.of_hidden), &reset], steps)?
            }
            (None, false) => row(&self.of_hidden),
        };
        let mut steps = vec![
            MapStep::Input(0),
            MapStep::Input(1),
            MapStep::Binary(Binary::Add, 0, 1),
            MapStep::Unary(Unary::Activation(limbeck_plan::Activation::Tanh), 2),
            MapStep::Input(2),
            MapStep::Float(1.0),
            MapStep::Binary(Binary::Sub, 5, 4),
            product(6, 3),
        ];
        let mut items = vec![&given, &from_state, &update];
        if let Some(h) = h {
            items.push(h);
            steps.extend([MapStep::Input(3), product(4, 8), MapStep::Binary(Binary::Add, 7, 9)]);
        }
        map(importer, &items, steps)
    }
}
