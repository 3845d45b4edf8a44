//! Elementwise operators.

use limbeck_plan::{
    Activate, Activation, Add, Binary, DType, Dim, Map, MapStep, Op, Reshape, Unary,
};

use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::constant::Data;
use crate::import::onnx::importer::{Importer, Item, Laid, Operand, plain};
use crate::import::onnx::proto::dtype;
use crate::import::onnx::sizes::{Size, Sizes};
use crate::import::onnx::types;

pub(super) const TABLE: &[(&str, Operator)] = &[
    ("Add", |i, c| binary(i, c, Binary::Add)),
    ("Sub", |i, c| binary(i, c, Binary::Sub)),
    ("Mul", |i, c| binary(i, c, Binary::Mul)),
    ("Div", |i, c| binary(i, c, Binary::Div)),
    ("Pow", power),
    ("Min", |i, c| many(i, c, Binary::Min)),
    ("Max", |i, c| many(i, c, Binary::Max)),
    ("Sum", |i, c| many(i, c, Binary::Add)),
    ("Mean", mean),
    ("Mod", |i, c| {
        let rest = if c.node.is_set("fmod")? { Binary::Rem } else { Binary::Mod };
        binary(i, c, rest)
    }),
    ("And", |i, c| binary(i, c, Binary::And)),
    ("Or", |i, c| binary(i, c, Binary::Or)),
    ("Xor", |i, c| binary(i, c, Binary::Xor)),
    ("Equal", |i, c| binary(i, c, Binary::Eq)),
    ("Less", |i, c| binary(i, c, Binary::Lt)),
    ("LessOrEqual", |i, c| binary(i, c, Binary::Le)),
    ("Greater", |i, c| swapped(i, c, Binary::Lt)),
    ("GreaterOrEqual", |i, c| swapped(i, c, Binary::Le)),
    ("Where", select),
    ("Cast", cast),
    ("CastLike", cast_like),
    ("Clip", clip),
    ("Neg", |i, c| unary(i, c, Unary::Neg)),
    ("Abs", |i, c| unary(i, c, Unary::Abs)),
    ("Sign", |i, c| unary(i, c, Unary::Sign)),
    ("Sqrt", |i, c| unary(i, c, Unary::Sqrt)),
    ("Exp", |i, c| unary(i, c, Unary::Exp)),
    ("Log", |i, c| unary(i, c, Unary::Log)),
    ("Reciprocal", |i, c| unary(i, c, Unary::Reciprocal)),
    ("Erf", |i, c| unary(i, c, Unary::Erf)),
    ("Sin", |i, c| unary(i, c, Unary::Sin)),
    ("Cos", |i, c| unary(i, c, Unary::Cos)),
    ("Floor", |i, c| unary(i, c, Unary::Floor)),
    ("Ceil", |i, c| unary(i, c, Unary::Ceil)),
    ("Round", |i, c| unary(i, c, Unary::Round)),
    ("IsNaN", |i, c| unary(i, c, Unary::IsNan)),
    ("Not", |i, c| unary(i, c, Unary::Not)),
    ("Relu", |i, c| activate(i, c, Activation::Relu)),
    ("Tanh", |i, c| activate(i, c, Activation::Tanh)),
    ("Sigmoid", |i, c| activate(i, c, Activation::Sigmoid)),
    ("HardSwish", |i, c| activate(i, c, Activation::HardSwish)),
    ("Gelu", |i, c| match c.node.text_or("approximate", "none")? {
        "none" => activate(i, c, Activation::Gelu),
        _ => activate(i, c, Activation::GeluTanh),
    }),
    ("LeakyRelu", |i, c| {
        let alpha = c.node.float_or("alpha", 0.01)?;
        formula(i, c, |f| f.where_negative(|f| f.times(0, alpha)))
    }),
    ("Elu", |i, c| {
        let alpha = c.node.float_or("alpha", 1.0)?;
        formula(i, c, |f| f.where_negative(|f| f.exponential(alpha)))
    }),
    ("Selu", |i, c| {
        let alpha = c.node.float_or("alpha", 1.673_263_2)?;
        let gamma = c.node.float_or("gamma", 1.050_701)?;
        formula(i, c, |f| {
            let y = f.where_negative(|f| f.exponential(alpha));
            f.times(y, gamma)
        })
    }),
    ("PRelu", parametric),
    ("HardSigmoid", |i, c| {
        let (alpha, beta) = (c.node.float_or("alpha", 0.2)?, c.node.float_or("beta", 0.5)?);
        formula(i, c, |f| f.hard_sigmoid(alpha, beta))
    }),
    ("Softplus", |i, c| formula(i, c, Formula::softplus)),
    ("Softsign", |i, c| {
        formula(i, c, |f| {
            let size = f.unary(Unary::Abs, 0);
            let below = f.plus(size, 1.0);
            f.binary(Binary::Div, 0, below)
        })
    }),
    ("Mish", |i, c| {
        formula(i, c, |f| {
            let soft = f.softplus();
            let tanh = f.unary(Unary::Activation(Activation::Tanh), soft);
            f.binary(Binary::Mul, 0, tanh)
        })
    }),
    ("Identity", |_, c| Ok(vec![c.get(0)?.clone()])),
    ("Dropout", |_, c| Ok(vec![c.get(0)?.clone()])),
];

