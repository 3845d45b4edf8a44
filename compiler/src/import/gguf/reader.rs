//! The GGUF container, versions 2 and 3, little-endian: metadata and the tensor directory.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Every byte is hostile:
//! counts are checked against the bytes that could hold them, ranges against the file, and
//! nothing is allocated in proportion to a number that the file merely claims.

use std::collections::HashMap;
use std::ops::Range;

use super::blocks::BlockType;
use super::cursor::Cursor;
use super::value::Value;
use crate::error::{At, Error, Result};

/// More tensors than this are refused.
const MAX_TENSORS: usize = 1 << 18;
/// More metadata keys than this are refused.
const MAX_KEYS: usize = 1 << 16;
/// Longest key or tensor name in bytes; the format's own limit for keys.
const MAX_NAME: usize = 65_535;
/// Most dimensions of a tensor (`GGML_MAX_DIMS`).
const MAX_DIMS: usize = 4;
/// Alignment of tensor data where the file names none.
const DEFAULT_ALIGNMENT: usize = 32;
/// Largest alignment accepted.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Fewest bytes of one metadata entry: an empty key, a type tag, one byte.
const LEAST_ENTRY: usize = 8 + 4 + 1;
/// Fewest bytes of one tensor entry: an empty name, one dimension, type and offset.
const LEAST_TENSOR: usize = 8 + 4 + 8 + 4 + 8;

/// A parsed GGUF header; strings and arrays borrow from the file.
#[derive(Debug)]
pub struct Gguf<'a> {
    version: u32,
    metadata: Vec<(&'a str, Value<'a>)>,
    keys: HashMap<&'a str, usize>,
    tensors: Vec<TensorInfo<'a>>,
}

/// One entry of the tensor directory.
#[derive(Clone, Debug)]
pub struct TensorInfo<'a> {
    /// The tensor's name in the file.
    pub name: &'a str,
    /// Dimensions, slowest first (the reverse of their order in the file).
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub kind: BlockType,
    /// Its bytes, as a range of the file.
    pub range: Range<usize>,
}

impl<'a> Gguf<'a> {
    /// Parses and validates the header of `file`, the whole file.
    pub fn parse(file: &'a [u8]) -> Result<Gguf<'a>> {
        let mut cursor = Cursor::new(file);
        let version = read_version(&mut cursor).at("header")?;
        let tensor_count = cursor.count("tensors", LEAST_TENSOR).at("header")?;
        let key_count = cursor.count("metadata keys", LEAST_ENTRY).at("header")?;
        check_count(tensor_count, MAX_TENSORS, "tensors")?;
        check_count(key_count, MAX_KEYS, "metadata keys")?;

        let mut gguf = Gguf {
            version,
            metadata: Vec::with_capacity(key_count),
            keys: HashMap::with_capacity(key_count),
            tensors: Vec::with_capacity(tensor_count),
        };
        for index in 0..key_count {
            gguf.read_entry(&mut cursor, index)?;
        }
        let alignment = gguf.alignment()?;
        let mut names = HashMap::with_capacity(tensor_count);
        for index in 0..tensor_count {
            let tensor = read_tensor(&mut cursor, alignment, index)?;
            if let Some(first) = names.insert(tensor.name, index) {
                return Err(Error::format(format!(
                    "entries {first} and {index} have the same name"
                ))
                .at(format_args!("tensor {}", tensor.name)));
            }
            gguf.tensors.push(tensor);
        }
        if !gguf.tensors.is_empty() {
            gguf.place_tensors(cursor.offset(), alignment, file.len())?;
        }
        Ok(gguf)
    }

    fn read_entry(&mut self, cursor: &mut Cursor<'a>, index: usize) -> Result<()> {
        let key = read_name(cursor).at(format_args!("metadata entry {index}"))?;
        let value = Value::read(cursor).at(format_args!("key {key}"))?;
        if self.keys.insert(key, self.metadata.len()).is_some() {
            return Err(Error::format("the key occurs twice").at(format_args!("key {key}")));
        }
        self.metadata.push((key, value));
        Ok(())
    }

    fn alignment(&self) -> Result<usize> {
        let key = "general.alignment";
        let Some(alignment) = self.u64(key)? else {
            return Ok(DEFAULT_ALIGNMENT);
        };
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return Err(Error::format(format!(
                "{alignment} is not a power of two up to {MAX_ALIGNMENT}"
            ))
            .at(format_args!("key {key}")));
        }
        Ok(alignment as usize)
    }

