//! The bytes of a plan: mapped from a file, or owned.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, ErrorKind, Result};

/// Bytes that a model keeps alive.
#[derive(Clone)]
pub(crate) enum PlanBytes {
    /// A mapped file.
    Mapped(Arc<Mmap>),
    /// Bytes in memory.
    Owned(Arc<[u8]>),
}

impl PlanBytes {
    /// Maps a file for reading. The file must not be changed while the model lives; replacing it
    /// by a rename, as the compiler does, is fine.
    pub(crate) fn map(path: &Path) -> Result<PlanBytes> {
        let io = |e: std::io::Error| {
            Error::new(ErrorKind::Io, e.to_string()).at(path.display().to_string()).caused_by(e)
        };
        // Looked at before it is opened: opening a pipe waits for a writer.
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            let e = Error::new(ErrorKind::Plan, "this is not a file");
            return Err(e.at(path.display().to_string()));
        }
        if metadata.len() == 0 {
            return Ok(PlanBytes::Owned(Arc::from([])));
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the mapping is read-only and private to this value, and is read as `u8` only,
        // for which every content is valid. That no one shortens or rewrites the file meanwhile is
        // required of the caller in `Engine::open`.
        #[allow(unsafe_code, reason = "mapping a file is the one unsafe act of this crate")]
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(PlanBytes::Mapped(Arc::new(map)))
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            PlanBytes::Mapped(map) => map,
            PlanBytes::Owned(bytes) => bytes,
        }
    }
}