/// Steps over one input, number 0.
pub(super) struct Formula(Vec<MapStep>);

impl Formula {
    fn push(&mut self, step: MapStep) -> usize {
        self.0.push(step);
        self.0.len() - 1
    }

    fn unary(&mut self, f: Unary, a: usize) -> usize {
        self.push(MapStep::Unary(f, a))
    }

    fn binary(&mut self, f: Binary, a: usize, b: usize) -> usize {
        self.push(MapStep::Binary(f, a, b))
    }

    fn with(&mut self, f: Binary, a: usize, v: f32) -> usize {
        let v = self.push(MapStep::Float(v));
        self.binary(f, a, v)
    }

    fn times(&mut self, a: usize, v: f32) -> usize {
        self.with(Binary::Mul, a, v)
    }

    fn plus(&mut self, a: usize, v: f32) -> usize {
        self.with(Binary::Add, a, v)
    }

    /// The input, where it is negative something else.
    fn where_negative(&mut self, f: impl Fn(&mut Formula) -> usize) -> usize {
        let negative = self.with(Binary::Lt, 0, 0.0);
        let other = f(self);
        self.push(MapStep::Select(negative, other, 0))
    }

    /// `alpha (e^x - 1)`.
    fn exponential(&mut self, alpha: f32) -> usize {
        let e = self.unary(Unary::Exp, 0);
        let e = self.plus(e, -1.0);
        self.times(e, alpha)
    }

    fn hard_sigmoid(&mut self, alpha: f32, beta: f32) -> usize {
        let y = self.times(0, alpha);
        let y = self.plus(y, beta);
        let y = self.with(Binary::Max, y, 0.0);
        self.with(Binary::Min, y, 1.0)
    }

    /// `max(x, 0) + ln(1 + e^-|x|)`.
    fn softplus(&mut self) -> usize {
        let size = self.unary(Unary::Abs, 0);
        let size = self.unary(Unary::Neg, size);
        let e = self.unary(Unary::Exp, size);
        let e = self.plus(e, 1.0);
        let e = self.unary(Unary::Log, e);
        let positive = self.with(Binary::Max, 0, 0.0);
        self.binary(Binary::Add, positive, e)
    }
}

/// The last step is the result.
fn formula(
    importer: &mut Importer<'_>,
    call: &Call<'_>,
    f: impl Fn(&mut Formula) -> usize,
) -> Result<Vec<Item>> {
    let mut steps = Formula(vec![MapStep::Input(0)]);
    f(&mut steps);
    Ok(vec![map(importer, &[call.get(0)?], steps.0)?])
}

fn unary(importer: &mut Importer<'_>, call: &Call<'_>, f: Unary) -> Result<Vec<Item>> {
    let steps = vec![MapStep::Input(0), MapStep::Unary(f, 0)];
    Ok(vec![map(importer, &[call.get(0)?], steps)?])
}

fn activate(importer: &mut Importer<'_>, call: &Call<'_>, f: Activation) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    if f == Activation::Relu && importer.fact(item).dtype == DType::I32 {
        let steps =
            vec![MapStep::Input(0), MapStep::Integer(0), MapStep::Binary(Binary::Max, 0, 1)];
        return Ok(vec![map(importer, &[item], steps)?]);
    }
    match item {
        Item::Value(Laid { value, order }) => {
            let op = Op::Activate(Activate { activation: f });
            Ok(vec![importer.laid(op, &[*value], order.clone())?])
        }
        _ => unary(importer, call, Unary::Activation(f)),
    }
}

fn binary(importer: &mut Importer<'_>, call: &Call<'_>, f: Binary) -> Result<Vec<Item>> {
    Ok(vec![two(importer, call.get(0)?, call.get(1)?, f)?])
}

fn swapped(importer: &mut Importer<'_>, call: &Call<'_>, f: Binary) -> Result<Vec<Item>> {
    Ok(vec![two(importer, call.get(1)?, call.get(0)?, f)?])
}

