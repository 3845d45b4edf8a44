//! The whole way from a checkpoint to a plan file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use limbeck_models::{Student, TensorIndex, TensorInfo};
use limbeck_plan::{Manifest, Op, Provenance, Sampler, Site, Task};

use crate::emit::{Emitted, Packing, emit};
use crate::error::{At, Error, Result};
use crate::import::{self, Checkpoint, OnnxChoices};
use crate::pack::Quant;
use crate::segments::{self, Choice, Prefer, SegmentReport};
use crate::steps::Declaration;
use crate::write::{Metadata, check_output, replace_plan};
use crate::{passes, tokenizer};

/// What to compile into what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder or file of the checkpoint.
    pub source: PathBuf,
    /// Plan file to write; replaced only when the new plan is complete.
    pub output: PathBuf,
    /// Folders whose safetensors are added to the checkpoint's tensors.
    pub overlays: Vec<PathBuf>,
    /// Pack formats.
    pub quant: Quant,
    /// Whether activations meet the quantised weight of every linear in two 8-bit parts, not only
    /// where that pays most. Experts and learners have no such form.
    pub precise: bool,
    /// Configuration keys that are declared harmless.
    pub ignored_keys: BTreeSet<String>,
    /// Whether experts keep the checkpoint's limit on their tokens of a call, as its own code does.
    /// A token then depends on the others of its call.
    pub moe_capacity: bool,
    /// Height and width of images, for a student that takes any size; else what the checkpoint says.
    pub image_size: Option<[usize; 2]>,
    /// Values of an ONNX model's inputs, which become constants.
    pub fixed: BTreeMap<String, f64>,
    /// Who computes what both native kernels and ONNX Runtime can.
    pub prefer: Prefer,
    /// Names of nodes for ONNX Runtime, in which `*` stands for any text.
    pub onnx_for: Vec<String>,
    /// How samples are made, in a file of its own; else what the checkpoint says.
    pub sampler: Option<PathBuf>,
    /// Whether the passes run; without them the plan is the imported graph.
    pub passes: bool,
    /// Whether gates of several linears are folded to one, which may change choices that are
    /// nearly ties.
    pub fold_gates: bool,
}

