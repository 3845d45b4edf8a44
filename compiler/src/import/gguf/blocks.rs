//! The tensor types of GGUF that are supported, and the sizes of their blocks.

use crate::error::{Error, Result};

/// Names of all GGUF tensor types by tag (`ggml_type`), so that an unsupported one is refused by
/// name. Empty names are types that ggml has removed.
const NAMES: [&str; 42] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K",
    "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S",
    "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16", "", "", "", "TQ1_0", "TQ2_0", "",
    "", "", "MXFP4", "NVFP4", "Q1_0",
];

/// How the values of a tensor are stored: plain floats, or blocks that share scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names that the format and all its tools use")]
pub enum BlockType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 32 x 4 bits, one f16 scale: `d * (q - 8)`.
    Q4_0,
    /// 32 x 4 bits, f16 scale and minimum: `d * q + m`.
    Q4_1,
    /// 32 x 5 bits, one f16 scale: `d * (q - 16)`.
    Q5_0,
    /// 32 x 5 bits, f16 scale and minimum: `d * q + m`.
    Q5_1,
    /// 32 x signed 8 bits, one f16 scale: `d * q`.
    Q8_0,
    /// 256 x 2 bits, 16 groups with 4-bit scales and minima.
    Q2_K,
    /// 256 x 3 bits, 16 groups with 6-bit scales.
    Q3_K,
    /// 256 x 4 bits, 8 groups with 6-bit scales and minima.
    Q4_K,
    /// 256 x 5 bits, 8 groups with 6-bit scales and minima.
    Q5_K,
    /// 256 x 6 bits, 16 groups with 8-bit scales.
    Q6_K,
}

impl BlockType {
    /// Every supported type.
    pub const ALL: [BlockType; 13] = [
        BlockType::F32,
        BlockType::F16,
        BlockType::BF16,
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q2_K,
        BlockType::Q3_K,
        BlockType::Q4_K,
        BlockType::Q5_K,
        BlockType::Q6_K,
    ];

    /// The type with this tag in a GGUF file; others are refused by name.
    pub fn from_tag(tag: u32) -> Result<BlockType> {
        let known = usize::try_from(tag)
            .ok()
            .and_then(|tag| NAMES.get(tag).copied())
            .filter(|name| !name.is_empty());
        let Some(name) = known else {
            return Err(Error::format(format!("unknown tensor type {tag}")));
        };
        BlockType::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::unsupported(format!("tensor type {name}")))
    }

    /// The name that GGUF tools print.
    pub fn name(self) -> &'static str {
        match self {
            BlockType::F32 => "F32",
            BlockType::F16 => "F16",
            BlockType::BF16 => "BF16",
            BlockType::Q4_0 => "Q4_0",
            BlockType::Q4_1 => "Q4_1",
            BlockType::Q5_0 => "Q5_0",
            BlockType::Q5_1 => "Q5_1",
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q2_K => "Q2_K",
            BlockType::Q3_K => "Q3_K",
            BlockType::Q4_K => "Q4_K",
            BlockType::Q5_K => "Q5_K",
            BlockType::Q6_K => "Q6_K",
        }
    }

    /// Values in one block.
    pub fn block_values(self) -> usize {
        match self {
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => 1,
            BlockType::Q4_0
            | BlockType::Q4_1
            | BlockType::Q5_0
            | BlockType::Q5_1
            | BlockType::Q8_0 => 32,
            BlockType::Q2_K
            | BlockType::Q3_K
            | BlockType::Q4_K
            | BlockType::Q5_K
            | BlockType::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            BlockType::F32 => 4,
            BlockType::F16 | BlockType::BF16 => 2,
            BlockType::Q4_0 => 18,
            BlockType::Q4_1 => 20,
            BlockType::Q5_0 => 22,
            BlockType::Q5_1 => 24,
            BlockType::Q8_0 => 34,
            BlockType::Q2_K => 84,
            BlockType::Q3_K => 110,
            BlockType::Q4_K => 144,
            BlockType::Q5_K => 176,
            BlockType::Q6_K => 210,
        }
    }
}
