//! Limbeck: an embeddable runtime for compact distilled students.
#![deny(unsafe_code)]

mod error;
pub mod text;

pub use error::{Error, ErrorKind, Result};
