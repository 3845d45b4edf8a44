//! Qwen2 and Qwen2.5: `modeling_qwen2.py` of transformers. Queries, keys and values have a bias,
//! the output projection has none.

use crate::config::Config;
use crate::decoder::{Biases, Decoder, windows};
use crate::{Description, Error, Student, TensorIndex};

pub(crate) fn build(
    config: &mut Config,
    tensors: &TensorIndex,
    _: &Description,
) -> Result<Student, Error> {
    let mut decoder = Decoder::read(config, "qwen2")?;
    // Queries, keys and values have a bias whatever this says, which GGUF files bring along.
    config.discard(|key| key == "attention_bias");
    decoder.biases = Biases { qkv: true, output: false, mlp: false };
    decoder.windows = windows(config, decoder.layers)?;
    decoder.build(tensors)
}
