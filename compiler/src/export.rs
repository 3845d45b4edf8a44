//! Dense students as plain ONNX: `model.onnx`, with large weights in a file beside it, and how it is sampled in
//! another.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use limbeck_kernels::Packed;
use limbeck_plan::{
    DType, Dim, Entry, Manifest, MapStep, Op, OperandKind, Plan, Step, Symbol, Task, Weight,
};

use crate::error::{At, Error, Result};
use crate::onnx::builder::{Builder, element_type};
use crate::onnx::lower::{Lowering, Rows, Weights, refusal};
use crate::onnx::proto::{StringStringEntryProto, TensorProto, dtype};
use crate::steps::declare;

/// The model's file.
const MODEL: &str = "model.onnx";
/// The file of its large weights.
const DATA: &str = "model.onnx.data";
/// The file of a sampler, which is found beside the model.
const SAMPLER: &str = "sampler.json";
/// Bytes of a weight from which on it lies in that file.
const LARGE: usize = 1024;
/// Where weights begin there: at multiples of this.
const ALIGN: u64 = 64;

/// What was written.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Nodes of the graph.
    pub nodes: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Names of inputs and outputs.
    pub interface: (Vec<String>, Vec<String>),
}

/// Writes the student of a dense plan as ONNX to a folder, which is made where it is missing. Weights are
/// f32, dequantised where the plan has them in fewer bits. `bytes` are those that `plan` was parsed from.
///
/// Text students take `input_ids` `[batch, tokens]` and give the logits of every token, without a cache.
/// Encoders take `input_ids` and `attention_mask`, classifiers `pixel_values`; entries of tensors keep
/// their names. Beside a student that denoises lies its sampler, as `docs/samplers.md` has it.
///
/// # Errors
/// Ops that ONNX has no form for, such as those that choose per token; steps that no declaration says;
/// damaged weights; a folder that cannot be written.
pub fn export(plan: &Plan, bytes: &[u8], folder: &Path) -> Result<Exported> {
    let entry = entry(plan)?;
    check(entry)?;
    plan.verify(bytes)?;
    let folder_was_there = folder.exists();
    if folder_was_there && !folder.is_dir() {
        return Err(Error::mismatch("it is a file, and a folder is written").at(folder.display()));
    }
    std::fs::create_dir_all(folder).at(folder.display())?;
    let written = write(plan, entry, bytes, folder);
    if written.is_err() && !folder_was_there {
        // A folder in which something lies is kept.
        let _ = std::fs::remove_dir(folder);
    }
    written
}

/// Writes the files of an entry that has a form in ONNX; an error leaves none of them half written.
fn write(plan: &Plan, entry: &Entry, bytes: &[u8], folder: &Path) -> Result<Exported> {
    let data = Part::create(folder, DATA)?;
    let weights = Dequantised {
        plan,
        bytes,
        file: RefCell::new((data, 0)),
        places: RefCell::new(HashMap::new()),
    };
    let graph = graph(plan, entry, &weights)?;
    let (data, stored) = weights.file.into_inner();
    let names = |infos: &[crate::onnx::proto::ValueInfoProto]| {
        infos.iter().map(|i| i.name.clone()).collect()
    };
    let (nodes, interface) = (graph.node.len(), (names(&graph.input), names(&graph.output)));
    let licence = plan.manifest().licence.as_deref();
    let metadata: Vec<(&str, &str)> = licence.map(|text| ("license", text)).into_iter().collect();
    let model = crate::onnx::model(graph, &metadata);
    let sampler = plan.program().sampler.as_ref().map(declare).transpose().at("sampler")?;
    let sampler = sampler.map_or_else(String::new, |declared| format!("{declared:#}\n"));
    let mut parts = Vec::new();
    for (name, bytes) in [(SAMPLER, sampler.as_bytes()), (MODEL, &model)] {
        if !bytes.is_empty() {
            let mut part = Part::create(folder, name)?;
            part.file.write_all(bytes).at(folder.display())?;
            parts.push(part);
        }
    }
    if stored > 0 {
        parts.insert(0, data);
    }
    keep(parts, folder)?;
    Ok(Exported { nodes, bytes: stored + (sampler.len() + model.len()) as u64, interface })
}

