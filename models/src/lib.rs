//! Student architectures, one file each: configuration and tensor names in, graph out.
//!
//! Nothing is guessed: a configuration key, tensor or value that a builder does not know is an
//! error that names it.
#![forbid(unsafe_code)]

mod acm;
mod bert;
mod config;
mod decoder;
mod error;
mod llama;
mod mixtral;
mod moe;
mod moe_llava;
mod qwen2;
mod qwen3;
mod qwen_moe;
mod resnet;
mod rope;
mod tensors;
mod unet;
mod vit;

use std::collections::BTreeSet;

use limbeck_graph::Graph;
use limbeck_plan::{Op, Pooling, Task};
use serde_json::Value;

pub use config::Config;
pub use error::{Error, ErrorKind};
pub use tensors::{TensorIndex, TensorInfo};

/// What a checkpoint says beside its tensors.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// `config.json`, or its equivalent made from another format's metadata.
    pub config: Value,
    /// Configuration keys that the caller declares harmless.
    pub ignored_keys: BTreeSet<String>,
    /// How an encoder's rows become one vector, where the checkpoint says so.
    pub pooling: Option<EmbeddingRule>,
    /// Whether experts keep the checkpoint's limit on their tokens of a call.
    pub moe_capacity: bool,
    /// Height and width of an image, for a student that takes any size.
    pub image: Option<[usize; 2]>,
}

/// How an encoder's rows become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingRule {
    /// Which rows.
    pub pooling: Pooling,
    /// Whether the vector is scaled to length 1.
    pub normalise: bool,
}

/// A student as graphs.
#[derive(Clone, Debug)]
pub struct Student {
    /// Architecture name.
    pub architecture: String,
    /// What it is for.
    pub task: Task,
    /// Positions that a sequence may have.
    pub context_length: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Elements of an embedding (0 for text students).
    pub embedding_size: usize,
    /// Entry names and their graphs.
    pub entries: Vec<(String, Graph)>,
    /// What the caller should know of the import.
    pub notes: Vec<String>,
}

type Builder = fn(&mut Config, &TensorIndex, &Description) -> Result<Student, Error>;

/// The architectures by `model_type`, or diffusers' `_class_name`.
const ARCHITECTURES: &[(&str, Builder)] = &[
    ("UNet2DModel", unet::build),
    ("acm_vit", vit::build),
    ("bert", bert::build),
    ("llama", llama::build),
    ("mixtral", mixtral::build),
    ("moe_llava_qwen1_5", moe_llava::build),
    ("moe_llava_qwen2", moe_llava::build),
    ("qwen2", qwen2::build),
    ("qwen2_moe", qwen_moe::build_2),
    ("qwen3", qwen3::build),
    ("qwen3_moe", qwen_moe::build_3),
    ("resnet", resnet::build),
];

/// Names of the architectures that [`build`] knows.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name)
}

/// Builds the graphs of a checkpoint.
///
/// # Errors
/// An unknown architecture, a configuration key or value that is not supported, a tensor that is
/// missing, unknown or of the wrong shape.
pub fn build(description: &Description, tensors: &TensorIndex) -> Result<Student, Error> {
    let mut config = Config::new(&description.config)?;
    let model_type: String = match config.get("_class_name")? {
        Some(class) => class,
        None => config.require("model_type")?,
    };
    let builder = ARCHITECTURES.iter().find(|(name, _)| *name == model_type);
    let Some((_, builder)) = builder else {
        let known: Vec<&str> = architectures().collect();
        let message = format!(
            "architecture {model_type:?} is not supported (supported: {})",
            known.join(", ")
        );
        return Err(Error::new(ErrorKind::Unsupported, message));
    };
    let student = builder(&mut config, tensors, description)?;
    config.finish(&description.ignored_keys)?;
    tensors.finish()?;
    if description.moe_capacity && !has_capacity(&student) {
        let message = format!("{model_type} has no experts whose tokens are limited");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(student)
}

fn has_capacity(student: &Student) -> bool {
    let mut nodes = student.entries.iter().flat_map(|(_, graph)| graph.nodes());
    nodes.any(|node| matches!(&node.op, Op::MoeMlp(p) if p.capacity.is_some()))
}
