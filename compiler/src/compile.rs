//! The whole way from a checkpoint to a plan file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};

use limbeck_models::{Student, TensorIndex, TensorInfo};
use limbeck_plan::{MAGIC, Manifest, PlanWriter, Provenance};

use crate::emit::{Packing, emit};
use crate::error::{At, Error, Result};
use crate::import::{self, Checkpoint};
use crate::pack::Quant;
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
    /// Configuration keys that are declared harmless.
    pub ignored_keys: BTreeSet<String>,
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
            ignored_keys: BTreeSet::new(),
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
    let checkpoint = import::open_with(&options.source, &options.overlays)?;
    let place = options.source.display();
    let mut student = build(checkpoint.as_ref(), &options.ignored_keys).at(&place)?;
    if options.fold_gates {
        let fold = |(_, graph): &mut (_, _)| passes::FOLD_GATES.run(graph).map(drop);
        student.entries.iter_mut().try_for_each(fold)?;
    }
    if options.passes {
        student.entries.iter_mut().try_for_each(|(_, graph)| passes::run_all(graph))?;
    }
    if let Some(tokenizer) = &checkpoint.text().tokenizer {
        tokenizer::check(tokenizer, student.vocab_size).at("tokenizer").at(&place)?;
    }
    let temporary = temporary_path(&options.output)?;
    let written =
        write(&temporary, &student, options, checkpoint.as_ref(), progress).and_then(|packing| {
            std::fs::rename(&temporary, &options.output).at(options.output.display())?;
            sync_folder(&options.output);
            Ok(packing)
        });
    if written.is_err() {
        // The first error is the one to report; a file that is left over is only untidy.
        let _ = std::fs::remove_file(&temporary);
    }
    let packing = written?;
    Ok(Report {
        student: checkpoint.student().into(),
        steps: student.entries.iter().map(|(_, g)| g.nodes().len()).sum(),
        architecture: student.architecture,
        packing,
        file_bytes: std::fs::metadata(&options.output).at(options.output.display())?.len(),
    })
}

/// Builds a checkpoint's graphs, before any pass.
///
/// # Errors
/// As [`limbeck_models::build`].
fn build(checkpoint: &dyn Checkpoint, ignored_keys: &BTreeSet<String>) -> Result<Student> {
    let index = TensorIndex::new(checkpoint.tensors().iter().map(|t| {
        let info = TensorInfo { shape: t.shape().to_vec(), storage: t.storage().name().into() };
        (t.name().to_owned(), info)
    }));
    let mut description = checkpoint.description().clone();
    description.ignored_keys.extend(ignored_keys.iter().cloned());
    limbeck_models::build(&description, &index).map_err(Error::from)
}

fn write(
    path: &Path,
    student: &Student,
    options: &Options,
    checkpoint: &dyn Checkpoint,
    progress: Progress<'_>,
) -> Result<Packing> {
    let place = options.output.display();
    let file = File::create(path).at(&place)?;
    let mut writer = PlanWriter::new(BufWriter::new(file)).at(&place)?;
    let (program, packing) =
        emit(&student.entries, options.quant, checkpoint, &mut writer, progress)?;
    let manifest = manifest(student, options, checkpoint);
    let tokenizer = checkpoint.text().tokenizer.as_deref().map(str::as_bytes);
    let file = writer
        .finish(&manifest, &program, tokenizer)
        .at(&place)?
        .into_inner()
        .map_err(|e| Error::from(e.into_error()).at(&place))?;
    file.sync_all().at(&place)?;
    Ok(packing)
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
            quantisation: options.quant.to_string(),
        },
    }
}

/// Refuses to replace anything but a plan: a checkpoint, say, or a device.
fn check_output(output: &Path) -> Result<()> {
    let metadata = match std::fs::metadata(output) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found.at(output.display())?,
    };
    let is_plan = || -> std::io::Result<bool> {
        let mut start = [0; MAGIC.len()];
        File::open(output)?.read_exact(&mut start)?;
        Ok(start == MAGIC)
    };
    if metadata.is_file() && (metadata.len() == 0 || is_plan().unwrap_or(false)) {
        return Ok(());
    }
    let message = "it exists and is not a plan: it is not replaced";
    Err(Error::mismatch(message).at(output.display()))
}

/// A name beside the output, so that the rename stays within one file system.
fn temporary_path(output: &Path) -> Result<PathBuf> {
    let Some(name) = output.file_name() else {
        return Err(Error::mismatch("this is not a file name").at(output.display()));
    };
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.part", std::process::id()));
    Ok(output.with_file_name(temporary))
}

/// Makes the rename durable where the system can; a folder that cannot be synced is no failure of
/// the compilation.
fn sync_folder(output: &Path) {
    let parent = output.parent().filter(|p| !p.as_os_str().is_empty());
    if let Ok(folder) = File::open(parent.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
}
