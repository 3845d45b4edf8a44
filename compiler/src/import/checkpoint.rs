//! What every importer gives: a description of the student, its tensors, and its text files.

use std::path::Path;

use limbeck_models::{Description, Student};
use limbeck_plan::{GenerationDefaults, SpecialTokens};
use serde_json::Value;

use super::gguf_student::GgufStudent;
use super::onnx::{OnnxChoices, OnnxModel};
use super::safetensors::SafetensorsCheckpoint;
use super::tensor::Tensor;
use crate::error::{At, Error, Result};
use crate::segments::Part;

/// What a text or embedding student needs beside its tensors.
#[derive(Clone, Debug, Default)]
pub struct TextFiles {
    /// `tokenizer.json` of the `tokenizers` library.
    pub tokenizer: Option<String>,
    /// Jinja chat template.
    pub chat_template: Option<String>,
    /// Special ids.
    pub special: SpecialTokens,
    /// Whether a prompt begins with the bos token.
    pub add_bos: bool,
    /// Sampling defaults.
    pub generation: GenerationDefaults,
    /// Tokens that an encoder takes at most, where that is fewer than its positions.
    pub max_tokens: Option<usize>,
}

/// An opened checkpoint, which several threads read at once.
pub trait Checkpoint: Sync {
    /// Format name: `gguf`, `safetensors`.
    fn format(&self) -> &'static str;
    /// Configuration and pooling.
    fn description(&self) -> &Description;
    /// Tokenizer, template, special ids.
    fn text(&self) -> &TextFiles;
    /// Name for people.
    fn student(&self) -> &str;
    /// Licence, where the checkpoint states one.
    fn licence(&self) -> Option<&str>;
    /// All tensors.
    fn tensors(&self) -> Vec<Tensor<'_>>;
    /// One tensor.
    fn tensor(&self, name: &str) -> Option<Tensor<'_>>;
    /// The student as graphs, where the checkpoint holds these and not a configuration.
    fn graph(&self) -> Option<&Student> {
        None
    }
    /// The models of that graph's ONNX segments.
    fn parts(&self) -> &[Part] {
        &[]
    }
    /// How samples are made with the student, where the checkpoint says it (`docs/samplers.md`).
    fn sampler(&self) -> Option<&Value> {
        None
    }
}

/// Opens a checkpoint: a folder of safetensors, a `.gguf` file or a `.onnx` file, which `onnx` is for.
///
/// # Errors
/// A path that is neither, or a checkpoint that its importer refuses.
pub fn open(path: &Path, onnx: &OnnxChoices) -> Result<Box<dyn Checkpoint>> {
    let place = path.display().to_string();
    let metadata = std::fs::metadata(path).at(&place)?;
    if metadata.is_dir() {
        return Ok(Box::new(SafetensorsCheckpoint::open(path)?));
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "onnx" => Ok(Box::new(OnnxModel::open(path, onnx)?)),
        "gguf" => Ok(Box::new(GgufStudent::open(path)?)),
        "safetensors" => {
            let message = "give the folder that holds it, with its config.json";
            Err(Error::unsupported(message).at(place))
        }
        _ => {
            Err(Error::unsupported("neither a checkpoint folder nor a .gguf or .onnx file")
                .at(place))
        }
    }
}
