//! Validation of a parsed program: afterwards every id is in range, every shape agrees, and every
//! operand is written before it is read.

use std::collections::HashSet;

use crate::error::{Error, ErrorKind};
use crate::{
    DType, Dim, Entry, Fact, InputRole, Layout, MAX_RANK, Op, Operand, OperandKind, PackFormat,
    Program, StateKind, Step, Symbol, Values, Weight,
};

/// First bytes of weights sit at multiples of this within their section.
pub const WEIGHT_ALIGN: u64 = 64;
/// Largest row or column count of a weight.
const MAX_EXTENT: usize = 1 << 31;
/// Most steps of an entry: far more than any student has, and few enough to lower at once.
const MAX_STEPS: usize = 1 << 15;
/// The rows of an image may take as many times that.
const MAX_IMAGE_ROWS: u64 = 1024;
/// One row of all of an entry's values may take as many bytes as the weights and these.
const SPARE_ROW_BYTES: u64 = 64 * 1024;

impl Program {
    /// Checks the whole program against a weights section of `weight_bytes`.
    ///
    /// # Errors
    /// The first rule that is broken, with the weight, entry or step.
    pub fn check(&self, weight_bytes: u64) -> Result<(), Error> {
        self.weights.iter().try_for_each(|w| check_weight(w, weight_bytes))?;
        for state in &self.states {
            let StateKind::Append { kv_heads, head_dim } = state.kind;
            if kv_heads == 0 || head_dim == 0 || kv_heads > 4096 || head_dim > 4096 {
                return Err(invalid(format!("state {:?}", state.name), "sizes out of range"));
            }
        }
        let mut names = HashSet::new();
        for entry in &self.entries {
            if !names.insert(&entry.name) {
                return Err(invalid(format!("entry {:?}", entry.name), "the name is used twice"));
            }
            self.check_entry(entry)?;
            check_row(entry, weight_bytes)?;
        }
        self.check_states_are_used()?;
        self.check_sites()?;
        self.check_sampler(weight_bytes)
    }

    /// Checks the ONNX segments against a section of `bytes` with their models.
    ///
    /// # Errors
    /// A model that is not within the section, with its step.
    pub fn check_models(&self, bytes: u64) -> Result<(), Error> {
        for entry in &self.entries {
            for step in entry.steps() {
                if let Op::Onnx(p) = &step.op
                    && p.offset.checked_add(p.bytes).is_none_or(|end| end > bytes)
                {
                    let place = entry.place(&step.name);
                    return Err(invalid(place, "its model ends beyond the section of models"));
                }
            }
        }
        Ok(())
    }

    fn check_entry(&self, entry: &Entry) -> Result<(), Error> {
        let place = || format!("entry {:?}", entry.name);
        let steps = entry.steps().count();
        if steps > MAX_STEPS {
            let message = format!("{steps} steps are more than {MAX_STEPS}");
            return Err(invalid(place(), message));
        }
        for operand in &entry.operands {
            let takes = operand.fact.is_of_call() || operand.fact.is_tensor();
            if operand.kind == OperandKind::Input && !takes {
                let message = format!(
                    "input {:?} is {}, not i32[tokens], f32[sequences, ...] or a tensor",
                    operand.name, operand.fact
                );
                return Err(invalid(place(), message));
            }
            if let OperandKind::Weight(id) = operand.kind {
                let weight = self
                    .weights
                    .get(id)
                    .ok_or_else(|| invalid(place(), format!("weight {id} does not exist")))?;
                if !is_of_weight(&operand.fact, weight) {
                    let Weight { rows, cols, format, .. } = weight;
                    let message =
                        format!("operand {:?} is not {rows} x {cols} in {format}", operand.name);
                    return Err(invalid(place(), message));
                }
            }
        }
        let mut written: Vec<bool> = entry
            .operands
            .iter()
            .map(|o| matches!(o.kind, OperandKind::Input | OperandKind::Weight(_)))
            .collect();
        for step in entry.steps() {
            self.check_step(entry, step, &mut written)
                .map_err(|message| invalid(entry.place(&step.name), message))?;
        }
        match entry.operands.iter().zip(&written).find(|(_, w)| !**w) {
            Some((o, _)) => Err(invalid(place(), format!("operand {:?} is never written", o.name))),
            None => Ok(()),
        }
    }

