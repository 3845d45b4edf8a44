//! Which pack format a weight gets.

use std::fmt;
use std::str::FromStr;

use limbeck_plan::{InputRole, Layout, PackFormat, Values};

use crate::import::gguf::BlockType;

/// What the caller asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// Every weight in f32.
    F32,
    /// Every matrix in f16.
    F16,
    /// Every matrix in q8.
    Q8,
    /// Matrices in 4 bits (with minima where the checkpoint has them), but embedding, head, an image's
    /// first convolution and an encoder's projections of its normalised stream in q8.
    Q4,
    /// As the checkpoint stores it, in the nearest pack format.
    Keep,
}

impl FromStr for Quant {
    type Err = String;

    fn from_str(s: &str) -> Result<Quant, String> {
        Ok(match s {
            "f32" => Quant::F32,
            "f16" => Quant::F16,
            "q8" => Quant::Q8,
            "q4" => Quant::Q4,
            "keep" => Quant::Keep,
            _ => return Err(format!("{s:?} is none of f32, f16, q8, q4, keep")),
        })
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Quant::F32 => "f32",
            Quant::F16 => "f16",
            Quant::Q8 => "q8",
            Quant::Q4 => "q4",
            Quant::Keep => "keep",
        })
    }
}

/// How a weight is used, over all its uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightUse {
    /// It is read as f32 vectors or tensors.
    pub vector: bool,
    /// A choice depends on it, or it is the bias of one: it stays in f32.
    pub exact: bool,
    /// It is looked up row by row, gives the logits, or is a convolution of the pixels as they are
    /// given: 4 bits are too few for it.
    pub embedding_or_head: bool,
    /// It is multiplied with the normalised stream of an encoder.
    pub encoder_stream: Option<StreamUse>,
    /// It cannot be in wide blocks: its columns are no whole ones, or a use takes a part of it or is no
    /// linear of an encoder.
    pub narrow: bool,
    /// A model of ONNX reads it where it lies: row after row, in floats.
    pub external: bool,
}

/// What the normalised stream is projected to. In encoders a few channels of it are far larger
/// than the others, so that these projections lose most by rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamUse {
    /// Queries, keys and values.
    Attention,
    /// The hidden units of an MLP.
    Mlp,
}

impl WeightUse {
    /// Adds a use.
    pub fn add(&mut self, role: InputRole, gives_logits: bool, stream: Option<StreamUse>) {
        self.vector |= matches!(role, InputRole::Vector | InputRole::Rows | InputRole::Tensor);
        self.embedding_or_head |= role == InputRole::Table || gives_logits;
        self.encoder_stream = self.encoder_stream.or(stream);
    }
}

/// The format for a weight that the checkpoint stores as `storage` (`None`: mixed or computed).
pub fn choose_format(quant: Quant, used: WeightUse, storage: Option<BlockType>) -> PackFormat {
    let kept = storage.map_or(Values::F16, kept_values);
    let halves =
        quant == Quant::F16 || quant == Quant::Keep && storage.is_some() && kept == Values::F16;
    match used {
        WeightUse { vector: false, external: true, .. } => {
            let values = if halves { Values::F16 } else { Values::F32 };
            return PackFormat { values, layout: Layout::Row };
        }
        WeightUse { vector: true, .. } => return PackFormat::F32_ROW,
        WeightUse { exact: true, embedding_or_head: true, .. } => return PackFormat::F32_ROW,
        WeightUse { exact: true, .. } => return PackFormat::linear(Values::F32),
        _ => {}
    }
    let four_bits = if kept == Values::Q4m { Values::Q4m } else { Values::Q4 };
    PackFormat::linear(match quant {
        Quant::F32 => Values::F32,
        Quant::F16 => Values::F16,
        Quant::Q8 if used.embedding_or_head || used.narrow => Values::Q8,
        // An encoder's time is in products of many rows.
        Quant::Q8 => Values::Q8w,
        Quant::Q4 if used.embedding_or_head || used.encoder_stream.is_some() => Values::Q8,
        Quant::Q4 => four_bits,
        Quant::Keep => kept,
    })
}