/// Gives the files their names, the model's last: without it the others are of no use.
fn keep(parts: Vec<Part>, folder: &Path) -> Result<()> {
    let mut kept = Vec::new();
    for part in parts {
        let name = part.name;
        if let Err(error) = part.keep(folder) {
            for name in kept {
                // A file that is left over is only untidy.
                let _ = std::fs::remove_file(folder.join(name));
            }
            return Err(error);
        }
        kept.push(name);
    }
    Ok(())
}

/// The entry of a plan's task.
fn entry(plan: &Plan) -> Result<&Entry> {
    let name = match plan.manifest().task {
        Task::Text => Manifest::TEXT_ENTRY,
        Task::Embed => Manifest::EMBED_ENTRY,
        Task::Classify => Manifest::CLASSIFY_ENTRY,
        Task::Tensors => Manifest::TENSORS_ENTRY,
        // What each step runs.
        Task::Diffuse => {
            let sampler = plan.program().sampler.as_ref();
            let rows = sampler.into_iter().flat_map(|s| &s.tables).flat_map(|t| &t.rows);
            let mut names = rows.map(|row| row.entry.as_str());
            let first = names.next().ok_or_else(|| Error::missing("the plan has no sampler"))?;
            if names.any(|name| name != first) {
                let message = "its steps run several entries, and a model of ONNX has one";
                return Err(Error::unsupported(message));
            }
            first
        }
    };
    let found = plan.program().entry(name);
    found.ok_or_else(|| Error::missing(format!("the plan has no entry {name:?}")))
}

/// Refuses an entry with ops that have no nodes: all of them, by name.
fn check(entry: &Entry) -> Result<()> {
    let refused = entry.steps().filter_map(|s| refusal(&s.op).map(|why| (s.op.name(), why)));
    let refused: BTreeSet<(&str, &str)> = refused.collect();
    if refused.is_empty() {
        return Ok(());
    }
    let listed: Vec<String> = refused.iter().map(|(op, why)| format!("{op} ({why})")).collect();
    let message = format!(
        "ONNX has no form for {}: export a plan that is compiled from the dense student",
        listed.join(", ")
    );
    Err(Error::unsupported(message).at(format_args!("entry {:?}", entry.name)))
}

fn graph(
    plan: &Plan,
    entry: &Entry,
    weights: &dyn Weights,
) -> Result<crate::onnx::proto::GraphProto> {
    let mut b = Builder::default();
    let passed = passed_on(entry)?;
    for (_, operand) in entry.operands_of(OperandKind::Output) {
        if !passed.contains(operand.name.as_str()) {
            b.reserve(&operand.name);
        }
    }
    b.step = "inputs".into();
    let mut lowering = match plan.manifest().task {
        Task::Tensors | Task::Diffuse => tensors(b, entry, weights),
        Task::Classify => images(b, plan, entry, weights)?,
        Task::Text | Task::Embed => tokens(b, plan, entry, weights)?,
    };
    for step in entry.steps() {
        lowering.step(step)?;
    }
    lowering.b.step = "outputs".into();
    for (id, operand) in entry.operands_of(OperandKind::Output) {
        let mut value = lowering.plain(id)?;
        let mut shape = operand.fact.shape.clone();
        let by_row = matches!(shape.first(), Some(Dim::Symbol(s))
            if [Symbol::TOKENS, Symbol::OUTPUTS].contains(&s.name()));
        if by_row && let Some(last) = shape.pop() {
            value = lowering.apart(&value, &last)?;
            shape = vec![Dim::symbol("batch"), Dim::symbol("tokens"), last];
        } else if shape.first() == Some(&Dim::symbol(Symbol::SEQUENCES)) {
            shape[0] = Dim::symbol("batch");
        }
        let elements = element_type(operand.fact.dtype);
        match passed.contains(operand.name.as_str()) {
            true => lowering.b.passed_on(&operand.name, elements, &shape),
            false => lowering.b.output(&operand.name, &value, elements, &shape),
        }
    }
    Ok(lowering.b.finish(&plan.manifest().student))
}