    fn check_step(&self, entry: &Entry, step: &Step, written: &mut [bool]) -> Result<(), String> {
        let mut facts = Vec::with_capacity(step.inputs.len());
        for &id in &step.inputs {
            let operand =
                entry.operands.get(id).ok_or_else(|| format!("operand {id} does not exist"))?;
            if !written.get(id).copied().unwrap_or(false) {
                return Err(format!("reads {:?} before it is written", operand.name));
            }
            facts.push(operand.fact.clone());
        }
        let outputs = step.op.infer(&facts)?;
        if outputs.len() != step.outputs.len() {
            return Err(format!("gives {} outputs, has {}", outputs.len(), step.outputs.len()));
        }
        for (role, &id) in step.op.input_roles().into_iter().zip(&step.inputs) {
            self.check_role(role, &entry.operands[id])?;
        }
        for (fact, &id) in outputs.iter().zip(&step.outputs) {
            let operand =
                entry.operands.get(id).ok_or_else(|| format!("operand {id} does not exist"))?;
            if std::mem::replace(&mut written[id], true) {
                return Err(format!("writes {:?} a second time", operand.name));
            }
            if operand.fact != *fact {
                return Err(format!("{:?} is {}, not {fact}", operand.name, operand.fact));
            }
        }
        self.check_state(&step.op)
    }

    fn check_role(&self, role: InputRole, operand: &Operand) -> Result<(), String> {
        let given = operand.kind == OperandKind::Input
            && operand.fact.dtype == DType::F32
            && operand.fact.is_of_call();
        let format = match operand.kind {
            OperandKind::Weight(id) => self.weights.get(id).map(|w| w.format),
            _ => None,
        };
        let whole = |f: PackFormat| f.layout != Layout::Row && !f.by_channel();
        let wide = |f: PackFormat| f.values == Values::Q8w;
        let fits = match role {
            InputRole::Activation => format.is_none() && !given,
            InputRole::Given => given,
            InputRole::Value => format.is_none(),
            InputRole::Matrix => format.is_some_and(|f| whole(f) && !wide(f)),
            InputRole::WholeMatrix => format.is_some_and(whole),
            InputRole::AnyMatrix => format.is_some_and(|f| f.layout != Layout::Row && !wide(f)),
            InputRole::Table => format.is_some(),
            InputRole::Vector | InputRole::Rows => format == Some(PackFormat::F32_ROW),
            InputRole::Tensor => format.is_none_or(|f| f == PackFormat::F32_ROW) && !given,
        };
        if fits {
            return Ok(());
        }
        let found = format.map_or("a value of the call".into(), |f| format!("a weight in {f}"));
        Err(format!("wants {role:?} for an input that is {found}"))
    }

    fn check_state(&self, op: &Op) -> Result<(), String> {
        let Op::Attention(p) = op else { return Ok(()) };
        let Some(id) = p.state else { return Ok(()) };
        let state = self.states.get(id).ok_or_else(|| format!("state {id} does not exist"))?;
        let StateKind::Append { kv_heads, head_dim } = state.kind;
        if (kv_heads, head_dim) == (p.kv_heads, p.head_dim) {
            Ok(())
        } else {
            Err(format!("state {:?} has other heads", state.name))
        }
    }

    /// A state that no step writes would let a small file ask for a large cache; one written twice
    /// in an entry has no meaning.
    fn check_states_are_used(&self) -> Result<(), Error> {
        let mut used = vec![false; self.states.len()];
        for entry in &self.entries {
            let mut here = HashSet::new();
            for step in entry.steps() {
                if let Op::Attention(p) = &step.op
                    && let Some(id) = p.state
                {
                    used[id] = true;
                    if !here.insert(id) {
                        let place = entry.place(&step.name);
                        return Err(invalid(place, "a state is written twice"));
                    }
                }
            }
        }
        match self.states.iter().zip(used).find(|(_, used)| !used) {
            Some((s, _)) => Err(invalid(format!("state {:?}", s.name), "no step uses it")),
            None => Ok(()),
        }
    }
}

