//! The container: header, section table and checksums.
//!
//! ```text
//! header (64 bytes): magic "LBK\0", major u16, minor u16, sections u32, zero u32,
//!                    file length u64, checksum of the table u64, zeros
//! table: per section, 32 bytes: kind [u8; 4], flags u32, offset u64, length u64, checksum u64
//! sections, each at a multiple of 16 KiB
//! ```
//! All integers are little-endian; checksums are XXH3-64.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, ErrorKind};

/// First four bytes of a plan.
pub const MAGIC: [u8; 4] = *b"LBK\0";
/// Major version that this crate writes, and the only one that it reads.
pub const MAJOR: u16 = 1;
/// Minor version that this crate writes. A greater one may add ops, pack formats and sections: a
/// plan of it is read unless it uses one that this crate does not know and may not ignore.
pub const MINOR: u16 = 3;
/// Sections start at multiples of this: the page size of current phones and Apple machines.
pub const SECTION_ALIGN: u64 = 16 * 1024;
/// A plan inside another file starts at a multiple of this.
pub const PLAN_ALIGN: usize = 64;

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const ROW_BYTES: usize = 32;
const MAX_SECTIONS: usize = 1024;
/// Flag: a reader that does not know the section may ignore it.
pub(crate) const FLAG_OPTIONAL: u32 = 1;

/// Kind of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// JSON: [`crate::Manifest`].
    Manifest,
    /// JSON: [`crate::Program`].
    Program,
    /// `tokenizer.json` of the `tokenizers` library.
    Tokenizer,
    /// Packed weights.
    Weights,
    /// JSON: [`crate::Calibration`]; a reader may ignore it.
    Calibration,
    /// Models of ONNX segments, one after the other.
    Onnx,
}

impl SectionKind {
    const ALL: [SectionKind; 6] = [
        SectionKind::Manifest,
        SectionKind::Program,
        SectionKind::Tokenizer,
        SectionKind::Weights,
        SectionKind::Calibration,
        SectionKind::Onnx,
    ];

    /// The four bytes in the table.
    pub fn code(self) -> [u8; 4] {
        match self {
            SectionKind::Manifest => *b"MANI",
            SectionKind::Program => *b"PROG",
            SectionKind::Tokenizer => *b"TOKN",
            SectionKind::Weights => *b"WGHT",
            SectionKind::Calibration => *b"CALI",
            SectionKind::Onnx => *b"ONNX",
        }
    }

    /// Name for messages.
    pub fn name(self) -> &'static str {
        match self {
            SectionKind::Manifest => "manifest",
            SectionKind::Program => "program",
            SectionKind::Tokenizer => "tokenizer",
            SectionKind::Weights => "weights",
            SectionKind::Calibration => "calibration",
            SectionKind::Onnx => "onnx",
        }
    }

    /// The flags in the table.
    pub(crate) fn flags(self) -> u32 {
        match self {
            SectionKind::Calibration => FLAG_OPTIONAL,
            _ => 0,
        }
    }
}

/// Where a section lies, from the start of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// First byte.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// XXH3-64 of its bytes.
    pub checksum: u64,
}

impl Section {
    /// The section's bytes of a plan that was parsed with it.
    pub fn bytes<'a>(&self, plan: &'a [u8]) -> &'a [u8] {
        let end = self.offset.saturating_add(self.len);
        plan.get(self.offset..end).unwrap_or_default()
    }

    /// Compares the bytes with the checksum.
    ///
    /// # Errors
    /// [`ErrorKind::Checksum`] naming the section.
    pub fn verify(&self, plan: &[u8]) -> Result<(), Error> {
        if xxh3_64(self.bytes(plan)) == self.checksum {
            return Ok(());
        }
        let message = "its checksum does not match: the file is damaged";
        Err(Error::new(ErrorKind::Checksum, format!("section {}", self.kind.name()), message))
    }
}

/// The parsed section table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub sections: Vec<Section>,
    /// Checksum over the table: it covers every section's checksum, so it names the plan.
    pub hash: u64,
    pub version: (u16, u16),
    pub file_len: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Table {
    /// Reads header and table and checks that all sections lie within the file, apart.
    pub fn parse(bytes: &[u8]) -> Result<Table, Error> {
        let fail = |kind, message: String| Err(Error::new(kind, "header", message));
        if bytes.len() < HEADER_BYTES || bytes[..4] != MAGIC {
            return fail(ErrorKind::NotAPlan, "this is not a Limbeck plan".into());
        }
        let version = (u16_at(bytes, 4), u16_at(bytes, 6));
        if version.0 != MAJOR {
            let (major, minor) = version;
            let remedy =
                if major < MAJOR { "compile the student again" } else { "update the library" };
            let message = format!(
                "the plan has format version {major}.{minor}, this library reads {MAJOR}.x: {remedy}"
            );
            return fail(ErrorKind::Version, message);
        }
        let count = u32_at(bytes, 8) as usize;
        let file_len = u64_at(bytes, 16);
        if count > MAX_SECTIONS {
            return fail(ErrorKind::Corrupt, format!("{count} sections are too many"));
        }
        if file_len > bytes.len() as u64 {
            let message = format!("the file should have {file_len} bytes, it has {}", bytes.len());
            return fail(ErrorKind::Corrupt, message);
        }
        let table_end = HEADER_BYTES + count * ROW_BYTES;
        let Some(table) = bytes.get(HEADER_BYTES..table_end) else {
            return fail(ErrorKind::Corrupt, "the section table is cut off".into());
        };
        let hash = xxh3_64(table);
        if hash != u64_at(bytes, 24) {
            return fail(ErrorKind::Checksum, "the section table is damaged".into());
        }
        let mut sections = Vec::new();
        let mut end = table_end as u64;
        for (index, row) in table.chunks_exact(ROW_BYTES).enumerate() {
            end = check_bounds(row, index, end, file_len)?;
            sections.extend(parse_row(row, index)?);
        }
        Ok(Table { sections, hash, version, file_len: file_len as usize })
    }
}

/// Sections follow one another in file order; gives the end of this one.
fn check_bounds(row: &[u8], index: usize, previous_end: u64, file_len: u64) -> Result<u64, Error> {
    let (offset, len) = (u64_at(row, 8), u64_at(row, 16));
    let end = offset.checked_add(len);
    match end {
        Some(end)
            if end <= file_len
                && offset >= previous_end
                && offset.is_multiple_of(SECTION_ALIGN) =>
        {
            Ok(end)
        }
        _ => {
            let place = format!("section {index}");
            let message = format!("bytes {offset}+{len} are misplaced in a file of {file_len}");
            Err(Error::new(ErrorKind::Corrupt, place, message))
        }
    }
}

fn parse_row(row: &[u8], index: usize) -> Result<Option<Section>, Error> {
    let code = &row[..4];
    let Some(kind) = SectionKind::ALL.into_iter().find(|k| k.code() == *code) else {
        if u32_at(row, 4) & FLAG_OPTIONAL != 0 {
            return Ok(None);
        }
        let message = format!("unknown kind {:?}", String::from_utf8_lossy(code));
        return Err(Error::new(ErrorKind::Version, format!("section {index}"), message));
    };
    Ok(Some(Section {
        kind,
        offset: u64_at(row, 8) as usize,
        len: u64_at(row, 16) as usize,
        checksum: u64_at(row, 24),
    }))
}
