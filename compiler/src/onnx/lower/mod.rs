//! Steps of a plan as nodes of ONNX.
//!
//! A value is known by the name that the nodes give it, or by two: rows of pixels and tensors of images
//! have their channels last in a plan, and as convolutions of ONNX take them, first. The other form is
//! made where something asks for it.

mod attention;
mod images;
mod map;
mod rows;
mod tensors;

use std::collections::HashMap;

use limbeck_plan::{DType, Dim, Entry, Op, OperandId, OperandKind, Step, Symbol};

use super::builder::{Builder, int, ints};
use super::proto::{TensorProto, dtype};
use crate::error::{At, Error, Result};

/// Where initialisers come from.
pub(crate) trait Weights {
    /// A weight of the plan, row after row, as an initialiser of these sizes.
    fn initialiser(&self, id: usize, dims: &[i64]) -> Result<TensorProto>;
}

/// How the rows of a call belong to its sequences.
pub(crate) enum Rows {
    /// There are none, but tensors.
    Tensors,
    /// Every sequence has as many.
    Even {
        /// Sequences, `[1]`.
        batch: String,
        /// Rows of each, `[1]`.
        length: String,
        /// Which are seen, `[batch, length]` of truth values; all where it is not given.
        mask: Option<String>,
    },
    /// Sequences have as many as they have.
    Listed {
        /// For each sequence and place, its row, `[sequences, longest]`.
        rows: String,
        /// For each row, its place among those, `[tokens]`.
        places: String,
        /// Which places are seen, `[sequences, longest]` of truth values.
        mask: String,
    },
}

/// The names of a value.
#[derive(Clone, Default)]
struct Forms {
    /// As the plan has it.
    plain: Option<String>,
    /// Images with their channels first.
    image: Option<String>,
}

/// Why an op has no nodes: what chooses per token cannot be written so, and what is not known has no form.
pub(crate) fn refusal(op: &Op) -> Option<&'static str> {
    match op {
        Op::Choose(_) | Op::Level(_) => Some("it chooses how much a token computes"),
        Op::AdaptiveMlp(_) | Op::MoeMlp(_) | Op::SparseLinear(_) => {
            Some("what it computes depends on a choice for each token")
        }
        Op::Embedding(_)
        | Op::Linear(_)
        | Op::Norm(_)
        | Op::Add(_)
        | Op::Activate(_)
        | Op::Gate(_)
        | Op::Attention(_)
        | Op::SelectRows(_)
        | Op::Pool(_)
        | Op::SoftCap(_)
        | Op::Mix(_)
        | Op::Patches(_)
        | Op::Pixels(_)
        | Op::Conv2d(_)
        | Op::DepthwiseConv2d(_)
        | Op::MaxPool2d(_)
        | Op::Map(_)
        | Op::MatMul(_)
        | Op::Reduce(_)
        | Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Expand(_)
        | Op::Slice(_)
        | Op::Concat(_)
        | Op::Pad(_)
        | Op::Gather(_)
        | Op::GatherElements(_)
        | Op::Softmax(_)
        | Op::Attend(_)
        | Op::GroupNorm(_)
        | Op::AveragePool2d(_)
        | Op::ConvTranspose2d(_)
        | Op::Resize(_)
        | Op::Sizes(_)
        | Op::Range(_)
        | Op::Lstm(_) => None,
        #[allow(
            unreachable_patterns,
            reason = "an op that is added has no nodes until it is written here"
        )]
        _ => Some("it is not written as nodes of ONNX"),
    }
}

/// Nodes as far as they are made.
pub(crate) struct Lowering<'a> {
    /// The graph.
    pub b: Builder,
    entry: &'a Entry,
    weights: &'a dyn Weights,
    rows: Rows,
    forms: HashMap<OperandId, Forms>,
    initialisers: HashMap<(usize, Vec<i64>), String>,
    /// Sizes by what they are, `[1]` each.
    sizes: HashMap<Dim, String>,
}