/// Steps are cheap to write down and their values are not: a small file must not ask for a large
/// working memory. No network comes near, since a value of n columns is made by n rows of weights.
/// What the caller gives is counted with the image, which it holds itself.
fn check_row(entry: &Entry, weight_bytes: u64) -> Result<(), Error> {
    // What takes images takes the rows of a whole one.
    let patches = entry.steps().filter_map(|step| match &step.op {
        Op::Patches(p) => p.rows(),
        _ => None,
    });
    let tokens = patches.max().unwrap_or(0).max(1) as u64;
    let (mut row, mut image) = (0u64, 0u64);
    // Bytes and id of the largest value that a step gives.
    let mut largest = (0u64, 0);
    let values = entry.operands.iter().enumerate();
    for (id, operand) in values.filter(|(_, o)| !matches!(o.kind, OperandKind::Weight(_))) {
        let (fact, input) = (&operand.fact, operand.kind == OperandKind::Input);
        if !fact.is_of_rows() {
            // Of a call with tensors of the least sizes.
            let sizes = fact.shape.iter().map(|d| d.eval(&|_| Some(1)).unwrap_or(1).max(1));
            let bytes = sizes.fold(4u64, u64::saturating_mul);
            image = image.saturating_add(if input { 0 } else { bytes });
            largest = largest.max(if input { (0, id) } else { (bytes, id) });
            continue;
        }
        let columns = fact.shape.get(1).map_or(Some(1), Dim::as_const).unwrap_or(0);
        let bytes = columns.saturating_mul(4);
        let rows = fact.shape.first().and_then(|rows| rows.factor_of(Symbol::SEQUENCES));
        image = image.saturating_add(bytes.saturating_mul(rows.unwrap_or(tokens)));
        if !input {
            row = row.saturating_add(bytes);
            largest = largest.max((bytes, id));
        }
    }
    let spare = weight_bytes.saturating_add(SPARE_ROW_BYTES);
    if row <= spare && image <= spare.saturating_mul(MAX_IMAGE_ROWS) {
        return Ok(());
    }
    let message = format!(
        "values are too large for its weights: a row of all takes {row} bytes, an image {image}, all weights \
         {weight_bytes}"
    );
    let step = entry.steps().find(|step| step.outputs.contains(&largest.1));
    let step = step.map_or("", |step| &step.name);
    Err(invalid(entry.place(step), message))
}

/// Whether an operand stands for a weight: its rows and columns, or the same values in other sizes
/// where they are stored one after the other.
fn is_of_weight(fact: &Fact, weight: &Weight) -> bool {
    if fact.dtype != DType::F32 {
        return false;
    }
    let known: Option<Vec<u64>> = fact.shape.iter().map(Dim::as_const).collect();
    let Some(known) = known.filter(|sizes| sizes.len() <= MAX_RANK) else { return false };
    let (rows, cols) = (weight.rows as u64, weight.cols as u64);
    let elements = || known.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    known == [rows, cols]
        || weight.format == PackFormat::F32_ROW && elements() == rows.checked_mul(cols)
}

fn check_weight(w: &Weight, section: u64) -> Result<(), Error> {
    let fail = |message: &str| Err(invalid(format!("weight {:?}", w.name), message));
    if w.rows == 0 || w.cols == 0 || w.rows >= MAX_EXTENT || w.cols >= MAX_EXTENT {
        return fail("rows or columns out of range");
    }
    if w.format.byte_len(w.rows, w.cols).map(|n| n as u64) != Some(w.bytes) {
        return fail("its length does not follow from its shape and format");
    }
    if !w.offset.is_multiple_of(WEIGHT_ALIGN) {
        return fail("its offset is not aligned");
    }
    if w.offset.checked_add(w.bytes).is_none_or(|end| end > section) {
        return fail("it ends beyond the weights section");
    }
    Ok(())
}

pub(crate) fn invalid(place: impl Into<String>, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, place, message)
}