fn sizes(item: &Item) -> Option<Sizes> {
    match item {
        Item::Constant(c) => Sizes::of(c),
        Item::Sizes(sizes) => Some(sizes.clone()),
        Item::Value(_) => None,
    }
}

/// A function of two items.
pub(super) fn two(importer: &mut Importer<'_>, a: &Item, b: &Item, f: Binary) -> Result<Item> {
    if let Some((a, b)) = sizes(a).zip(sizes(b)) {
        let of = |a: &Size, b: &Size| match f {
            Binary::Add => a.plus(b),
            Binary::Sub => a.minus(b),
            Binary::Mul => a.times(b),
            Binary::Div => a.over(b),
            Binary::Min => a.least(b),
            Binary::Max => a.most(b),
            Binary::Eq => a.equals(b),
            Binary::Pow => a.power(b),
            _ => None,
        };
        if let Some(found) = a.with(&b, of) {
            return Ok(found.known().map_or(Item::Sizes(found), Item::Constant));
        }
    }
    if let (Binary::Add, Item::Value(a), Item::Value(b)) = (f, a, b) {
        let fact = |laid: &Laid| &importer.graph.value(laid.value).fact;
        if a.order == b.order && fact(a) == fact(b) && fact(a).dtype == DType::F32 {
            return importer.laid(Op::Add(Add {}), &[a.value, b.value], a.order.clone());
        }
    }
    let steps = vec![MapStep::Input(0), MapStep::Input(1), MapStep::Binary(f, 0, 1)];
    map(importer, &[a, b], steps)
}

fn many(importer: &mut Importer<'_>, call: &Call<'_>, f: Binary) -> Result<Vec<Item>> {
    let mut found = call.get(0)?.clone();
    for at in 1..call.inputs.len() {
        found = two(importer, &found, call.get(at)?, f)?;
        importer.check_sizes(&found)?;
    }
    Ok(vec![found])
}

fn mean(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let sum = many(importer, call, Binary::Add)?;
    let scale = MapStep::Float(1.0 / call.inputs.len().max(1) as f32);
    let steps = vec![MapStep::Input(0), scale, MapStep::Binary(Binary::Mul, 0, 1)];
    let sum = sum.first().ok_or_else(|| Error::format("there is nothing to add up"))?;
    Ok(vec![map(importer, &[sum], steps)?])
}

/// The exponent may be of another type than the base.
fn power(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (a, b) = (call.get(0)?, call.get(1)?);
    let types = [a, b].map(|item| importer.fact(item).dtype);
    match types {
        [DType::I32, DType::F32] => {
            return Err(Error::unsupported("a power of integers with an exponent of floats"));
        }
        [DType::I32, DType::I32] => return Ok(vec![integer_power(importer, a, b)?]),
        _ => {}
    }
    let mut steps = vec![MapStep::Input(0), MapStep::Input(1)];
    if types[1] == DType::I32 {
        steps.push(MapStep::Unary(Unary::ToFloat, 1));
    }
    steps.push(MapStep::Binary(Binary::Pow, 0, steps.len() - 1));
    Ok(vec![map(importer, &[a, b], steps)?])
}

/// A power of integers: products, where the exponent is one small number.
fn integer_power(importer: &mut Importer<'_>, a: &Item, b: &Item) -> Result<Item> {
    let exponent = match b {
        Item::Constant(c) if c.len() == 1 && c.shape.len() <= importer.rank(a) => {
            c.as_integers()?
        }
        _ => &[],
    };
    match (a, exponent) {
        (Item::Value(_), [n @ 1..=MAX_EXPONENT]) => {
            let mut steps = vec![MapStep::Input(0)];
            for at in 0..(*n as usize - 1) {
                steps.push(MapStep::Binary(Binary::Mul, at, 0));
            }
            map(importer, &[a], steps)
        }
        (Item::Sizes(_), [n @ 1..=MAX_EXPONENT]) => {
            (1..*n).try_fold(a.clone(), |found, _| two(importer, &found, a, Binary::Mul))
        }
        _ if [a, b].iter().any(|item| matches!(item, Item::Value(_))) => {
            Err(Error::unsupported("a power of integers with this exponent"))
        }
        _ => two(importer, a, b, Binary::Pow),
    }
}

/// Largest exponent of integers that is written out as products.
const MAX_EXPONENT: i64 = 8;

fn parametric(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Float(0.0),
        MapStep::Binary(Binary::Lt, 0, 2),
        MapStep::Binary(Binary::Mul, 0, 1),
        MapStep::Select(3, 4, 0),
    ];
    Ok(vec![map(importer, &[call.get(0)?, call.get(1)?], steps)?])
}

