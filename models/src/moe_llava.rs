//! The language part of MoE-LLaVA and LLaVA-MoD over Qwen1.5 and Qwen2: a Qwen2 decoder of which
//! some layers are mixtures as DeepSpeed builds them (`moe/sharded_moe.py`, in its deterministic
//! form). The vision tower and its projector are left out.

use limbeck_plan::{Capacity, ExpertWeights};
use serde_json::Value;

use crate::config::Config;
use crate::decoder::{Biases, Decoder, Mlp, windows};
use crate::moe::{Beside, DEEPSPEED, Moe};
use crate::{Description, Error, ErrorKind, Student, TensorIndex};

/// Starts of configuration keys and tensors of the vision part.
const VISION_KEYS: &[&str] =
    &["mm_", "image_", "video_", "vision_", "use_mm_", "tune_mm_", "freeze_mm_"];
const VISION_TENSORS: &[&str] =
    &["model.image_tower.", "model.video_tower.", "model.vision_tower.", "model.mm_projector."];

pub(crate) fn build(
    config: &mut Config,
    tensors: &TensorIndex,
    description: &Description,
) -> Result<Student, Error> {
    let architecture = match config.require::<String>("model_type")?.as_str() {
        "moe_llava_qwen1_5" => "moe_llava_qwen1_5",
        _ => "moe_llava_qwen2",
    };
    let mut decoder = Decoder::read(config, architecture)?;
    decoder.biases = Biases { qkv: true, output: false, mlp: false };
    decoder.windows = windows(config, decoder.layers)?;
    decoder.mlps = mlps(config, &decoder, description)?;
    config.discard(|key| VISION_KEYS.iter().any(|start| key.starts_with(start)));
    config.discard(|key| ["tokenizer_model_max_length", "tokenizer_padding_side"].contains(&key));
    let vision = tensors.discard_all(|name| VISION_TENSORS.iter().any(|s| name.starts_with(s)));
    let mut student = decoder.build(tensors)?;
    let left_out = match vision {
        0 => String::new(),
        n => format!(" ({n} tensors)"),
    };
    student.notes.push(format!("the language part alone; vision is left out{left_out}"));
    Ok(student)
}

/// The layers' MLPs by the configuration's `moe`.
fn mlps(config: &Config, decoder: &Decoder, description: &Description) -> Result<Vec<Mlp>, Error> {
    let mut mlps = vec![Mlp::Dense; decoder.layers];
    let value: Value = config.require("moe")?;
    let moe = Config::nested(&value, "moe")?;
    moe.discard(|key| {
        ["ep_size", "train_modules", "router_aux_loss_coef", "capacity_factor"].contains(&key)
    });
    let (capacity, residual) = (capacity(&moe, description)?, moe.get("use_residual")?);
    let layers = moe_layers(&moe, decoder.layers)?;
    let experts: Vec<usize> = match moe.get("num_experts")? {
        Some(Value::Array(list)) => list
            .iter()
            .map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0))
            .collect(),
        Some(Value::Number(n)) => vec![n.as_u64().unwrap_or(0) as usize],
        _ => Vec::new(),
    };
    let top_k: Option<usize> = moe.get("top_k_experts")?;
    if moe.get("moe_enable")? == Some(false) {
        moe.finish(&description.ignored_keys)?;
        return Ok(mlps);
    }
    if experts.len() != layers.len() && experts.len() != 1 {
        let count = format!("{experts:?} for {} layers", layers.len());
        return Err(moe.unsupported("num_experts", &count));
    }
    let weights = match top_k {
        Some(1) => ExpertWeights::Probabilities,
        Some(2) => ExpertWeights::Renormalised,
        other => {
            let found = other.map_or("(none)".into(), |k| k.to_string());
            return Err(moe.unsupported("top_k_experts", &found));
        }
    };
    let top_k = top_k.unwrap_or(1);
    for (layer, experts) in layers.into_iter().zip(experts.iter().cycle()) {
        if *experts == 0 {
            return Err(moe.unsupported("num_experts", "0"));
        }
        Moe::check_top_k(&moe, "top_k_experts", top_k, *experts)?;
        let Some(mlp) = mlps.get_mut(layer) else {
            return Err(moe.unsupported("moe_layers_idx", &layer.to_string()));
        };
        *mlp = Mlp::Moe(Moe {
            naming: &DEEPSPEED,
            experts: *experts,
            top_k,
            intermediate: decoder.intermediate,
            weights,
            capacity,
            beside: if residual == Some(true) { Beside::Residual } else { Beside::Nothing },
        });
    }
    moe.finish(&description.ignored_keys)?;
    Ok(mlps)
}

/// The limit on an expert's tokens, where it is asked for.
fn capacity(moe: &Config, description: &Description) -> Result<Option<Capacity>, Error> {
    let factor: Option<f64> = moe.get("eval_capacity_factor")?;
    let min: Option<usize> = moe.get("min_capacity")?;
    match (description.moe_capacity, factor) {
        (false, _) => Ok(None),
        (true, Some(factor)) if factor > 0.0 => {
            Ok(Some(Capacity { factor, min: min.unwrap_or(0) }))
        }
        (true, found) => {
            let found = found.map_or("(none)".into(), |f| f.to_string());
            Err(moe.unsupported("eval_capacity_factor", &found))
        }
    }
}

/// The layers that are mixtures: the list, or the mode's rule.
fn moe_layers(moe: &Config, layers: usize) -> Result<Vec<usize>, Error> {
    let mode: Option<String> = moe.get("moe_mode")?;
    let listed: Option<Vec<usize>> = moe.get("moe_layers_idx")?;
    if let Some(listed) = listed {
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != listed.len() {
            return Err(moe.unsupported("moe_layers_idx", &format!("{listed:?}")));
        }
        return Ok(listed);
    }
    match mode.as_deref() {
        Some("sparse") => Ok((0..layers).step_by(2).collect()),
        Some("first_half") => Ok((0..layers / 2).collect()),
        Some("second_half") => Ok((layers / 2..layers).collect()),
        Some("dense") => Ok((0..layers).collect()),
        Some(other) => Err(moe.unsupported("moe_mode", other)),
        None => Err(Error::new(ErrorKind::Missing, "config key \"moe.moe_mode\" is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_mode_names_its_layers_and_a_list_goes_before_it() {
        let layers = |moe: Value| moe_layers(&Config::nested(&moe, "moe").unwrap(), 5);
        let mode = |mode: &str| layers(json!({"moe_mode": mode})).unwrap();
        assert_eq!(mode("sparse"), [0, 2, 4]);
        assert_eq!(mode("first_half"), [0, 1]);
        assert_eq!(mode("second_half"), [2, 3, 4]);
        assert_eq!(mode("dense"), [0, 1, 2, 3, 4]);
        let listed = json!({"moe_mode": "custom", "moe_layers_idx": [3, 1]});
        assert_eq!(layers(listed).unwrap(), [3, 1]);
        for bad in [
            json!({"moe_mode": "custom"}),
            json!({}),
            json!({"moe_layers_idx": [1, 1]}),
            json!({"moe_layers_idx": [-1]}),
        ] {
            let message = layers(bad).unwrap_err().to_string();
            assert!(message.contains("moe.moe_"), "{message}");
        }
    }
}
