//! Programs: entries made of segments of steps over dense operand ids, the states they keep and
//! the weights they share.

use serde::{Deserialize, Serialize};

use crate::{Dim, MAX_RANK, Op, PackFormat, Sampler, Symbol};

/// Element type of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32; also what a packed weight stands for.
    F32,
    /// 32-bit signed integers.
    I32,
}

/// What is known of a value: element type and shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<Dim>,
}

impl Fact {
    /// A fact of this type and shape.
    pub fn new(dtype: DType, shape: Vec<Dim>) -> Fact {
        Fact { dtype, shape }
    }

    /// Whether a call with tokens and sequences gives it: ids of its tokens, or numbers of its
    /// sequences.
    pub fn is_of_call(&self) -> bool {
        match (self.dtype, self.shape.as_slice()) {
            (DType::I32, [rows]) => *rows == Dim::symbol(Symbol::TOKENS),
            (DType::F32, [rows, cols]) => {
                *rows == Dim::symbol(Symbol::SEQUENCES) && cols.as_const().is_some()
            }
            _ => false,
        }
    }

    /// Whether its first size is in terms of a call with tokens and sequences.
    pub fn is_of_rows(&self) -> bool {
        let mut symbols = Vec::new();
        self.shape.iter().take(1).for_each(|dim| dim.symbols(&mut symbols));
        symbols.iter().any(|name| Symbol::OF_CALLS.contains(name))
    }

    /// Whether a caller may give it as a tensor: each size is known, or a symbol that it binds.
    pub fn is_tensor(&self) -> bool {
        let binds = |dim: &Dim| match dim {
            Dim::Const(_) => true,
            Dim::Symbol(s) => !Symbol::OF_CALLS.contains(&s.name()),
            _ => false,
        };
        self.shape.len() <= MAX_RANK && self.shape.iter().all(binds)
    }
}

impl std::fmt::Display for Fact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dtype = match self.dtype {
            DType::F32 => "f32",
            DType::I32 => "i32",
        };
        write!(f, "{dtype}[")?;
        for (i, d) in self.shape.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{d}")?;
        }
        f.write_str("]")
    }
}

/// Index of an operand within its entry.
pub type OperandId = usize;

/// Where an operand's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperandKind {
    /// Given by the caller.
    Input,
    /// Returned to the caller.
    Output,
    /// Stored in the plan: index into [`Program::weights`].
    Weight(usize),
    /// Lives in the arena between two steps.
    Scratch,
}

/// One value of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operand {
    /// Name; inputs and outputs are addressed by it.
    pub name: String,
    /// Origin.
    pub kind: OperandKind,
    /// Type and shape.
    #[serde(flatten)]
    pub fact: Fact,
}

/// One operation on operands.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The node it came from, for messages.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Operands read, in the op's order.
    pub inputs: Vec<OperandId>,
    /// Operands written.
    pub outputs: Vec<OperandId>,
    /// Multiply-adds that it spends.
    pub macs: Dim,
}

/// Steps that run without a host decision between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// In order.
    pub steps: Vec<Step>,
}

/// A named program of the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Name, unique in the plan: `text`, `embed`, ...
    pub name: String,
    /// Values.
    pub operands: Vec<Operand>,
    /// In order.
    pub segments: Vec<Segment>,
}

/// What errors say of a step of an entry, by their names.
pub fn place(entry: &str, step: &str) -> String {
    format!("entry {entry:?}, step {step:?}")
}

impl Entry {
    /// The steps of all segments, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.segments.iter().flat_map(|s| &s.steps)
    }

    /// What errors say of a step.
    pub fn place(&self, step: &str) -> String {
        place(&self.name, step)
    }

    /// The first step that symbols of these values leave without a size, and which: why a call failed.
    pub fn without_size(&self, sizes: &[(&str, u64)]) -> Option<(String, String)> {
        let bind = |name: &str| sizes.iter().find(|(n, _)| *n == name).map(|(_, size)| *size);
        for step in self.steps() {
            let params = match &step.op {
                Op::Sizes(p) => p.sizes.as_slice(),
                Op::Slice(p) => std::slice::from_ref(&p.start),
                _ => &[],
            };
            let results = step.outputs.iter().filter_map(|id| self.operands.get(*id));
            let dims = results.flat_map(|operand| &operand.fact.shape).chain(params);
            for dim in dims.filter(|dim| dim.eval(&bind).is_none()) {
                let mut names = Vec::new();
                dim.symbols(&mut names);
                // Others are of segments.
                if names.iter().any(|name| bind(name).is_none()) {
                    continue;
                }
                let mut message = format!("there is no size {dim} where");
                for (name, size) in sizes.iter().filter(|(name, _)| names.contains(name)) {
                    message = format!("{message} {name} is {size},");
                }
                message.pop();
                return Some((self.place(&step.name), message));
            }
        }
        None
    }

    /// Operands of a kind, with their ids.
    pub fn operands_of(&self, kind: OperandKind) -> impl Iterator<Item = (OperandId, &Operand)> {
        self.operands.iter().enumerate().filter(move |(_, o)| o.kind == kind)
    }
}

