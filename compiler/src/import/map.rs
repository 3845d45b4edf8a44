//! The bytes of a checkpoint file: mapped from disk, or owned.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// The bytes of one file, read through a memory map so that a checkpoint larger than the memory
/// can be read tensor by tensor.
#[derive(Debug)]
pub struct FileBytes {
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps a file for reading. While the value lives, nothing may truncate or rewrite the file.
    #[allow(
        unsafe_code,
        reason = "whether a mapped file stays unchanged is beyond the compiler's sight"
    )]
    pub fn open(path: &Path) -> Result<FileBytes> {
        // Looked at before it is opened: opening a pipe waits for a writer.
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(Error::format("this is not a file"));
        }
        if metadata.len() == 0 {
            return Ok(FileBytes::from(Vec::new()));
        }
        let file = File::open(path)?;
        // SAFETY: the map is private to this value and read-only; the bytes are only ever read as
        // `u8`, for which any content is valid. The one remaining condition, that no one changes
        // the file meanwhile, is passed on to the caller in this function's documentation.
        let mapped = unsafe { Mmap::map(&file)? };
        Ok(FileBytes { bytes: Bytes::Mapped(mapped) })
    }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> FileBytes {
        FileBytes { bytes: Bytes::Owned(bytes) }
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(vec) => vec,
        }
    }
}
