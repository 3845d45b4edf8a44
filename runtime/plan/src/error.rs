//! The crate's error.

use std::fmt;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Not a plan file at all.
    NotAPlan,
    /// Made for another version of the format.
    Version,
    /// The bytes contradict themselves or end too early.
    Corrupt,
    /// A checksum does not match.
    Checksum,
    /// The program breaks a rule (operands, shapes, ops).
    Invalid,
    /// Reading or writing failed.
    Io,
}

/// An error with the section (or step) it was found in.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    place: String,
    message: String,
    source: Option<std::io::Error>,
}

impl Error {
    pub(crate) fn new(
        kind: ErrorKind,
        place: impl Into<String>,
        message: impl Into<String>,
    ) -> Error {
        Error { kind, place: place.into(), message: message.into(), source: None }
    }

    pub(crate) fn io(place: &str, source: std::io::Error) -> Error {
        Error {
            kind: ErrorKind::Io,
            place: place.into(),
            message: source.to_string(),
            source: Some(source),
        }
    }

    /// What kind of thing is wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The section, entry or step it was found in.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
