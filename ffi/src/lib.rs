//! The C ABI of Limbeck. `include/limbeck.h` is made from these files and documents each function;
//! `include/limbeck.hpp` lies over it.
//!
//! Each file is a concept. All entry points go through [`guard::guard`], which catches panics, and
//! take pointers apart with [`arg`] alone: there and in [`options`] lies the `unsafe` of this crate, but
//! for calls of the app's functions and a file descriptor of its.
#![allow(non_camel_case_types, reason = "the names are those of C")]
#![allow(clippy::missing_safety_doc, reason = "the header states what each pointer must be")]

mod arg;
mod bytes;
mod control;
mod diffuse;
mod embed;
mod engine;
mod error;
mod forward;
mod generate;
mod guard;
mod hooks;
mod log;
mod model;
mod options;
mod session;
mod text;
mod usage;

// Rust's face is for tests: programs in Rust use the crate `limbeck`.
pub use bytes::*;
pub use control::*;
pub use diffuse::*;
pub use embed::*;
pub use engine::*;
pub use error::*;
pub use forward::*;
pub use generate::*;
#[cfg(feature = "test-hooks")]
pub use hooks::lbk_test_panic;
pub use log::*;
pub use model::*;
pub use session::*;
pub use text::*;
pub use usage::*;

/// What the header says of threads, as far as types can hold it.
const fn any_thread<T: Send + Sync>() {}

const _: () = {
    any_thread::<bytes::lbk_bytes>();
    any_thread::<control::lbk_control>();
    any_thread::<diffuse::lbk_diffuser>();
    any_thread::<embed::lbk_encoder>();
    any_thread::<engine::lbk_engine>();
    any_thread::<error::lbk_error>();
    any_thread::<forward::lbk_forward>();
    any_thread::<forward::lbk_tensors>();
    any_thread::<generate::lbk_generation>();
    any_thread::<model::lbk_model>();
    any_thread::<session::lbk_session>();
    any_thread::<text::lbk_detokenizer>();
    any_thread::<text::lbk_tokens>();
    any_thread::<usage::lbk_usage>();
};
