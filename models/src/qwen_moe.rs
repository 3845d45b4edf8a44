//! Qwen2-MoE and Qwen3-MoE: `modeling_qwen2_moe.py` and `modeling_qwen3_moe.py` of transformers.
//! Some layers' MLPs are mixtures; those of Qwen2-MoE have a shared expert.

use limbeck_plan::ExpertWeights;

use crate::config::Config;
use crate::decoder::{Biases, Decoder, Mlp, windows};
use crate::moe::{Beside, Moe, QWEN};
use crate::{Description, Error, Student, TensorIndex};

pub(crate) fn build_2(
    config: &mut Config,
    tensors: &TensorIndex,
    _: &Description,
) -> Result<Student, Error> {
    let mut decoder = Decoder::read(config, "qwen2_moe")?;
    // As in Qwen2, `attention_bias` says nothing.
    config.discard(|key| key == "attention_bias");
    let qkv = config.get("qkv_bias")?.unwrap_or(true);
    decoder.biases = Biases { qkv, output: false, mlp: false };
    decoder.windows = windows(config, decoder.layers)?;
    let shared = config.size("shared_expert_intermediate_size")?;
    decoder.mlps = mlps(config, &decoder, Beside::Shared(shared))?;
    decoder.build(tensors)
}

pub(crate) fn build_3(
    config: &mut Config,
    tensors: &TensorIndex,
    _: &Description,
) -> Result<Student, Error> {
    let mut decoder = Decoder::read(config, "qwen3_moe")?;
    let attention = config.get("attention_bias")?.unwrap_or(false);
    decoder.biases = Biases { qkv: attention, output: attention, mlp: false };
    decoder.qk_norm = true;
    decoder.windows = windows(config, decoder.layers)?;
    decoder.mlps = mlps(config, &decoder, Beside::Nothing)?;
    decoder.build(tensors)
}

/// Every `decoder_sparse_step`-th layer has a mixture, but those of `mlp_only_layers`.
fn mlps(config: &Config, decoder: &Decoder, beside: Beside) -> Result<Vec<Mlp>, Error> {
    let local: Option<usize> = config.get("num_local_experts")?;
    let experts = config.size_or("num_experts", local)?;
    let top_k = config.size("num_experts_per_tok")?;
    Moe::check_top_k(config, "num_experts_per_tok", top_k, experts)?;
    let step = config.size_or("decoder_sparse_step", Some(1))?;
    let dense: Vec<usize> = config.get("mlp_only_layers")?.unwrap_or_default();
    let weights = match config.get("norm_topk_prob")?.unwrap_or(false) {
        true => ExpertWeights::Renormalised,
        false => ExpertWeights::Probabilities,
    };
    let intermediate = config.size("moe_intermediate_size")?;
    let moe = Moe { naming: &QWEN, experts, top_k, intermediate, weights, capacity: None, beside };
    let layers = (0..decoder.layers).map(|layer| {
        let sparse = (layer + 1).is_multiple_of(step) && !dense.contains(&layer);
        if sparse { Mlp::Moe(moe.clone()) } else { Mlp::Dense }
    });
    Ok(layers.collect())
}
