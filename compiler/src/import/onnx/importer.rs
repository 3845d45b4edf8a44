//! The state of an import: the graph as far as it is built, and what each name of the model stands
//! for.
//!
//! A value knows the order in which its axes are stored. Transpositions therefore only change that
//! order, images keep their channels last from one convolution to the next, and what needs another
//! order asks for it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use limbeck_graph::{Graph, TensorExpr, ValueId};
use limbeck_plan::{
    Binary, DType, Dim, Fact, InputRole, Map, MapStep, Op, Reshape, Sizes as SizesOp, Transpose,
    Unary,
};

use super::constant::{Constant, Data};
use super::cut::{Found, Known};
use super::external::External;
use super::fold::{Left, fold};
use super::proto::NodeProto;
use super::sizes::{Size, Sizes};
use crate::error::{Error, Result};

/// What a name of the model stands for.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Constant(Constant),
    Sizes(Sizes),
    Value(Laid),
}

/// A value of the graph whose axis `k`, as it is stored, is axis `order[k]` of the model's.
#[derive(Clone, Debug)]
pub(super) struct Laid {
    pub value: ValueId,
    pub order: Vec<usize>,
}

/// What an op takes, its axes in the order that it wants.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    Constant(Constant),
    Value(ValueId),
}

/// Why an op does not take operands: where it took floats of their sizes, a form of integers is missing.
pub(super) fn refused(op: &Op, mut facts: Vec<Fact>, message: &str) -> Error {
    let integers = facts.iter().all(|fact| fact.dtype == DType::I32);
    facts.iter_mut().for_each(|fact| fact.dtype = DType::F32);
    match integers && op.infer(&facts).is_ok() {
        true => Error::unsupported(format!("of integers: {message}")),
        false => Error::mismatch(message),
    }
}

/// Axes in the model's order.
pub(super) fn plain(rank: usize) -> Vec<usize> {
    (0..rank).collect()
}

/// By the names of initialisers, their elements as segments have them.
pub(super) type Elements = HashMap<String, Arc<[u8]>>;

pub(super) struct Importer<'a> {
    pub graph: Graph,
    pub external: &'a External,
    pub elements: &'a RefCell<Elements>,
    /// Names of graphs within graphs, the innermost last.
    pub scopes: Vec<HashMap<String, Item>>,
    /// Of the node at hand.
    pub node: String,
    /// By name, the node of the graph at hand that alone reads it.
    pub readers: HashMap<&'a str, Option<&'a NodeProto>>,
    /// By name, the node of the graph at hand that gives it.
    pub producers: HashMap<&'a str, &'a NodeProto>,
    /// Nodes that were imported with others.
    pub done: HashSet<*const NodeProto>,
    /// Constants of types that are not read, and why.
    pub unread: HashMap<String, String>,
    /// Weights by the constants that they hold and their shapes.
    weights: HashMap<(usize, Vec<usize>), (Constant, ValueId)>,
    /// What may be computed of constants still.
    left: Left,
}