fn select(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (c, a, b) = (call.get(0)?, call.get(1)?, call.get(2)?);
    if let (Item::Constant(c), Some(a), Some(b)) = (c, sizes(a), sizes(b))
        && let Some(c) = Sizes::of(c)
    {
        // Where it holds, the first, else nothing, and so for the second.
        let zero = Size::Known(0);
        let kept = a.with(&c, |a, c| Some(if *c == zero { zero.clone() } else { a.clone() }));
        let other = b.with(&c, |b, c| Some(if *c == zero { b.clone() } else { zero.clone() }));
        let found = kept.zip(other).and_then(|(a, b)| a.with(&b, |a, b| a.plus(b)));
        if let Some(found) = found {
            return Ok(vec![found.known().map_or(Item::Sizes(found), Item::Constant)]);
        }
    }
    let inputs = [MapStep::Input(0), MapStep::Input(1), MapStep::Input(2)];
    let steps = inputs.into_iter().chain([MapStep::Select(0, 1, 2)]).collect();
    Ok(vec![map(importer, &[c, a, b], steps)?])
}

fn cast(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let to = call.node.int("to")?.ok_or_else(|| Error::format("it casts to nothing"))?;
    let to = i32::try_from(to).unwrap_or(0);
    Ok(vec![cast_to(importer, call.get(0)?, to)?])
}

fn cast_like(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let to = match call.get(1)? {
        Item::Constant(like) => like.dtype,
        like if importer.fact(like).dtype == DType::F32 => dtype::FLOAT,
        _ => {
            let what = "a cast to the type of integers or truth values that are not constant";
            return Err(Error::unsupported(what));
        }
    };
    Ok(vec![cast_to(importer, call.get(0)?, to)?])
}

/// An item as elements of a type by ONNX's number.
fn cast_to(importer: &mut Importer<'_>, item: &Item, to: i32) -> Result<Item> {
    let float = importer.fact(item).dtype == DType::F32;
    let step = match to {
        dtype::BOOL => Unary::ToTruth,
        dtype::FLOAT | dtype::DOUBLE if float => return Ok(item.clone()),
        dtype::FLOAT | dtype::DOUBLE => Unary::ToFloat,
        dtype::FLOAT16 | dtype::BFLOAT16 => return narrowed_floats(importer, item, to),
        dtype::INT64 | dtype::INT32 | dtype::UINT32 | dtype::UINT64 if float => Unary::ToInteger,
        dtype::INT64 | dtype::INT32 | dtype::UINT32 | dtype::UINT64 => return Ok(item.clone()),
        _ => return Err(Error::unsupported(format!("a cast to {}", types::name(to)))),
    };
    if let (Unary::ToTruth, Item::Constant(c)) = (step, item)
        && let Data::I64(values) = &c.data
    {
        let truth: Vec<i64> = values.iter().map(|v| i64::from(*v != 0)).collect();
        let found = crate::import::onnx::constant::Constant::integers(c.shape.clone(), truth);
        return Ok(Item::Constant(found));
    }
    map(importer, &[item], vec![MapStep::Input(0), MapStep::Unary(step, 0)])
}

/// An item as floats of 16 bits.
fn narrowed_floats(importer: &mut Importer<'_>, item: &Item, to: i32) -> Result<Item> {
    let mut steps = vec![MapStep::Input(0)];
    if importer.fact(item).dtype == DType::I32 {
        steps.push(MapStep::Unary(Unary::ToFloat, 0));
    }
    let narrow = if to == dtype::FLOAT16 { Unary::ToF16 } else { Unary::ToBf16 };
    steps.push(MapStep::Unary(narrow, steps.len() - 1));
    map(importer, &[item], steps)
}

fn clip(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let mut found = call.get(0)?.clone();
    for (at, f) in [(1, Binary::Max), (2, Binary::Min)] {
        if let Some(bound) = call.optional(at) {
            found = two(importer, &found, bound, f)?;
        }
    }
    Ok(vec![found])
}

