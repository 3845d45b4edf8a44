//! The C ABI of Limbeck. `include/limbeck.h` is made from these files and documents each function;
//! `include/limbeck.hpp` lies over it.
//!
//! Each file is a concept. All entry points go through [`guard::guard`], which catches panics, and
//! take pointers apart with [`arg`] alone: there and in [`options`] lies the `unsafe` of this crate.
#![allow(non_camel_case_types, reason = "the names are those of C")]
#![allow(clippy::missing_safety_doc, reason = "the header states what each pointer must be")]

mod arg;
mod bytes;
mod control;
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
