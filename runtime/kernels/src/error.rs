//! The crate's error: what kind of input was refused, and a sentence that says why.

use std::fmt;

/// What kind of input an op or a cache refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A slice's length or a dimension does not match the others.
    Shape,
    /// A pack format that does not exist, or bytes that do not fit it.
    Format,
    /// An id, a position or a value outside its range.
    Range,
    /// An instruction set that is unknown or that this CPU does not have.
    Isa,
    /// A KV cache has no free block left.
    Capacity,
    /// The system has no memory left.
    Memory,
    /// An unknown or freed sequence.
    Sequence,
    /// A snapshot that does not belong to this cache or is damaged.
    Snapshot,
}

/// An input that was refused. Nothing was written when an op returns one.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn shape(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Shape, message)
    }

    pub(crate) fn range(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Range, message)
    }

    /// What kind of input was refused.
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

/// Refuses a slice whose length is not `want`.
pub(crate) fn check_len(what: &str, got: usize, want: usize) -> Result<(), Error> {
    if got == want {
        Ok(())
    } else {
        Err(Error::shape(format!("{what} has {got} elements, expected {want}")))
    }
}