/// The outputs that are called as inputs are, of which they have to be copies.
fn passed_on(entry: &Entry) -> Result<BTreeSet<&str>> {
    let mut found = BTreeSet::new();
    for (input, given) in entry.operands_of(OperandKind::Input) {
        let mut outputs = entry.operands_of(OperandKind::Output);
        let Some((output, _)) = outputs.find(|(_, o)| o.name == given.name) else { continue };
        let copies = |op: &Op| matches!(op, Op::Map(map) if map.steps == [MapStep::Input(0)]);
        let copy =
            |step: &&Step| step.inputs == [input] && step.outputs == [output] && copies(&step.op);
        if entry.steps().find(copy).is_none() {
            let message = format!("the output {:?} is called as an input is", given.name);
            return Err(Error::unsupported(message));
        }
        found.insert(given.name.as_str());
    }
    Ok(found)
}

/// An entry of tensors: its own inputs.
fn tensors<'a>(mut b: Builder, entry: &'a Entry, weights: &'a dyn Weights) -> Lowering<'a> {
    let mut names = Vec::new();
    for (id, operand) in entry.operands_of(OperandKind::Input) {
        let fact = &operand.fact;
        names.push((id, b.input(&operand.name, element_type(fact.dtype), &fact.shape)));
    }
    let mut lowering = Lowering::new(b, entry, weights, Rows::Tensors);
    names.iter().for_each(|(id, name)| lowering.give(*id, name));
    lowering
}

/// A call of images of one size.
fn images<'a>(
    mut b: Builder,
    plan: &Plan,
    entry: &'a Entry,
    weights: &'a dyn Weights,
) -> Result<Lowering<'a>> {
    let sides = entry.steps().find_map(|step| match &step.op {
        Op::Patches(p) => Some([p.channels, p.height, p.width]),
        Op::Pixels(p) => Some([p.channels, p.height, p.width]),
        _ => None,
    });
    let sides =
        sides.ok_or_else(|| Error::mismatch("the plan does not say how it takes images"))?;
    let shape: Vec<Dim> = [Dim::symbol("batch")].into_iter().chain(sides.map(Dim::from)).collect();
    let pixels = b.input("pixel_values", dtype::FLOAT, &shape);
    let flat = b.op("Flatten", &[&pixels], vec![crate::onnx::builder::int("axis", 1)]);
    let length = b.integers(&[plan.manifest().context_length as i64]);
    let batch = size(&mut b, &pixels, 0);
    let tokens = b.op("Mul", &[&batch, &length], Vec::new());
    let positions = positions(&mut b, &batch, &length);
    let rows = Rows::Even { batch: batch.clone(), length, mask: None };
    let mut lowering = Lowering::new(b, entry, weights, rows);
    lowering.bind(Dim::symbol(Symbol::SEQUENCES), batch);
    lowering.bind(Dim::symbol(Symbol::TOKENS), tokens);
    for (id, operand) in entry.operands_of(OperandKind::Input) {
        lowering.give(id, if operand.fact.dtype == DType::F32 { &flat } else { &positions });
    }
    Ok(lowering)
}

/// A call of as many tokens of each sequence.
fn tokens<'a>(
    mut b: Builder,
    plan: &Plan,
    entry: &'a Entry,
    weights: &'a dyn Weights,
) -> Result<Lowering<'a>> {
    let shape = [Dim::symbol("batch"), Dim::symbol("tokens")];
    let ids = b.input("input_ids", dtype::INT64, &shape);
    let mask = if plan.manifest().task == Task::Embed {
        let given = b.input("attention_mask", dtype::INT64, &shape);
        Some(b.cast(&given, dtype::BOOL))
    } else {
        None
    };
    let (batch, length) = (size(&mut b, &ids, 0), size(&mut b, &ids, 1));
    let all = b.integers(&[-1]);
    let flat = b.op("Reshape", &[&ids, &all], Vec::new());
    let flat = b.cast(&flat, dtype::INT32);
    let tokens = b.op("Mul", &[&batch, &length], Vec::new());
    let positions = positions(&mut b, &batch, &length);
    let rows = Rows::Even { batch: batch.clone(), length, mask };
    let mut lowering = Lowering::new(b, entry, weights, rows);
    lowering.bind(Dim::symbol(Symbol::SEQUENCES), batch);
    lowering.bind(Dim::symbol(Symbol::TOKENS), tokens);
    lowering.ask_for_all_rows();
    for (id, operand) in entry.operands_of(OperandKind::Input) {
        let name = match operand.name.as_str() {
            "input_ids" => &flat,
            "positions" => &positions,
            other => return Err(Error::unsupported(format!("the input {other:?}"))),
        };
        lowering.give(id, name);
    }
    Ok(lowering)
}

