//! Mixtral: `modeling_mixtral.py` of transformers. Every layer's MLP is a mixture whose weights are
//! renormalised.

use limbeck_plan::ExpertWeights;

use crate::config::Config;
use crate::decoder::{Decoder, Mlp};
use crate::moe::{Beside, MIXTRAL, Moe};
use crate::{Description, Error, Student, TensorIndex};

pub(crate) fn build(
    config: &mut Config,
    tensors: &TensorIndex,
    _: &Description,
) -> Result<Student, Error> {
    let mut decoder = Decoder::read(config, "mixtral")?;
    let experts = config.size("num_local_experts")?;
    let top_k = config.size("num_experts_per_tok")?;
    Moe::check_top_k(config, "num_experts_per_tok", top_k, experts)?;
    let window: Option<usize> = config.get("sliding_window")?;
    decoder.windows = vec![window.filter(|w| *w > 0); decoder.layers];
    let moe = Moe {
        naming: &MIXTRAL,
        experts,
        top_k,
        intermediate: decoder.intermediate,
        weights: ExpertWeights::Renormalised,
        capacity: None,
        beside: Beside::Nothing,
    };
    decoder.mlps = vec![Mlp::Moe(moe); decoder.layers];
    decoder.build(tensors)
}