impl<'a> Importer<'a> {
    pub fn new(external: &'a External, elements: &'a RefCell<Elements>) -> Importer<'a> {
        Importer {
            graph: Graph::new(),
            external,
            elements,
            scopes: vec![HashMap::new()],
            node: String::new(),
            readers: HashMap::new(),
            producers: HashMap::new(),
            done: HashSet::new(),
            unread: HashMap::new(),
            left: Left::all(),
            weights: HashMap::new(),
        }
    }

    pub fn find(&self, name: &str) -> Option<&Item> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name))
    }

    pub fn set(&mut self, name: &str, item: Item) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), item);
        }
    }

    /// What is known of the names of the outermost graph.
    pub fn known(&self) -> Known {
        let names = self.scopes.first().into_iter().flatten();
        let found = names.map(|(name, item)| {
            let fixed = !matches!(item, Item::Value(_));
            (name.clone(), Found { fact: self.fact(item), fixed })
        });
        found.collect()
    }

    /// A type and sizes, in the model's order of axes.
    pub fn fact(&self, item: &Item) -> Fact {
        match item {
            Item::Constant(c) => {
                let dtype = if c.is_float() { DType::F32 } else { DType::I32 };
                Fact::new(dtype, c.shape.iter().map(|n| Dim::from(*n)).collect())
            }
            Item::Sizes(sizes) => {
                let shape = (!sizes.scalar).then(|| Dim::from(sizes.values.len()));
                Fact::new(DType::I32, shape.into_iter().collect())
            }
            Item::Value(laid) => {
                let stored = &self.graph.value(laid.value).fact;
                let mut shape = vec![Dim::Const(0); laid.order.len()];
                for (dim, axis) in stored.shape.iter().zip(&laid.order) {
                    shape[*axis] = dim.clone();
                }
                Fact::new(stored.dtype, shape)
            }
        }
    }

    pub fn shape(&self, item: &Item) -> Vec<Dim> {
        self.fact(item).shape
    }

    pub fn rank(&self, item: &Item) -> usize {
        match item {
            Item::Constant(c) => c.shape.len(),
            Item::Sizes(sizes) => usize::from(!sizes.scalar),
            Item::Value(laid) => laid.order.len(),
        }
    }

    /// The order in which an item is stored.
    pub fn order(&self, item: &Item) -> Vec<usize> {
        match item {
            Item::Value(laid) => laid.order.clone(),
            _ => plain(self.rank(item)),
        }
    }

    /// An item with its axes stored in this order.
    pub fn operand(&mut self, item: &Item, order: &[usize]) -> Result<Operand> {
        match item {
            Item::Constant(c) => Ok(Operand::Constant(c.permuted(order))),
            Item::Sizes(sizes) => self.sizes_value(sizes).map(Operand::Value),
            Item::Value(laid) if laid.order == order => Ok(Operand::Value(laid.value)),
            Item::Value(laid) => {
                let place = |axis: &usize| laid.order.iter().position(|have| have == axis);
                let turn: Option<Vec<usize>> = order.iter().map(place).collect();
                let turn = turn.ok_or_else(|| Error::mismatch("axes are missing"))?;
                self.turned(laid.value, turn).map(Operand::Value)
            }
        }
    }

    /// An item in the model's order of axes.
    pub fn plain(&mut self, item: &Item) -> Result<Operand> {
        self.operand(item, &plain(self.rank(item)))
    }

    /// As a value of the graph, whatever it is.
    pub fn plain_value(&mut self, item: &Item) -> Result<ValueId> {
        let operand = self.plain(item)?;
        self.value(operand)
    }

    /// A value with its axes in another order: a reshape where only axes of size 1 move.
    fn turned(&mut self, value: ValueId, order: Vec<usize>) -> Result<ValueId> {
        let shape = &self.graph.value(value).fact.shape;
        let moved = order.iter().copied().filter(|axis| shape[*axis] != Dim::Const(1));
        let op = if moved.is_sorted() {
            let shape = order.iter().map(|axis| shape[*axis].clone()).collect();
            Op::Reshape(Reshape { shape })
        } else {
            Op::Transpose(Transpose { order })
        };
        self.emit(op, &[value])
    }

    fn emit(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs = &self.computed(&op, inputs)?;
        let facts = inputs.iter().map(|id| self.graph.value(*id).fact.clone()).collect();
        let found = self.graph.node(&self.node, op.clone(), inputs);
        found.map_err(|e| refused(&op, facts, e.message()))
    }

    /// Operands of an op: copies of weights where it takes what is computed alone.
    fn computed(&mut self, op: &Op, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        let roles = op.input_roles();
        let each = inputs.iter().enumerate().map(|(at, id)| {
            let computed = roles.get(at) == Some(&InputRole::Activation);
            if !computed || self.graph.weight_expr(*id).is_none() {
                return Ok(*id);
            }
            self.emit(Op::Map(Map { inputs: 1, steps: vec![MapStep::Input(0)] }), &[*id])
        });
        each.collect()
    }

    fn sizes_value(&mut self, sizes: &Sizes) -> Result<ValueId> {
        let dims = sizes.values.iter().map(|size| match size {
            Size::Known(n) => Dim::Const(n.unsigned_abs()),
            Size::Dim(dim) => dim.clone(),
        });
        let mut value = self.emit(Op::Sizes(SizesOp { sizes: dims.collect() }), &[])?;
        let negative = |size: &Size| matches!(size, Size::Known(n) if *n < 0);
        if sizes.values.iter().any(negative) {
            let signs = sizes.values.iter().map(|size| if negative(size) { -1 } else { 1 });
            let signs = Constant::integers(vec![sizes.values.len()], signs.collect::<Vec<i64>>());
            let signs = self.value(Operand::Constant(signs))?;
            let steps =
                vec![MapStep::Input(0), MapStep::Input(1), MapStep::Binary(Binary::Mul, 0, 1)];
            value = self.emit(Op::Map(Map { inputs: 2, steps }), &[value, signs])?;
        }
        if !sizes.scalar {
            return Ok(value);
        }
        self.emit(Op::Reshape(Reshape { shape: Vec::new() }), &[value])
    }

    /// An operand as a value: a constant becomes a weight.
    pub fn value(&mut self, operand: Operand) -> Result<ValueId> {
        let constant = match operand {
            Operand::Value(value) => return Ok(value),
            Operand::Constant(constant) => constant,
        };
        let place = match &constant.data {
            Data::F32(values) => values.as_ptr() as usize,
            Data::I64(values) => values.as_ptr() as usize,
        };
        let key = (place, constant.shape.clone());
        if let Some((_, value)) = self.weights.get(&key) {
            return Ok(*value);
        }
        let value = self.stored(&constant)?;
        self.weights.insert(key, (constant, value));
        Ok(value)
    }

    fn stored(&mut self, constant: &Constant) -> Result<ValueId> {
        if constant.len() == 0 {
            return Err(Error::unsupported("a constant without elements is used as a value"));
        }
        match &constant.data {
            Data::F32(values) if values.iter().all(|v| v.is_finite()) => {
                Ok(self.weight(values.clone(), &constant.shape))
            }
            Data::F32(values) => {
                // A plan's weights are finite: what is not is put in its place.
                let finite = values.iter().map(|v| if v.is_finite() { *v } else { 0.0 });
                let finite = self.weight(finite.collect(), &constant.shape);
                let code = values.iter().map(|v| match *v {
                    f32::INFINITY => 1.0,
                    f32::NEG_INFINITY => 2.0,
                    v if v.is_nan() => 3.0,
                    _ => 0.0,
                });
                let code = self.weight(code.collect(), &constant.shape);
                let mut steps = vec![MapStep::Input(0), MapStep::Input(1)];
                let mut last = 0;
                for (number, v) in [(1.0, f32::INFINITY), (2.0, f32::NEG_INFINITY), (3.0, f32::NAN)]
                {
                    let at = steps.len();
                    steps.push(MapStep::Float(number));
                    steps.push(MapStep::Binary(Binary::Eq, 1, at));
                    steps.push(MapStep::Float(v));
                    steps.push(MapStep::Select(at + 1, at + 2, last));
                    last = at + 3;
                }
                self.emit(Op::Map(Map { inputs: 2, steps }), &[finite, code])
            }
            Data::I64(values) => {
                if let Some(v) = values.iter().find(|v| i32::try_from(**v).is_err()) {
                    let message = format!("its constant {v} does not fit 32 bits");
                    return Err(Error::unsupported(message));
                }
                self.integers(values, &constant.shape)
            }
        }
    }

    /// Integers of 32 bits. A plan's weights are floats, which hold 24 of them exactly.
    fn integers(&mut self, values: &[i64], shape: &[usize]) -> Result<ValueId> {
        let mut steps = vec![MapStep::Input(0), MapStep::Unary(Unary::ToInteger, 0)];
        if values.iter().all(|v| v.unsigned_abs() <= 1 << 24) {
            let value = self.weight(values.iter().map(|v| *v as f32).collect(), shape);
            return self.emit(Op::Map(Map { inputs: 1, steps }), &[value]);
        }
        let high = self.weight(values.iter().map(|v| (*v >> 16) as f32).collect(), shape);
        let low = self.weight(values.iter().map(|v| (*v & 0xffff) as f32).collect(), shape);
        steps.extend([
            MapStep::Integer(1 << 16),
            MapStep::Binary(Binary::Mul, 1, 2),
            MapStep::Input(1),
            MapStep::Unary(Unary::ToInteger, 4),
            MapStep::Binary(Binary::Add, 3, 5),
        ]);
        self.emit(Op::Map(Map { inputs: 2, steps }), &[high, low])
    }

    /// A weight of the plan, with the shape of a tensor.
    fn weight(&mut self, values: Arc<[f32]>, shape: &[usize]) -> ValueId {
        let name = format!("{} #{}", self.node, self.graph.values().len());
        let expr = TensorExpr::Inline { name, rows: 1, values };
        let shape = shape.iter().map(|n| Dim::from(*n)).collect();
        self.graph.tensor(expr, shape)
    }

    /// A matrix for a linear or a convolution, or their bias as one row.
    pub fn matrix(&mut self, values: Vec<f32>, rows: usize) -> ValueId {
        let cols = values.len() / rows.max(1);
        let name = format!("{} #{}", self.node, self.graph.values().len());
        let expr = TensorExpr::Inline { name, rows, values: values.into() };
        self.graph.tensor(expr, vec![Dim::from(rows), Dim::from(cols)])
    }

    /// Adds an op whose result is stored in this order, or computes it where all is known.
    pub fn apply(&mut self, op: Op, operands: Vec<Operand>, order: Vec<usize>) -> Result<Item> {
        let constants: Option<Vec<&Constant>> = operands
            .iter()
            .map(|operand| match operand {
                Operand::Constant(c) => Some(c),
                Operand::Value(_) => None,
            })
            .collect();
        if let Some(constants) = constants.filter(|c| !c.is_empty())
            && let Some(found) = fold(&op, &constants, &mut self.left)?
        {
            // It was computed as it would be stored; constants have the model's order.
            let mut back = vec![0; order.len()];
            order.iter().enumerate().for_each(|(k, axis)| back[*axis] = k);
            return Ok(Item::Constant(found.permuted(&back)));
        }
        let inputs = operands.into_iter().map(|operand| self.value(operand));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let value = self.emit(op, &inputs)?;
        Ok(Item::Value(Laid { value, order }))
    }

    /// Adds an op on matrices or images.
    pub fn laid(&mut self, op: Op, inputs: &[ValueId], order: Vec<usize>) -> Result<Item> {
        let value = self.emit(op, inputs)?;
        Ok(Item::Value(Laid { value, order }))
    }

    /// The same elements in other sizes, given in the order in which both are stored.
    pub fn reshaped(
        &mut self,
        operand: Operand,
        shape: Vec<Dim>,
        order: Vec<usize>,
    ) -> Result<Item> {
        self.apply(Op::Reshape(Reshape { shape }), vec![operand], order)
    }
}
