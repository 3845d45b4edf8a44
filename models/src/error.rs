//! The crate's error.

use std::fmt;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An architecture, key, value or tensor that is not supported.
    Unsupported,
    /// A key or tensor that is missing.
    Missing,
    /// A value or shape that contradicts the rest.
    Mismatch,
}

/// Why a checkpoint is refused; the message names the key or tensor.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// What kind of thing is wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<limbeck_graph::Error> for Error {
    fn from(e: limbeck_graph::Error) -> Error {
        Error::new(ErrorKind::Mismatch, e.to_string())
    }
}
