//! A bounds-checked little-endian cursor over untrusted bytes.

use crate::error::{Error, Result};

/// Reads forward through a byte slice; every read is checked against its end.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, offset: 0 }
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes left.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.offset.checked_add(count);
        match end.and_then(|end| self.bytes.get(self.offset..end)) {
            Some(taken) => {
                self.offset += count;
                Ok(taken)
            }
            None => Err(Error::format(format!(
                "the file ends at offset {}: {count} bytes expected, {} left",
                self.bytes.len(),
                self.remaining()
            ))
            .at(format_args!("offset {}", self.offset))),
        }
    }

    /// The next `N` bytes as an array.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things that take at least `least` bytes each: refused when the bytes left
    /// cannot hold them.
    pub(super) fn count(&mut self, what: &str, least: usize) -> Result<usize> {
        let start = self.offset;
        let count = self.u64()?;
        let most = self.remaining() / least.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(Error::format(format!(
                "{count} {what} declared, but the {} bytes left can hold at most {most}",
                self.remaining()
            ))
            .at(format_args!("offset {start}"))),
        }
    }

    /// A length-prefixed UTF-8 string.
    pub(super) fn string(&mut self) -> Result<&'a str> {
        let length = self.count("bytes of a string", 1)?;
        let start = self.offset;
        std::str::from_utf8(self.take(length)?).map_err(|error| {
            Error::format(format!("a string is not UTF-8: {error}"))
                .at(format_args!("offset {start}"))
        })
    }
}