/// Whether activations keep more than 8 bits where they meet a quantised weight of this use: by
/// measure the head, and the projections to queries, keys and values, lose most by 8. The head reads
/// more bytes than any other weight and only rows whose logits are asked for, so that it can afford
/// it in any plan; the projections are worth it where a plan was chosen for its quality.
pub fn needs_precision(quant: Quant, gives_logits: bool, stream: Option<StreamUse>) -> bool {
    gives_logits || (quant == Quant::Q8 && stream == Some(StreamUse::Attention))
}

/// The pack format nearest to how a checkpoint stores values.
fn kept_values(storage: BlockType) -> Values {
    match storage {
        BlockType::F32 => Values::F32,
        BlockType::F16 | BlockType::BF16 => Values::F16,
        BlockType::Q4_0 => Values::Q4,
        BlockType::Q4_1 | BlockType::Q2_K | BlockType::Q3_K | BlockType::Q4_K => Values::Q4m,
        BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q8_0 | BlockType::Q5_K | BlockType::Q6_K => {
            Values::Q8
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bits_keep_the_minima_of_the_source_and_spare_the_embedding() {
        let body = WeightUse::default();
        let table = WeightUse { embedding_or_head: true, ..body };
        let values = |used, storage| choose_format(Quant::Q4, used, Some(storage)).values;
        assert_eq!(values(body, BlockType::Q4_1), Values::Q4m);
        assert_eq!(values(body, BlockType::F16), Values::Q4);
        assert_eq!(values(table, BlockType::Q4_1), Values::Q8);
    }

    #[test]
    fn heads_and_the_attention_of_8_bit_plans_get_precision() {
        assert!(needs_precision(Quant::Q8, false, Some(StreamUse::Attention)));
        for quant in [Quant::F32, Quant::F16, Quant::Q4, Quant::Keep] {
            assert!(!needs_precision(quant, false, Some(StreamUse::Attention)));
            assert!(needs_precision(quant, true, None));
        }
        assert!(!needs_precision(Quant::Q8, false, Some(StreamUse::Mlp)));
        assert!(!needs_precision(Quant::Q8, false, None));
    }

    #[test]
    fn projections_of_an_encoders_stream_get_more_bits() {
        let stream = |s| WeightUse { encoder_stream: Some(s), ..WeightUse::default() };
        let values = |quant, s| choose_format(quant, stream(s), Some(BlockType::F32)).values;
        for (quant, eight_bits) in [(Quant::Q8, Values::Q8w), (Quant::Q4, Values::Q8)] {
            assert_eq!(values(quant, StreamUse::Attention), eight_bits);
            assert_eq!(values(quant, StreamUse::Mlp), eight_bits);
        }
        let narrow = WeightUse { narrow: true, ..WeightUse::default() };
        assert_eq!(choose_format(Quant::Q8, narrow, None).values, Values::Q8);
    }

    #[test]
    fn what_decides_a_choice_stays_exact() {
        let gate = WeightUse { exact: true, ..WeightUse::default() };
        let format = choose_format(Quant::Q4, gate, Some(BlockType::F16));
        assert_eq!(format, PackFormat::linear(Values::F32));
        let bias = WeightUse { embedding_or_head: true, ..gate };
        assert_eq!(choose_format(Quant::Q4, bias, None), PackFormat::F32_ROW);
    }

    #[test]
    fn keep_follows_the_checkpoint() {
        let keep = |s| choose_format(Quant::Keep, WeightUse::default(), s).values;
        assert_eq!(keep(Some(BlockType::Q6_K)), Values::Q8);
        assert_eq!(keep(Some(BlockType::BF16)), Values::F16);
        assert_eq!(keep(None), Values::F16);
    }
}