impl<'a> Lowering<'a> {
    /// Over an entry, for rows that are there already.
    pub fn new(b: Builder, entry: &'a Entry, weights: &'a dyn Weights, rows: Rows) -> Lowering<'a> {
        Lowering {
            b,
            entry,
            weights,
            rows,
            forms: HashMap::new(),
            initialisers: HashMap::new(),
            sizes: HashMap::new(),
        }
    }

    /// Says what a size is, by the name of a `[1]`.
    pub fn bind(&mut self, dim: Dim, name: String) {
        self.sizes.insert(dim, name);
    }

    /// Gives an operand that comes from outside, whose sizes become known by it.
    pub fn give(&mut self, id: OperandId, name: &str) {
        if let Some(operand) = self.entry.operands.get(id) {
            for (axis, dim) in operand.fact.shape.iter().enumerate() {
                if dim.as_const().is_none() && !self.sizes.contains_key(dim) {
                    let size = self.size_of(name, axis as i64);
                    self.sizes.insert(dim.clone(), size);
                }
            }
        }
        self.forms.insert(id, Forms { plain: Some(name.into()), image: None });
    }

    /// The size of an axis, `[1]`.
    pub fn size_of(&mut self, name: &str, axis: i64) -> String {
        self.b.op("Shape", &[name], vec![int("start", axis), int("end", axis + 1)])
    }

    /// Adds the nodes of a step.
    ///
    /// # Errors
    /// A step that has none, by name.
    pub fn step(&mut self, step: &Step) -> Result<()> {
        let place = || format!("entry {:?}, step {:?}", self.entry.name, step.name);
        let place = place();
        self.b.step.clone_from(&step.name);
        let out = *step.outputs.first().ok_or_else(malformed).at(&place)?;
        let forms = self.forms_of(step, out).at(&place)?;
        self.forms.insert(out, forms);
        Ok(())
    }

    fn forms_of(&mut self, step: &Step, out: OperandId) -> Result<Forms> {
        if let Some(reason) = refusal(&step.op) {
            return Err(Error::unsupported(format!("{} has no nodes: {reason}", step.op.name())));
        }
        let x = step.inputs.first().copied();
        let get = |index: usize| step.inputs.get(index).copied().ok_or_else(malformed);
        let plain = |name: String| Forms { plain: Some(name), image: None };
        Ok(match &step.op {
            Op::Embedding(p) => {
                let (ids, table) = (self.plain(get(0)?)?, self.matrix(get(1)?)?);
                let rows = self.b.op("Gather", &[&table, &ids], Vec::new());
                plain(self.scaled(rows, p.scale))
            }
            Op::Linear(p) => self.linear(p, step, out)?,
            Op::Norm(p) => plain(self.norm(p, step)?),
            Op::Add(_) => self.elementwise(step, |this, names| {
                this.b.op("Add", &[&names[0], &names[1]], Vec::new())
            })?,
            Op::Activate(p) => {
                self.elementwise(step, |this, names| this.activate(&names[0], p.activation))?
            }
            Op::Gate(p) => self.elementwise(step, |this, names| {
                let gate = this.activate(&names[0], p.activation);
                this.b.op("Mul", &[&gate, &names[1]], Vec::new())
            })?,
            Op::SoftCap(p) => {
                self.elementwise(step, |this, names| this.capped(&names[0], p.cap))?
            }
            // All rows are asked for.
            Op::SelectRows(_) => plain(self.plain(get(0)?)?),
            Op::Mix(p) => plain(self.mix(p, step)?),
            Op::Attention(p) => plain(self.attention(p, step)?),
            Op::Pool(p) => plain(self.pool(p, get(0)?)?),
            Op::Patches(p) => plain(self.patches(p, get(0)?)?),
            Op::Pixels(p) => {
                let x = self.plain(get(0)?)?;
                let shape = [-1, p.channels as i64, p.height as i64, p.width as i64];
                let image = self.reshaped(&x, &shape);
                Forms { plain: None, image: Some(image) }
            }
            Op::Conv2d(p) => self.conv2d(p, step)?,
            Op::DepthwiseConv2d(p) => self.depthwise_conv2d(p, step)?,
            Op::MaxPool2d(p) => self.max_pool2d(p, get(0)?)?,
            Op::AveragePool2d(p) => self.average_pool2d(p, get(0)?)?,
            Op::ConvTranspose2d(p) => self.conv_transpose2d(p, step)?,
            Op::Resize(p) => self.resize(p, get(0)?)?,
            Op::GroupNorm(p) => self.group_norm(p, step)?,
            Op::Map(p) => {
                let types: Vec<DType> = step.inputs.iter().map(|id| self.dtype(*id)).collect();
                self.elementwise(step, |this, names| this.map(p, names, &types))?
            }
            op => plain(self.tensor(op, step, x)?),
        })
    }

    fn dtype(&self, id: OperandId) -> DType {
        self.entry.operands.get(id).map_or(DType::F32, |o| o.fact.dtype)
    }

    fn shape(&self, id: OperandId) -> &'a [Dim] {
        self.entry.operands.get(id).map_or(&[], |o| o.fact.shape.as_slice())
    }

    /// The last size.
    fn cols(&self, id: OperandId) -> Result<i64> {
        let last = self.shape(id).last().and_then(Dim::as_const);
        last.and_then(|n| i64::try_from(n).ok()).ok_or_else(malformed)
    }

    /// A value as the plan has it.
    pub fn plain(&mut self, id: OperandId) -> Result<String> {
        if let Some(OperandKind::Weight(_)) = self.entry.operands.get(id).map(|o| o.kind) {
            let dims = self.known(id)?;
            return self.weight(id, &dims);
        }
        let forms = self.forms.get(&id).cloned().unwrap_or_default();
        if let Some(name) = forms.plain {
            return Ok(name);
        }
        let image =
            forms.image.ok_or_else(|| Error::mismatch("a value is read before it is made"))?;
        let plain = self.rows_of_image(&image, id)?;
        self.forms.entry(id).or_default().plain = Some(plain.clone());
        Ok(plain)
    }

    /// Known sizes.
    fn known(&self, id: OperandId) -> Result<Vec<i64>> {
        let known = |d: &Dim| d.as_const().and_then(|n| i64::try_from(n).ok());
        self.shape(id).iter().map(known).collect::<Option<_>>().ok_or_else(malformed)
    }

    /// A weight in these sizes.
    fn weight(&mut self, id: OperandId, dims: &[i64]) -> Result<String> {
        let Some(OperandKind::Weight(weight)) = self.entry.operands.get(id).map(|o| o.kind) else {
            return Err(malformed());
        };
        let key = (weight, dims.to_vec());
        if let Some(name) = self.initialisers.get(&key) {
            return Ok(name.clone());
        }
        let tensor = self.weights.initialiser(weight, dims)?;
        let half = tensor.data_type == dtype::FLOAT16;
        let mut name = self.b.initialiser(tensor);
        if half {
            name = self.b.cast(&name, dtype::FLOAT);
        }
        self.initialisers.insert(key, name.clone());
        Ok(name)
    }

    /// A weight `[rows, cols]`.
    fn matrix(&mut self, id: OperandId) -> Result<String> {
        let dims = self.known(id)?;
        self.weight(id, &dims)
    }

    /// A weight of one row as a list, or as a column of images: `[cols, 1, ..]`.
    fn vector(&mut self, id: OperandId, behind: usize) -> Result<String> {
        let mut dims = vec![self.cols(id)?];
        dims.extend(std::iter::repeat_n(1, behind));
        self.weight(id, &dims)
    }

    /// A size of the call, `[1]`.
    pub fn size(&mut self, dim: &Dim) -> Result<String> {
        if let Some(n) = dim.as_const().and_then(|n| i64::try_from(n).ok()) {
            return Ok(self.b.integers(&[n]));
        }
        if let Some(name) = self.sizes.get(dim) {
            return Ok(name.clone());
        }
        let (kind, a, b) = match dim {
            // The larger, or none where one is 0.
            Dim::Broadcast(a, b) => {
                let most = Dim::Max(a.clone(), b.clone());
                let least =
                    Dim::Min(Box::new(Dim::Const(1)), Box::new(Dim::Min(a.clone(), b.clone())));
                let name = self.size(&Dim::Mul(Box::new(most), Box::new(least)))?;
                self.sizes.insert(dim.clone(), name.clone());
                return Ok(name);
            }
            Dim::Add(a, b) => ("Add", a, b),
            Dim::Sub(a, b) => ("Sub", a, b),
            Dim::Mul(a, b) => ("Mul", a, b),
            Dim::FloorDiv(a, b) => ("Div", a, b),
            Dim::Min(a, b) => ("Min", a, b),
            Dim::Max(a, b) => ("Max", a, b),
            _ => return Err(Error::unsupported(format!("no input has the size {dim}"))),
        };
        let (a, b) = (self.size(a)?, self.size(b)?);
        let name = self.b.op(kind, &[&a, &b], Vec::new());
        self.sizes.insert(dim.clone(), name.clone());
        Ok(name)
    }

    /// Sizes of the call in one list.
    fn sizes(&mut self, dims: &[Dim]) -> Result<String> {
        let known = |d: &Dim| d.as_const().and_then(|n| i64::try_from(n).ok());
        if let Some(known) = dims.iter().map(known).collect::<Option<Vec<_>>>() {
            return Ok(self.b.integers(&known));
        }
        let parts = dims.iter().map(|dim| self.size(dim)).collect::<Result<Vec<_>>>()?;
        Ok(self.joined(&parts, 0))
    }

    /// Values one after the other along an axis.
    fn joined(&mut self, parts: &[String], axis: i64) -> String {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            [one] => (*one).to_owned(),
            parts => self.b.op("Concat", parts, vec![int("axis", axis)]),
        }
    }

    /// In known sizes, of which one may be -1.
    fn reshaped(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.b.integers(shape);
        self.b.op("Reshape", &[x, &shape], Vec::new())
    }

    fn turned(&mut self, x: &str, order: &[i64]) -> String {
        self.b.op("Transpose", &[x], vec![ints("perm", order.iter().copied())])
    }

    /// Elements `from..to` along an axis.
    fn part(&mut self, x: &str, axis: i64, from: i64, to: i64) -> String {
        let [from, to, axis] = [from, to, axis].map(|n| self.b.integers(&[n]));
        self.b.op("Slice", &[x, &from, &to, &axis], Vec::new())
    }

    fn scaled(&mut self, x: String, by: f32) -> String {
        if by == 1.0 {
            return x;
        }
        let by = self.b.number(by);
        self.b.op("Mul", &[&x, &by], Vec::new())
    }

    /// An op of each element by itself: of images where all that it takes are known as such.
    fn elementwise(
        &mut self,
        step: &Step,
        op: impl FnOnce(&mut Self, &[String]) -> String,
    ) -> Result<Forms> {
        let same = step.inputs.windows(2).all(|w| self.shape(w[0]) == self.shape(w[1]));
        let images =
            same && !step.inputs.is_empty() && step.inputs.iter().all(|id| self.is_image(*id));
        if images {
            let image = |id: &OperandId| self.forms.get(id).and_then(|forms| forms.image.clone());
            let names: Vec<String> = step.inputs.iter().filter_map(image).collect();
            return Ok(Forms { plain: None, image: Some(op(self, &names)) });
        }
        let names = step.inputs.iter().map(|id| self.plain(*id)).collect::<Result<Vec<_>>>()?;
        Ok(Forms { plain: Some(op(self, &names)), image: None })
    }

    /// The name of a symbol's size, if it is known.
    pub fn symbol(&self, name: &str) -> Option<&String> {
        self.sizes.get(&Dim::symbol(name))
    }

    /// Rows of all sequences in the place of those that outputs are asked for.
    pub fn ask_for_all_rows(&mut self) {
        if let Some(tokens) = self.symbol(Symbol::TOKENS).cloned() {
            self.bind(Dim::symbol(Symbol::OUTPUTS), tokens);
        }
    }
}

fn malformed() -> Error {
    Error::mismatch("its operands do not fit its op")
}