impl Options {
    /// Options for this source, plan file and packing.
    pub fn new(source: impl Into<PathBuf>, output: impl Into<PathBuf>, quant: Quant) -> Options {
        Options {
            source: source.into(),
            output: output.into(),
            overlays: Vec::new(),
            quant,
            precise: false,
            ignored_keys: BTreeSet::new(),
            moe_capacity: false,
            image_size: None,
            fixed: BTreeMap::new(),
            prefer: Prefer::Native,
            onnx_for: Vec::new(),
            sampler: None,
            passes: true,
            fold_gates: false,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the student.
    pub student: String,
    /// Its architecture.
    pub architecture: String,
    /// Steps over all entries.
    pub steps: usize,
    /// Formats and conversion errors.
    pub packing: Packing,
    /// Bytes of the plan file.
    pub file_bytes: u64,
    /// What the caller should know of the import.
    pub notes: Vec<String>,
    /// What ONNX Runtime computes.
    pub segments: Vec<SegmentReport>,
}

/// Hears of the work as it goes on: weights done, of how many, and the one at hand.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize, &str);

/// Compiles a checkpoint.
///
/// The plan is written to a temporary file beside `output`, synced, and renamed; whatever fails,
/// a plan that stood there before is left as it was.
///
/// # Errors
/// A checkpoint that is refused (the message names what), or a file that cannot be written.
pub fn compile(options: &Options, progress: Progress<'_>) -> Result<Report> {
    check_output(&options.output)?;
    let onnx = OnnxChoices {
        fixed: options.fixed.clone(),
        prefer: options.prefer,
        onnx_for: options.onnx_for.clone(),
    };
    let checkpoint = import::open_with(&options.source, &options.overlays, &onnx)?;
    let overlays = options.overlays.iter().map(|folder| format!(" with {}", folder.display()));
    let place = format!("{}{}", options.source.display(), overlays.collect::<String>());
    let mut student = build(checkpoint.as_ref(), options).at(&place)?;
    let sampler = sampler(checkpoint.as_ref(), options, &mut student).at(&place)?;
    if options.fold_gates {
        let fold = |(_, graph): &mut (_, _)| passes::FOLD_GATES.run(graph).map(drop);
        student.entries.iter_mut().try_for_each(fold)?;
    }
    if options.passes {
        student.entries.iter_mut().try_for_each(|(_, graph)| passes::run_all(graph))?;
        if options.quant == Quant::Q8 {
            let mut encoders = student.entries.iter_mut().filter(|(_, g)| g.states().is_empty());
            encoders.try_for_each(|(_, graph)| passes::EQUALISE.run(graph).map(drop))?;
        }
    }
    if let Some(tokenizer) = &checkpoint.text().tokenizer {
        tokenizer::check(tokenizer, student.vocab_size).at("tokenizer").at(&place)?;
    }
    let choices = choices(&student, options, checkpoint.as_ref()).at(&place)?;
    let passes_as_it_is = !checkpoint.parts().is_empty();
    student.notes.extend(segment_notes(&choices, passes_as_it_is, options.quant));
    let (packing, segments) = replace_plan(&options.output, |writer| {
        let numbers = (options.quant, options.precise);
        let Emitted { mut program, packing, models, segments } =
            emit(&student.entries, &choices, numbers, checkpoint.as_ref(), writer, progress)?;
        if let Some((sampler, site)) = sampler {
            program.sampler = Some(sampler);
            program.sites.push(site);
        }
        let tokenizer = checkpoint.text().tokenizer.as_deref().map(str::as_bytes);
        let manifest = manifest(&student, options, checkpoint.as_ref());
        let models = models.into();
        let metadata = Metadata { manifest, program, tokenizer, calibration: None, models };
        Ok((metadata, (packing, segments)))
    })?;
    Ok(Report {
        student: checkpoint.student().into(),
        steps: student.entries.iter().map(|(_, g)| g.nodes().len()).sum(),
        architecture: student.architecture,
        notes: student.notes,
        segments,
        packing,
        file_bytes: std::fs::metadata(&options.output).at(options.output.display())?.len(),
    })
}

/// By entry, the nodes of native graphs for ONNX Runtime. Those of an ONNX model are chosen as it is
/// imported.
fn choices(
    student: &Student,
    options: &Options,
    checkpoint: &dyn Checkpoint,
) -> Result<Vec<Choice>> {
    let of = |(name, graph): &(String, limbeck_graph::Graph)| {
        if checkpoint.graph().is_some() {
            return Ok(Choice::default());
        }
        segments::choose(graph, options.prefer, &options.onnx_for)
            .at(format_args!("entry {name:?}"))
    };
    student.entries.iter().map(of).collect()
}

/// What the caller should know of these choices.
fn segment_notes(choices: &[Choice], passes_as_it_is: bool, quant: Quant) -> Vec<String> {
    let mut notes = Vec::new();
    let mut kept: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (of, count) in choices.iter().flat_map(|choice| &choice.kept) {
        *kept.entry(*of).or_default() += count;
    }
    notes.extend(kept.into_iter().map(|((op, why), n)| format!("{n} x {op} stay native: {why}")));
    let chosen = choices.iter().any(|choice| !choice.chosen.is_empty());
    if chosen && matches!(quant, Quant::Q8 | Quant::Q4) {
        notes.push("weights of ONNX segments are kept in f32".into());
    }
    if passes_as_it_is && !matches!(quant, Quant::Keep | Quant::F32) {
        let message =
            "weights of ONNX segments are kept as the model has them, whatever --quant says";
        notes.push(message.into());
    }
    notes
}

/// Builds a checkpoint's graphs, before any pass.
///
/// # Errors
/// As [`limbeck_models::build`].
fn build(checkpoint: &dyn Checkpoint, options: &Options) -> Result<Student> {
    if let Some(student) = checkpoint.graph() {
        if options.image_size.is_some() || options.moe_capacity || !options.ignored_keys.is_empty()
        {
            let message = "an ONNX model has no configuration that options could change";
            return Err(Error::unsupported(message));
        }
        return Ok(student.clone());
    }
    if let Some(name) = options.fixed.keys().next() {
        let message = format!("{name:?} cannot be fixed: only ONNX models have such inputs");
        return Err(Error::unsupported(message));
    }
    let index = TensorIndex::new(checkpoint.tensors().iter().map(|t| {
        let info = TensorInfo { shape: t.shape().to_vec(), storage: t.storage().name().into() };
        (t.name().to_owned(), info)
    }));
    let mut description = checkpoint.description().clone();
    description.ignored_keys.extend(options.ignored_keys.iter().cloned());
    description.moe_capacity = options.moe_capacity;
    description.image = options.image_size.or(description.image);
    let student = limbeck_models::build(&description, &index)?;
    let mut nodes = student.entries.iter().flat_map(|(_, graph)| graph.nodes());
    if options.image_size.is_some() && !nodes.any(|node| matches!(node.op, Op::Pixels(_))) {
        let message = format!("{} does not take images of any size", student.architecture);
        return Err(Error::unsupported(message));
    }
    Ok(student)
}

/// Makes the student one that is sampled, where something says how.
fn sampler(
    checkpoint: &dyn Checkpoint,
    options: &Options,
    student: &mut Student,
) -> Result<Option<(Sampler, Site)>> {
    let given = options.sampler.as_deref().map(import::sampler::of_file).transpose()?;
    let Some(declared) = given.as_ref().or(checkpoint.sampler()) else {
        if student.task == Task::Diffuse {
            let message =
                "the student denoises, and nothing says how it is sampled: give --sampler";
            return Err(Error::missing(message));
        }
        return Ok(None);
    };
    let read = Declaration::read(declared, &options.ignored_keys);
    read.and_then(|declaration| declaration.lay_on(student)).at("sampler").map(Some)
}

fn manifest(student: &Student, options: &Options, checkpoint: &dyn Checkpoint) -> Manifest {
    let text = checkpoint.text();
    let source = options.source.file_name().unwrap_or_default();
    Manifest {
        student: checkpoint.student().into(),
        architecture: student.architecture.clone(),
        task: student.task,
        context_length: text
            .max_tokens
            .map_or(student.context_length, |n| n.clamp(1, student.context_length)),
        vocab_size: student.vocab_size,
        embedding_size: student.embedding_size,
        special: text.special.clone(),
        add_bos: text.add_bos,
        chat_template: text.chat_template.clone(),
        generation: text.generation.clone(),
        licence: checkpoint.licence().map(str::to_owned),
        provenance: Provenance {
            source: source.to_string_lossy().into(),
            format: checkpoint.format().into(),
            compiler: concat!("limbeck ", env!("CARGO_PKG_VERSION")).into(),
            quantisation: match options.precise {
                true => format!("{} --precise", options.quant),
                false => options.quant.to_string(),
            },
        },
    }
}