/// An elementwise computation of items, whose shapes are repeated to a common one. The result has the
/// order of the first item that has all axes.
pub(super) fn map(
    importer: &mut Importer<'_>,
    items: &[&Item],
    steps: Vec<MapStep>,
) -> Result<Item> {
    let rank = items.iter().map(|item| importer.rank(item)).max().unwrap_or(0);
    let orders = items.iter().map(|item| importer.order(item));
    let mut whole = orders.filter(|order| order.len() == rank);
    let turned = |order: &Vec<usize>| !order.is_sorted();
    let order = whole.find(turned).unwrap_or_else(|| plain(rank));
    let mut operands = Vec::new();
    let mut inputs = Vec::new();
    let alone = items.iter().all(|item| matches!(item, Item::Constant(_)));
    let is_number = |item: &Item| !alone && matches!(item, Item::Constant(c) if c.len() == 1);
    // Where an item that is none has all axes, a single number needs no shape.
    let others = items.iter().filter(|item| !is_number(item));
    let widest = others.map(|item| importer.rank(item)).max().unwrap_or(0);
    for item in items {
        let number = match item {
            Item::Constant(c) if is_number(item) && c.shape.len() <= widest => Some(c),
            _ => None,
        };
        inputs.push(match number {
            Some(c) => match &c.data {
                Data::F32(values) => MapStep::Float(values[0]),
                Data::I64(values) => MapStep::Integer(narrowed(values[0], &steps)?),
            },
            None => {
                operands.push(aligned(importer, item, &order)?);
                MapStep::Input(operands.len() - 1)
            }
        });
    }
    let steps = steps.into_iter().map(|step| match step {
        MapStep::Input(i) => inputs.get(i).cloned().unwrap_or(step),
        step => step,
    });
    let op = Op::Map(Map { inputs: operands.len(), steps: steps.collect() });
    importer.apply(op, operands, order)
}

/// An integer beside others of 32 bits: one beyond them is only compared to find the least or the largest.
fn narrowed(v: i64, steps: &[MapStep]) -> Result<i32> {
    let bound = |step: &MapStep| {
        !matches!(step, MapStep::Unary(..) | MapStep::Select(..))
            && !matches!(step, MapStep::Binary(f, ..) if !matches!(f, Binary::Min | Binary::Max))
    };
    match i32::try_from(v) {
        Ok(v) => Ok(v),
        Err(_) if steps.iter().all(bound) => Ok(if v < 0 { i32::MIN } else { i32::MAX }),
        Err(_) => Err(Error::unsupported(format!("{v} is beyond 32 bits"))),
    }
}

/// An item with axes of size 1 in front, in an order of all axes.
pub(super) fn aligned(
    importer: &mut Importer<'_>,
    item: &Item,
    order: &[usize],
) -> Result<Operand> {
    let (rank, have) = (order.len(), importer.rank(item));
    if have == rank {
        return importer.operand(item, order);
    }
    if let Item::Constant(c) = item {
        let ones = std::iter::repeat_n(1, rank - have);
        let shape = ones.chain(c.shape.iter().copied()).collect();
        return Ok(Operand::Constant(c.reshaped(shape)?.permuted(order)));
    }
    let missing = rank - have;
    // The axes that there are, in the order in which they are wanted.
    let within: Vec<usize> = order.iter().filter_map(|a| a.checked_sub(missing)).collect();
    let operand = importer.operand(item, &within)?;
    if order.is_sorted() {
        return Ok(operand);
    }
    let shape = importer.shape(item);
    let dim = |axis: &usize| match axis.checked_sub(missing) {
        Some(axis) => shape[axis].clone(),
        None => Dim::Const(1),
    };
    let shape = order.iter().map(dim).collect();
    let value = importer.value(operand)?;
    let op = Op::Reshape(Reshape { shape });
    match importer.laid(op, &[value], order.to_vec())? {
        Item::Value(laid) => Ok(Operand::Value(laid.value)),
        _ => Err(Error::mismatch("a value became a constant")),
    }
}

/// Indices of an axis, those from its end counted from its start.
pub(super) fn from_end(importer: &mut Importer<'_>, at: &Item, size: &Dim) -> Result<Item> {
    let size = Sizes { scalar: true, values: vec![Size::from(size)] };
    let size = size.known().map_or(Item::Sizes(size), Item::Constant);
    let steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Integer(0),
        MapStep::Binary(Binary::Lt, 0, 2),
        MapStep::Binary(Binary::Add, 0, 1),
        MapStep::Select(3, 4, 0),
    ];
    map(importer, &[at, &size], steps)
}

/// The index in two axes joined to one, the second of this size.
pub(super) fn row(importer: &mut Importer<'_>, a: &Item, b: &Item, size: &Dim) -> Result<Item> {
    let size = Item::Sizes(Sizes { scalar: true, values: vec![Size::from(size)] });
    let steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Input(2),
        MapStep::Binary(Binary::Mul, 0, 2),
        MapStep::Binary(Binary::Add, 3, 1),
    ];
    map(importer, &[a, b, &size], steps)
}
