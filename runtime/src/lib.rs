//! Limbeck: an embeddable runtime for compact distilled students.
//!
//! An [`Engine`] opens plan files as [`Model`]s. A [`Session`] advances sequences of tokens through
//! a text student, [`text::generate`] drives it; an [`Encoder`] turns texts into vectors, a
//! [`Classifier`] images into logits, a [`Diffuser`] noise into samples.
#![deny(unsafe_code)]

mod backend;
mod budget;
mod bytes;
mod classify;
mod control;
pub mod controller;
mod diffuse;
mod embed;
mod engine;
mod error;
mod forward;
mod log;
mod memory;
mod model;
mod onnx;
mod pace;
mod philox;
mod route;
mod session;
mod sync;
mod task;
pub mod text;
mod usage;

pub use backend::DeviceUse;
#[cfg(feature = "wgpu")]
pub use backend::wgpu::{ADAPTER_VARIABLE, Adapter, adapters, prefers_gpu};
pub use budget::{Budget, Limits};
pub use bytes::SharedBytes;
pub use classify::Classifier;
pub use control::{Control, Settings};
pub use controller::{Status, Unmet};
pub use diffuse::{DiffuseOptions, DiffuseProgress, Diffuser, Diffusion};
pub use embed::{Encoded, Encoder, EncoderInput};
pub use engine::{BackendKind, Engine, EngineOptions, ISA_VARIABLE, MAX_THREADS};
pub use error::{Error, ErrorKind, Result};
pub use forward::{Forward, Interface, Tensor, TensorData, TensorValues, TensorView};
pub use limbeck_plan as plan;
pub use log::{Level, Logger};
pub use model::Model;
pub use onnx::{LIBRARY_VARIABLE, OnnxOptions, OnnxRuntime};
pub use session::{
    KvFormat, LogitsRow, MAX_CHUNK, Sequence, Session, SessionOptions, Wanted, Work,
};
pub use usage::{SiteUsage, Usage};
