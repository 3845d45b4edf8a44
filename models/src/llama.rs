//! Llama (and SmolLM2, which is one): `modeling_llama.py` of transformers.

use crate::config::Config;
use crate::decoder::{Biases, Decoder};
use crate::{Description, Error, Student, TensorIndex};

pub(crate) fn build(
    config: &mut Config,
    tensors: &TensorIndex,
    _: &Description,
) -> Result<Student, Error> {
    let mut decoder = Decoder::read(config, "llama")?;
    let attention = config.get("attention_bias")?.unwrap_or(false);
    decoder.biases =
        Biases { qkv: attention, output: attention, mlp: config.get("mlp_bias")?.unwrap_or(false) };
    decoder.build(tensors)
}
