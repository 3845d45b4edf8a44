//! The crate's error.

use std::fmt;

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The plan file is damaged, hostile, or made for another version.
    Plan,
    /// A file could not be read or written.
    Io,
    /// The plan cannot do what was asked of it: wrong task, no tokenizer, a missing entry.
    Unsupported,
    /// The caller's values are out of range or of the wrong shape.
    InvalidInput,
    /// More tokens than the context or the cache may hold.
    Capacity,
    /// More memory than the limit allows, or than the system has.
    Memory,
    /// The call was cancelled.
    Cancelled,
    /// The backend failed.
    Backend,
}

/// An error with what it happened to.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    place: Option<String>,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, place: None, message: message.into(), source: None }
    }

    /// Says where it happened: a file, an entry, a step, a tensor.
    pub(crate) fn at(mut self, place: impl Into<String>) -> Error {
        let place = place.into();
        self.place = Some(match self.place {
            Some(inner) => format!("{place}: {inner}"),
            None => place,
        });
        self
    }

    /// Keeps the error that caused this one.
    pub(crate) fn caused_by(
        mut self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        self.source = Some(Box::new(source));
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What it happened to, if known.
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<limbeck_plan::Error> for Error {
    fn from(e: limbeck_plan::Error) -> Error {
        let kind = match e.kind() {
            limbeck_plan::ErrorKind::Io => ErrorKind::Io,
            _ => ErrorKind::Plan,
        };
        Error::new(kind, e.to_string()).caused_by(e)
    }
}

impl From<limbeck_kernels::Error> for Error {
    fn from(e: limbeck_kernels::Error) -> Error {
        let kind = match e.kind() {
            limbeck_kernels::ErrorKind::Capacity => ErrorKind::Capacity,
            limbeck_kernels::ErrorKind::Memory => ErrorKind::Memory,
            limbeck_kernels::ErrorKind::Range
            | limbeck_kernels::ErrorKind::Sequence
            | limbeck_kernels::ErrorKind::Snapshot => ErrorKind::InvalidInput,
            _ => ErrorKind::Backend,
        };
        Error::new(kind, e.to_string()).caused_by(e)
    }
}
