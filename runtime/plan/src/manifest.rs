//! The manifest: what a student is and how its files are to be used, in JSON.

use serde::{Deserialize, Serialize};

/// What a student is for; it decides which task of the runtime drives its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Continues text, entry [`Manifest::TEXT_ENTRY`].
    Text,
    /// Maps text to vectors, entry [`Manifest::EMBED_ENTRY`].
    Embed,
    /// Gives images a logit for each class, entry [`Manifest::CLASSIFY_ENTRY`].
    Classify,
    /// Makes tensors of tensors, entry [`Manifest::TENSORS_ENTRY`].
    Tensors,
    /// Makes samples of noise, as [`crate::Program::sampler`] says.
    Diffuse,
}

/// Token ids with a meaning of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpecialTokens {
    /// Put before a text when [`Manifest::add_bos`] is set.
    pub bos: Option<u32>,
    /// Each ends a generation.
    pub eos: Vec<u32>,
    /// Fills batches.
    pub pad: Option<u32>,
}

/// Sampling defaults that came with the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationDefaults {
    /// Temperature, when the checkpoint samples.
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens.
    pub top_k: Option<u32>,
    /// Keep the smallest set of tokens with this probability.
    pub top_p: Option<f32>,
    /// Divides the logits of tokens seen.
    pub repetition_penalty: Option<f32>,
}

/// Where a plan came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// File or folder name of the checkpoint.
    pub source: String,
    /// Format of the checkpoint: `gguf`, `safetensors`, ...
    pub format: String,
    /// Program and version that compiled it.
    pub compiler: String,
    /// What packing was asked for.
    pub quantisation: String,
}

/// Description of a student, stored as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name for people.
    pub student: String,
    /// Architecture, for people; the runtime decides nothing by it.
    pub architecture: String,
    /// What it is for.
    pub task: Task,
    /// Positions that a sequence may have.
    pub context_length: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Elements of an embedding (0 for text students).
    #[serde(default)]
    pub embedding_size: usize,
    /// Special ids.
    #[serde(default)]
    pub special: SpecialTokens,
    /// Whether a prompt begins with `special.bos`.
    #[serde(default)]
    pub add_bos: bool,
    /// Jinja chat template.
    #[serde(default)]
    pub chat_template: Option<String>,
    /// Sampling defaults.
    #[serde(default)]
    pub generation: GenerationDefaults,
    /// Licence as the checkpoint states it.
    #[serde(default)]
    pub licence: Option<String>,
    /// Origin.
    #[serde(default)]
    pub provenance: Provenance,
}

impl Manifest {
    /// Entry of a text decoder: `input_ids [tokens]` to `logits [outputs, vocab]`.
    pub const TEXT_ENTRY: &'static str = "text";
    /// Entry of an encoder: `input_ids [tokens]`, `positions [tokens]` to
    /// `last_hidden_state [tokens, hidden]` and `embedding [sequences, hidden]`.
    pub const EMBED_ENTRY: &'static str = "embed";
    /// Entry of an image classifier: `pixel_values [sequences, channels height width]`, `positions
    /// [tokens]` to `logits [sequences, classes]`.
    pub const CLASSIFY_ENTRY: &'static str = "classify";
    /// Entry of tensors, with names and sizes of its own; a call binds the symbols of its inputs.
    pub const TENSORS_ENTRY: &'static str = "tensors";
    /// Entry of a student that denoises, where its sampler has one: tensors with names of their own.
    pub const DENOISE_ENTRY: &'static str = "denoise";
    /// Largest [`Manifest::context_length`].
    pub const MAX_CONTEXT: usize = 1 << 24;
}
