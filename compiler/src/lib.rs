//! The Limbeck compiler: turns a student's checkpoint into one plan file.
//!
//! `checkpoint --import--> graph --passes--> graph --pack--> plan file`: see [`compile`].
#![deny(unsafe_code)]

mod compile;
mod emit;
pub mod error;
mod export;
pub mod import;
mod onnx;
pub mod pack;
pub mod passes;
mod segments;
mod sparsify;
mod steps;
mod tokenizer;
mod write;

pub use compile::{Options, Progress, Report, compile};
pub use error::{Error, ErrorKind, Result};
pub use export::{Exported, export};
pub use pack::Quant;
pub use segments::{Prefer, Reason, SegmentReport, summary};
pub use sparsify::{ChannelWeights, SparsityLevel, set_levels, sparsify};
pub use write::{check_output, rewrite};
