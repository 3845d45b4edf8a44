//! The compiler's error: what went wrong, and where in which file.

use std::fmt;

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused to read or write.
    Io,
    /// The bytes are not a valid file of their format.
    Format,
    /// The file is valid, but holds something that this version does not support.
    Unsupported,
    /// Two parts of the input contradict each other (a shape against the configuration, say).
    Mismatch,
    /// Something that the input must hold is not there.
    Missing,
}

/// An error with its kind and the place where it happened, outermost first
/// (file, then section, tensor or key).
#[derive(Debug)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    /// Innermost first.
    places: Vec<String>,
    source: Option<std::io::Error>,
}

/// Result with the compiler's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A new error without a place.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                places: Vec::new(),
                source: None,
            }),
        }
    }

    /// A valid file with broken contents.
    pub fn format(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Format, message)
    }

    /// Something that this version does not support, named in the message.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// Two parts of the input that contradict each other.
    pub fn mismatch(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Mismatch, message)
    }

    /// Something that the input must hold is not there.
    pub fn missing(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Missing, message)
    }

    /// Adds the place in which `self` happened, around the places already named.
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.inner.places.push(place.to_string());
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Where it happened, outermost first, such as `student.gguf: tensor blk.0.attn_q.weight`.
    /// Empty when no place is known.
    pub fn location(&self) -> String {
        let places: Vec<&str> = self.inner.places.iter().rev().map(String::as_str).collect();
        places.join(": ")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.inner.places.is_empty() {
            write!(f, "{}: ", self.location())?;
        }
        f.write_str(&self.inner.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_ref().map(|e| e as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Error {
        let mut error = Error::new(ErrorKind::Io, source.to_string());
        error.inner.source = Some(source);
        error
    }
}

impl From<limbeck_plan::Error> for Error {
    fn from(e: limbeck_plan::Error) -> Error {
        let kind = match e.kind() {
            limbeck_plan::ErrorKind::Io => ErrorKind::Io,
            _ => ErrorKind::Mismatch,
        };
        Error::new(kind, e.to_string())
    }
}

impl From<limbeck_models::Error> for Error {
    fn from(e: limbeck_models::Error) -> Error {
        let kind = match e.kind() {
            limbeck_models::ErrorKind::Unsupported => ErrorKind::Unsupported,
            limbeck_models::ErrorKind::Missing => ErrorKind::Missing,
            _ => ErrorKind::Mismatch,
        };
        Error::new(kind, e.to_string())
    }
}

impl From<limbeck_kernels::Error> for Error {
    fn from(e: limbeck_kernels::Error) -> Error {
        Error::new(ErrorKind::Mismatch, e.to_string())
    }
}

/// Names the place of an error on its way up.
pub trait At<T> {
    /// Adds a place to the error, if there is one.
    fn at(self, place: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> At<T> for std::result::Result<T, E> {
    fn at(self, place: impl fmt::Display) -> Result<T> {
        self.map_err(|e| e.into().at(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_from_the_outside_in() {
        let inner: Result<()> = Err(Error::format("offset 7 is not aligned"));
        let error = inner.at("tensor t").at("a.gguf").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        assert_eq!(error.location(), "a.gguf: tensor t");
        assert_eq!(error.to_string(), "a.gguf: tensor t: offset 7 is not aligned");
    }

    #[test]
    fn io_errors_keep_their_source() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error = Error::from(io).at("x");
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(std::error::Error::source(&error).is_some());
    }
}
