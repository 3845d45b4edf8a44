//! GGUF checkpoints: one file with metadata, tokenizer and tensors, presented as Hugging Face
//! would: a configuration, tensor names and row order, and a `tokenizer.json`.

mod blocks;
mod config;
mod cursor;
mod dequant;
mod experts;
mod names;
mod reader;
mod tokenizer;
mod value;

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

pub use blocks::BlockType;
pub(in crate::import) use dequant::dequantise;
pub use reader::{Gguf, TensorInfo};
pub use tokenizer::GgufTokenizer;
pub use value::{Array, Value, ValueType};

use super::map::FileBytes;
use super::tensor::Tensor;
use crate::error::{At, Error, Result};
use names::Entry;

/// An opened GGUF checkpoint of a supported architecture (`llama`, `qwen2`, `qwen2moe`, `qwen3`,
/// `qwen3moe`).
#[derive(Debug)]
pub struct GgufCheckpoint {
    file: FileBytes,
    config: Json,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    rope_freq_factors: Option<Vec<f32>>,
    tokenizer: Option<GgufTokenizer>,
    name: Option<String>,
    licence: Option<String>,
}

impl GgufCheckpoint {
    /// Maps and checks a file. Nothing may change the file while the checkpoint lives.
    ///
    /// Errors name the file and the key or tensor: a broken file, an unsupported architecture,
    /// key, tensor, tensor type or tokenizer, and tensors that contradict the metadata.
    pub fn open(path: &Path) -> Result<GgufCheckpoint> {
        let place = path.display();
        let file = FileBytes::open(path).at(place.to_string())?;
        GgufCheckpoint::new(file).at(place)
    }

    /// Checks a file that is already in memory.
    pub fn new(file: FileBytes) -> Result<GgufCheckpoint> {
        let gguf = Gguf::parse(&file)?;
        let sizes = config::Sizes::read(&gguf)?;
        let directory = names::directory(&gguf, &sizes)?;
        for entry in &directory.entries {
            tensor(&file, entry)?;
        }
        let config = config::hugging_face_config(&gguf, &sizes, &directory.found)?;
        let tokenizer = GgufTokenizer::read(&gguf)?;
        if let Some(tokenizer) = &tokenizer
            && tokenizer.vocab_size != directory.found.vocab
        {
            return Err(Error::mismatch(format!(
                "{} tokens, but token_embd.weight has {} rows",
                tokenizer.vocab_size, directory.found.vocab
            ))
            .at("key tokenizer.ggml.tokens"));
        }
        let rope_freq_factors = match &directory.rope_freqs {
            Some(range) => Some(
                rope_factors(file.get(range.clone()).unwrap_or_default())
                    .at("tensor rope_freqs.weight")?,
            ),
            None => None,
        };
        let name = gguf.str("general.name")?.map(str::to_owned);
        let licence = gguf.str("general.license")?.map(str::to_owned);
        let by_name = directory
            .entries
            .iter()
            .enumerate()
            .map(|(index, entry)| (entry.name.clone(), index))
            .collect();
        Ok(GgufCheckpoint {
            config,
            entries: directory.entries,
            by_name,
            rope_freq_factors,
            tokenizer,
            name,
            licence,
            file,
        })
    }

    /// The configuration as Hugging Face's `config.json` has it (transformers 4 form:
    /// `rope_theta` and `rope_scaling` at top level, `head_dim` explicit).
    pub fn config(&self) -> &Json {
        &self.config
    }

    /// One divisor per frequency, `[head_dim / 2]`: `inv_freq[i] = theta^(-2i / head_dim) /
    /// factor[i]`. Converters write Llama 3's RoPE scaling in this form only, so the
    /// configuration's `rope_scaling` is null then.
    pub fn rope_freq_factors(&self) -> Option<&[f32]> {
        self.rope_freq_factors.as_deref()
    }

    /// The tokenizer, where the file holds one.
    pub fn tokenizer(&self) -> Option<&GgufTokenizer> {
        self.tokenizer.as_ref()
    }

    /// `general.name`.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// `general.license`.
    pub fn licence(&self) -> Option<&str> {
        self.licence.as_deref()
    }

    /// Hugging Face names of all tensors.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The tensor with this Hugging Face name, rows in Hugging Face's order; `None` when the
    /// checkpoint has none of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let entry = self.entries.get(*self.by_name.get(name)?)?;
        // Opening has made every tensor once, so this does not fail.
        tensor(&self.file, entry).ok()
    }
}

fn tensor<'a>(file: &'a FileBytes, entry: &Entry) -> Result<Tensor<'a>> {
    let bytes = file.get(entry.range.clone()).unwrap_or_default();
    Tensor::new(entry.name.as_str(), entry.shape.clone(), entry.kind, bytes, entry.order)
}

fn rope_factors(bytes: &[u8]) -> Result<Vec<f32>> {
    let (chunks, _) = bytes.as_chunks();
    let factors: Vec<f32> = chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    match factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0) {
        Some(factor) => Err(Error::format(format!("{factor} is not a positive number"))),
        None => Ok(factors),
    }
}
