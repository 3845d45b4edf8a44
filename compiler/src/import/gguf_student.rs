//! A GGUF file as a checkpoint.

use std::path::Path;

use limbeck_models::Description;
use limbeck_plan::{GenerationDefaults, SpecialTokens};
use serde_json::json;

use super::checkpoint::{Checkpoint, TextFiles};
use super::gguf::GgufCheckpoint;
use super::tensor::Tensor;
use crate::error::Result;

/// An opened GGUF file with what it says of the student.
#[derive(Debug)]
pub struct GgufStudent {
    student: String,
    file: GgufCheckpoint,
    description: Description,
    text: TextFiles,
}

impl GgufStudent {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`GgufCheckpoint::open`].
    pub fn open(path: &Path) -> Result<GgufStudent> {
        let file = GgufCheckpoint::open(path)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(GgufStudent {
            student: file.name().map_or_else(|| stem.into_owned(), str::to_owned),
            description: describe(&file),
            text: text_files(&file),
            file,
        })
    }
}

impl Checkpoint for GgufStudent {
    fn format(&self) -> &'static str {
        "gguf"
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn text(&self) -> &TextFiles {
        &self.text
    }

    fn student(&self) -> &str {
        &self.student
    }

    fn licence(&self) -> Option<&str> {
        self.file.licence()
    }

    fn tensors(&self) -> Vec<Tensor<'_>> {
        self.file.tensor_names().filter_map(|name| self.file.tensor(name)).collect()
    }

    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.file.tensor(name)
    }
}

/// The file's divisors of the RoPE frequencies, which stand in no `config.json`, become a scaling
/// kind of their own.
fn describe(file: &GgufCheckpoint) -> Description {
    let mut config = file.config().clone();
    if let Some(factors) = file.rope_freq_factors() {
        config["rope_scaling"] = json!({"rope_type": "factors", "factors": factors});
    }
    Description { config, ..Description::default() }
}

fn text_files(file: &GgufCheckpoint) -> TextFiles {
    let Some(tokenizer) = file.tokenizer() else {
        return TextFiles::default();
    };
    TextFiles {
        tokenizer: Some(tokenizer.json.clone()),
        chat_template: tokenizer.chat_template.clone(),
        special: SpecialTokens {
            bos: tokenizer.bos,
            eos: tokenizer.end_of_generation.clone(),
            pad: tokenizer.pad,
        },
        add_bos: tokenizer.add_bos,
        generation: GenerationDefaults::default(),
        max_tokens: None,
    }
}
