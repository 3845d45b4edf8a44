//! Import: checkpoints of every supported file format, read lazily and in Hugging Face order.

mod checkpoint;
mod folder;
pub mod gguf;
mod gguf_student;
pub mod map;
mod onnx;
mod overlay;
mod safetensors;
pub(crate) mod sampler;
pub mod tensor;

pub use checkpoint::{Checkpoint, TextFiles, open};
pub use gguf_student::GgufStudent;
pub use onnx::{OnnxChoices, OnnxModel};
pub use overlay::open_with;
pub use safetensors::SafetensorsCheckpoint;
