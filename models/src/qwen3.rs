//! Qwen3: `modeling_qwen3.py` of transformers. An RMS norm over each query and key head comes
//! before the rotary embedding.

use crate::config::Config;
use crate::decoder::{Biases, Decoder, windows};
use crate::{Description, Error, Student, TensorIndex};

/// `Qwen3Config`'s default, unlike the other decoders' `hidden_size / heads`.
const HEAD_DIM: usize = 128;

pub(crate) fn build(
    config: &mut Config,
    tensors: &TensorIndex,
    _: &Description,
) -> Result<Student, Error> {
    let mut decoder = Decoder::read(config, "qwen3")?;
    if config.get::<usize>("head_dim")?.is_none() && decoder.head_dim != HEAD_DIM {
        return Err(config.unsupported("head_dim", "(none)"));
    }
    let attention = config.get("attention_bias")?.unwrap_or(false);
    decoder.biases = Biases { qkv: attention, output: attention, mlp: false };
    decoder.qk_norm = true;
    decoder.windows = windows(config, decoder.layers)?;
    decoder.build(tensors)
}
