//! The bytes of a plan: mapped from a file, owned, or shared by the app.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use limbeck_plan::PLAN_ALIGN;
use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, ErrorKind, Result};

/// Bytes that something of the app's keeps. What it gives must stay the same as long as it lives.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Bytes that a model keeps alive.
#[derive(Clone)]
pub(crate) enum PlanBytes {
    /// A mapped file.
    Mapped(Arc<Mmap>),
    /// Bytes in memory.
    Owned(Arc<[u8]>),
    /// Bytes of the app.
    Shared(SharedBytes),
}

impl PlanBytes {
    /// Maps a file for reading. It must be neither written to nor made shorter while the model lives, as
    /// `Engine::open` says.
    pub(crate) fn map(path: &Path) -> Result<PlanBytes> {
        let named = |e: Error| e.at(path.display().to_string());
        // Looked at before it is opened: opening a pipe waits for a writer.
        let metadata = std::fs::metadata(path).map_err(|e| named(io(e)))?;
        if !metadata.is_file() {
            return Err(named(Error::new(ErrorKind::Io, "this is not a file")));
        }
        let file = File::open(path).map_err(|e| named(io(e)))?;
        PlanBytes::map_range(&file, 0, metadata.len()).map_err(named)
    }

    /// Maps `len` bytes of an open file from `offset` on, under the same condition.
    pub(crate) fn map_range(file: &File, offset: u64, len: u64) -> Result<PlanBytes> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidInput, message));
        if !offset.is_multiple_of(PLAN_ALIGN as u64) {
            return invalid(format!("offset {offset} is not a multiple of {PLAN_ALIGN}"));
        }
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::Io, "this is not a file"));
        }
        let have = metadata.len();
        if offset.checked_add(len).is_none_or(|end| end > have) {
            return invalid(format!("{len} bytes from {offset} on are beyond the file's {have}"));
        }
        let Ok(size) = usize::try_from(len) else {
            return invalid(format!("{len} bytes do not fit this machine's memory"));
        };
        if size == 0 {
            return Ok(PlanBytes::Owned(Arc::from([])));
        }
        let mut options = MmapOptions::new();
        options.offset(offset).len(size);
        // SAFETY: the mapping is read-only and private to this value, and is read as `u8` only,
        // for which every content is valid. That no one shortens or rewrites the file meanwhile is
        // required of the caller in `Engine::open`.
        #[allow(unsafe_code, reason = "mapping a file")]
        let map = unsafe { options.map(file) }.map_err(io)?;
        // Every token reads the weights: fewer and larger pages where the system has them. It may not.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(PlanBytes::Mapped(Arc::new(map)))
    }

    /// Lets go of the pages of a file that were read so far.
    #[cfg(all(feature = "ort", unix))]
    #[allow(unsafe_code, reason = "the advice is one of those that forget what was written")]
    pub(crate) fn let_go(&self) {
        if let PlanBytes::Mapped(map) = self {
            // SAFETY: the mapping is only read, so that what it lets go of comes from the file again.
            let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            // Advice that is not taken changes nothing.
            drop(advised);
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            PlanBytes::Mapped(map) => map,
            PlanBytes::Owned(bytes) => bytes,
            PlanBytes::Shared(bytes) => (**bytes).as_ref(),
        }
    }
}

fn io(e: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, e.to_string()).caused_by(e)
}
