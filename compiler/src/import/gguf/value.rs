//! GGUF metadata values: thirteen types, arrays borrowed from the file.

use super::cursor::Cursor;
use crate::error::{Error, Result};

/// Arrays within arrays deeper than this are refused.
const MAX_DEPTH: usize = 4;

/// The type tags of metadata values (GGUF specification, `gguf_metadata_value_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 32-bit integer.
    I32,
    /// IEEE 754 binary32.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// Length-prefixed UTF-8.
    String,
    /// Element type, count, elements.
    Array,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 64-bit integer.
    I64,
    /// IEEE 754 binary64.
    F64,
}

impl ValueType {
    const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    fn read(cursor: &mut Cursor<'_>) -> Result<ValueType> {
        let start = cursor.offset();
        let tag = cursor.u32()?;
        usize::try_from(tag).ok().and_then(|tag| ValueType::ALL.get(tag).copied()).ok_or_else(
            || {
                Error::format(format!("unknown value type {tag}"))
                    .at(format_args!("offset {start}"))
            },
        )
    }

    /// The fewest bytes that one element of this type takes.
    fn least_bytes(self) -> usize {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::U64 | ValueType::I64 | ValueType::F64 | ValueType::String => 8,
            ValueType::Array => 12,
        }
    }
}

/// One metadata value, borrowed from the file.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Any of the unsigned integer types.
    Unsigned(u64),
    /// Any of the signed integer types.
    Signed(i64),
    /// Either float type.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(&'a str),
    /// An array.
    Array(Array<'a>),
}

/// An array of metadata values. Its bytes were walked once when the file was parsed, and are
/// decoded again by [`Array::iter`], so it takes no memory of its own.
#[derive(Clone, Debug)]
pub struct Array<'a> {
    kind: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Value<'a> {
    /// Reads a type tag and the value after it.
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Value<'a>> {
        let kind = ValueType::read(cursor)?;
        Value::read_as(cursor, kind, 0)
    }

    fn read_as(cursor: &mut Cursor<'a>, kind: ValueType, depth: usize) -> Result<Value<'a>> {
        Ok(match kind {
            ValueType::U8 => Value::Unsigned(u8::from_le_bytes(cursor.array()?).into()),
            ValueType::U16 => Value::Unsigned(u16::from_le_bytes(cursor.array()?).into()),
            ValueType::U32 => Value::Unsigned(cursor.u32()?.into()),
            ValueType::U64 => Value::Unsigned(cursor.u64()?),
            ValueType::I8 => Value::Signed(i8::from_le_bytes(cursor.array()?).into()),
            ValueType::I16 => Value::Signed(i16::from_le_bytes(cursor.array()?).into()),
            ValueType::I32 => Value::Signed(i32::from_le_bytes(cursor.array()?).into()),
            ValueType::I64 => Value::Signed(i64::from_le_bytes(cursor.array()?)),
            ValueType::F32 => Value::Float(f32::from_le_bytes(cursor.array()?).into()),
            ValueType::F64 => Value::Float(f64::from_le_bytes(cursor.array()?)),
            ValueType::Bool => {
                let start = cursor.offset();
                match cursor.array()? {
                    [0] => Value::Bool(false),
                    [1] => Value::Bool(true),
                    [other] => {
                        return Err(Error::format(format!("a boolean has the value {other}"))
                            .at(format_args!("offset {start}")));
                    }
                }
            }
            ValueType::String => Value::String(cursor.string()?),
            ValueType::Array => Value::Array(Array::read(cursor, depth)?),
        })
    }

    /// A non-negative integer of any integer type.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(value) => Some(value),
            Value::Signed(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// A number of any type.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::Unsigned(value) => Some(value as f64),
            Value::Signed(value) => Some(value as f64),
            Value::Float(value) => Some(value),
            _ => None,
        }
    }

    /// A boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::String(value) => Some(value),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&Array<'a>> {
        match self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl<'a> Array<'a> {
    fn read(cursor: &mut Cursor<'a>, depth: usize) -> Result<Array<'a>> {
        let start = cursor.offset();
        if depth >= MAX_DEPTH {
            return Err(Error::format(format!("arrays nested more than {MAX_DEPTH} deep"))
                .at(format_args!("offset {start}")));
        }
        let kind = ValueType::read(cursor)?;
        let len = cursor.count("array elements", kind.least_bytes())?;
        let mut end = cursor.clone();
        for _ in 0..len {
            Value::read_as(&mut end, kind, depth + 1)?;
        }
        let bytes = cursor.take(end.offset() - cursor.offset())?;
        Ok(Array { kind, len, bytes })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements' type.
    pub fn kind(&self) -> ValueType {
        self.kind
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        let kind = self.kind;
        // Parsing walked the same bytes with success, so no element is lost here.
        (0..self.len).map_while(move |_| Value::read_as(&mut cursor, kind, 0).ok())
    }

    /// The elements as strings; `None` when they are of another type.
    pub fn strings(&self) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        (self.kind == ValueType::String).then(|| self.iter().filter_map(|value| value.as_str()))
    }
}