    /// Turns offsets within the data section into ranges of the file, and refuses tensors that
    /// leave it or overlap.
    fn place_tensors(&mut self, header_end: usize, alignment: usize, file: usize) -> Result<()> {
        let data_start = header_end
            .checked_next_multiple_of(alignment)
            .filter(|&start| start <= file)
            .ok_or_else(|| Error::format("the file ends before its tensor data").at("tensors"))?;
        for tensor in &mut self.tensors {
            let Range { start, end } = tensor.range;
            let placed = data_start
                .checked_add(start)
                .zip(data_start.checked_add(end))
                .filter(|&(_, end)| end <= file);
            let Some((from, to)) = placed else {
                return Err(Error::format(format!(
                    "bytes {start}..{end} of the data section lie outside its {} bytes",
                    file - data_start
                ))
                .at(format_args!("tensor {}", tensor.name)));
            };
            tensor.range = from..to;
        }
        let mut order: Vec<&TensorInfo<'_>> = self.tensors.iter().collect();
        order.sort_unstable_by_key(|tensor| tensor.range.start);
        for pair in order.windows(2) {
            if let [first, second] = pair
                && first.range.end > second.range.start
            {
                return Err(Error::format(format!("its data overlaps that of {}", first.name))
                    .at(format_args!("tensor {}", second.name)));
            }
        }
        Ok(())
    }

    /// The container's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All metadata, in file order.
    pub fn metadata(&self) -> &[(&'a str, Value<'a>)] {
        &self.metadata
    }

    /// The tensor directory, in file order.
    pub fn tensors(&self) -> &[TensorInfo<'a>] {
        &self.tensors
    }

    /// The value of a metadata key.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let index = *self.keys.get(key)?;
        self.metadata.get(index).map(|(_, value)| value)
    }

    /// A non-negative integer; an error when the key holds anything else.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a non-negative integer", |value| value.as_u64())
    }

    /// A number; an error when the key holds anything else.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| value.as_f64())
    }

    /// A boolean; an error when the key holds anything else.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a boolean", |value| value.as_bool())
    }

    /// A string; an error when the key holds anything else.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", |value| value.as_str())
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => {
                Err(Error::format(format!("the value is not {wanted}"))
                    .at(format_args!("key {key}")))
            }
        }
    }
}

fn check_count(count: usize, most: usize, what: &str) -> Result<()> {
    if count > most {
        return Err(Error::unsupported(format!("{count} {what}; at most {most} are supported"))
            .at("header"));
    }
    Ok(())
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    if cursor.array()? != *b"GGUF" {
        return Err(Error::format("not a GGUF file: it does not begin with \"GGUF\""));
    }
    let version = cursor.u32()?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(Error::unsupported("GGUF version 1")),
        other if matches!(other.swap_bytes(), 1..=3) => {
            Err(Error::unsupported("a big-endian GGUF file"))
        }
        other => Err(Error::unsupported(format!("GGUF version {other}"))),
    }
}

fn read_name<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str> {
    let name = cursor.string()?;
    if name.len() > MAX_NAME {
        return Err(Error::format(format!(
            "a name of {} bytes; at most {MAX_NAME} are allowed",
            name.len()
        )));
    }
    Ok(name)
}

/// Reads one directory entry; its range is still relative to the data section.
fn read_tensor<'a>(
    cursor: &mut Cursor<'a>,
    alignment: usize,
    index: usize,
) -> Result<TensorInfo<'a>> {
    let name = read_name(cursor).at(format_args!("tensor entry {index}"))?;
    read_tensor_body(cursor, alignment, name).at(format_args!("tensor {name}"))
}

fn read_tensor_body<'a>(
    cursor: &mut Cursor<'a>,
    alignment: usize,
    name: &'a str,
) -> Result<TensorInfo<'a>> {
    let dims = cursor.u32()? as usize;
    if !(1..=MAX_DIMS).contains(&dims) {
        return Err(Error::format(format!("{dims} dimensions; 1 to {MAX_DIMS} are allowed")));
    }
    let mut shape = Vec::with_capacity(dims);
    let mut elements = 1usize;
    for _ in 0..dims {
        let dim = cursor.u64()?;
        let product = usize::try_from(dim)
            .ok()
            .filter(|&dim| dim > 0)
            .and_then(|dim| Some((dim, elements.checked_mul(dim)?)));
        let Some((dim, product)) = product else {
            return Err(Error::format(format!("dimension {dim} is zero or too large")));
        };
        elements = product;
        shape.push(dim);
    }
    let kind = BlockType::from_tag(cursor.u32()?)?;
    let offset = cursor.u64()?;
    let columns = shape.first().copied().unwrap_or(0);
    if !columns.is_multiple_of(kind.block_values()) {
        return Err(Error::format(format!(
            "rows of {columns} values do not divide into {} blocks of {}",
            kind.name(),
            kind.block_values()
        )));
    }
    let start =
        usize::try_from(offset).ok().filter(|start| start.is_multiple_of(alignment)).ok_or_else(
            || Error::format(format!("offset {offset} is not a multiple of {alignment}")),
        )?;
    let end = (elements / kind.block_values())
        .checked_mul(kind.block_bytes())
        .and_then(|size| start.checked_add(size))
        .ok_or_else(|| Error::format("its size overflows"))?;
    shape.reverse();
    Ok(TensorInfo { name, shape, kind, range: start..end })
}