/// A value that a session keeps between calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name, for messages.
    pub name: String,
    /// How it grows.
    pub kind: StateKind,
}

/// How a state is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// Keys and values of one attention, one more position per token.
    Append {
        /// Key and value heads.
        kv_heads: usize,
        /// Elements per head.
        head_dim: usize,
    },
}

/// A stored weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// Name in the checkpoint, or a description of how it was made.
    pub name: String,
    /// Pack format.
    pub format: PackFormat,
    /// Rows (a vector has one).
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// First byte, from the start of the weights section; a multiple of 64.
    pub offset: u64,
    /// Length in bytes, as `format` gives it.
    pub bytes: u64,
}

/// What varies at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SiteKind {
    /// Learners of an Adaptive Computation Module.
    Acm,
    /// Nested width of an MLP.
    Width,
    /// How many experts of a mixture a token uses.
    Experts,
    /// Input channels that linears leave out.
    Sparsity,
    /// How many steps a sampler takes.
    Steps,
}

/// A place where compute can vary per token. One step chooses there ([`crate::Choose`] or
/// [`crate::MoeMlp`]); others compute as it chose. How many steps a sampler takes is chosen for each
/// call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Name, for reports.
    pub name: String,
    /// What varies.
    pub kind: SiteKind,
    /// The smallest choice; choices are `first..first + costs.len()`.
    pub first: usize,
    /// Each choice's cost relative to all that the site can spend, in 0..=1, never falling.
    pub costs: Vec<f64>,
    /// What the price is multiplied with here, > 0, so that it means the same at every site.
    pub weight: f64,
}

impl Site {
    /// The largest choice: full compute.
    pub fn last(&self) -> usize {
        (self.first + self.costs.len()).saturating_sub(1)
    }
}

/// All programs of a plan with what they share.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Program {
    /// Named programs.
    pub entries: Vec<Entry>,
    /// States that the entries keep.
    pub states: Vec<State>,
    /// Weights that the entries share.
    pub weights: Vec<Weight>,
    /// Places where compute can vary.
    #[serde(default)]
    pub sites: Vec<Site>,
    /// How samples are made, of a student that denoises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<Sampler>,
}

impl Program {
    /// The entry of this name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }
}

/// The stored form of a step: the op by name, so that an unknown one can be reported with its step.
#[derive(Serialize, Deserialize)]
pub(crate) struct RawStep {
    pub name: String,
    pub op: String,
    pub params: serde_json::Value,
    pub inputs: Vec<OperandId>,
    pub outputs: Vec<OperandId>,
    pub macs: Dim,
}

#[derive(Serialize, Deserialize)]
struct RawSegment {
    kind: String,
    steps: Vec<RawStep>,
}

#[derive(Serialize, Deserialize)]
struct RawEntry {
    name: String,
    operands: Vec<Operand>,
    segments: Vec<RawSegment>,
}

const NATIVE: &str = "native";

impl Serialize for Entry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw_step = |s: &Step| RawStep {
            name: s.name.clone(),
            op: s.op.name().into(),
            params: s.op.params(),
            inputs: s.inputs.clone(),
            outputs: s.outputs.clone(),
            macs: s.macs.clone(),
        };
        RawEntry {
            name: self.name.clone(),
            operands: self.operands.clone(),
            segments: self
                .segments
                .iter()
                .map(|s| RawSegment {
                    kind: NATIVE.into(),
                    steps: s.steps.iter().map(raw_step).collect(),
                })
                .collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Entry, D::Error> {
        let raw = RawEntry::deserialize(deserializer)?;
        Entry::from_raw(raw).map_err(serde::de::Error::custom)
    }
}

impl Entry {
    fn from_raw(raw: RawEntry) -> Result<Entry, String> {
        let RawEntry { name, operands, segments } = raw;
        let step = |s: RawStep| -> Result<Step, String> {
            Ok(Step {
                op: Op::from_parts(&s.op, s.params)
                    .map_err(|e| format!("{}: {e}", place(&name, &s.name)))?,
                name: s.name,
                inputs: s.inputs,
                outputs: s.outputs,
                macs: s.macs,
            })
        };
        let segment = |s: RawSegment| -> Result<Segment, String> {
            if s.kind != NATIVE {
                return Err(format!("entry {name:?}: unknown segment kind {:?}", s.kind));
            }
            Ok(Segment { steps: s.steps.into_iter().map(step).collect::<Result<_, _>>()? })
        };
        Ok(Entry {
            segments: segments.into_iter().map(segment).collect::<Result<_, _>>()?,
            operands,
            name: name.clone(),
        })
    }
}