/// The size of an axis, `[1]`.
fn size(b: &mut Builder, x: &str, axis: i64) -> String {
    use crate::onnx::builder::int;
    b.op("Shape", &[x], vec![int("start", axis), int("end", axis + 1)])
}

/// The place of each row within its sequence, `[batch length]`.
fn positions(b: &mut Builder, batch: &str, length: &str) -> String {
    let axes = b.integers(&[0]);
    let count = b.op("Squeeze", &[length, &axes], Vec::new());
    let (zero, one) = (b.integer(0), b.integer(1));
    let places = b.op("Range", &[&zero, &count, &one], Vec::new());
    let shape = b.op("Concat", &[batch, length], vec![crate::onnx::builder::int("axis", 0)]);
    let each = b.op("Expand", &[&places, &shape], Vec::new());
    let all = b.integers(&[-1]);
    let flat = b.op("Reshape", &[&each, &all], Vec::new());
    b.cast(&flat, dtype::INT32)
}

/// A file that is written under another name until it is whole, and removed where it is not kept.
struct Part {
    file: BufWriter<File>,
    name: &'static str,
    path: std::path::PathBuf,
    kept: bool,
}

impl Part {
    fn create(folder: &Path, name: &'static str) -> Result<Part> {
        let path = folder.join(format!(".{name}.{}.part", std::process::id()));
        let file = File::create(&path).at(path.display())?;
        Ok(Part { file: BufWriter::new(file), name, path, kept: false })
    }

    fn keep(mut self, folder: &Path) -> Result<()> {
        let flushed = self.file.flush();
        flushed.and_then(|()| self.file.get_ref().sync_all()).at(self.path.display())?;
        std::fs::rename(&self.path, folder.join(self.name)).at(self.path.display())?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            // A file that is left over is only untidy.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A plan's weights in f32.
struct Dequantised<'a> {
    plan: &'a Plan,
    bytes: &'a [u8],
    /// The file of large ones, and its bytes so far.
    file: RefCell<(Part, u64)>,
    /// By weight, where it lies there.
    places: RefCell<HashMap<usize, u64>>,
}

impl Dequantised<'_> {
    fn values(&self, weight: &Weight) -> Result<Vec<u8>> {
        let bytes = self.plan.weight_bytes(self.bytes, weight);
        let packed = Packed::new(weight.format, weight.rows, weight.cols, bytes)?;
        let mut row = vec![0.0; weight.cols];
        let mut values = Vec::with_capacity(weight.rows * weight.cols * size_of::<f32>());
        for index in 0..weight.rows {
            packed.unpack_row(index, &mut row)?;
            values.extend(row.iter().flat_map(|v| v.to_le_bytes()));
        }
        Ok(values)
    }
}

impl Weights for Dequantised<'_> {
    fn initialiser(&self, id: usize, dims: &[i64]) -> Result<TensorProto> {
        let weight = self.plan.program().weights.get(id);
        let weight = weight.ok_or_else(|| Error::missing(format!("weight {id}")))?;
        let length = weight.rows * weight.cols * size_of::<f32>();
        let mut tensor = TensorProto {
            name: weight.name.clone(),
            dims: dims.to_vec(),
            data_type: dtype::FLOAT,
            ..TensorProto::default()
        };
        if length < LARGE {
            tensor.raw_data = self.values(weight)?;
            return Ok(tensor);
        }
        let known = self.places.borrow().get(&id).copied();
        let offset = match known {
            Some(offset) => offset,
            None => {
                let values = self.values(weight)?;
                let mut stored = self.file.borrow_mut();
                let (part, used) = &mut *stored;
                let offset = used.next_multiple_of(ALIGN);
                let padding = vec![0; (offset - *used) as usize];
                part.file.write_all(&padding).at(part.path.display())?;
                part.file.write_all(&values).at(part.path.display())?;
                *used = offset + values.len() as u64;
                self.places.borrow_mut().insert(id, offset);
                offset
            }
        };
        let pairs = [
            ("location", DATA.to_owned()),
            ("offset", offset.to_string()),
            ("length", length.to_string()),
        ];
        tensor.external_data = pairs
            .into_iter()
            .map(|(key, value)| StringStringEntryProto { key: key.into(), value })
            .collect();
        tensor.data_location = 1;
        Ok(tensor)
    }
}
