//! The Limbeck compiler: turns a student's checkpoint into one plan file.
//!
//! `checkpoint --import--> graph --passes--> graph --pack--> plan file`: see [`compile`].
#![deny(unsafe_code)]

mod compile;
mod emit;
pub mod error;
pub mod import;
pub mod pack;
pub mod passes;
mod sparsify;
mod steps;
mod tokenizer;
mod write;

pub use compile::{Options, Progress, Report, compile};
pub use error::{Error, ErrorKind, Result};
pub use pack::Quant;
pub use sparsify::{ChannelWeights, SparsityLevel, set_levels, sparsify};
pub use write::{check_output, rewrite};
