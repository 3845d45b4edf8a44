//! Metadata of the supported architectures, as the `config.json` that Hugging Face would have.

use serde_json::{Map, Number, Value as Json, json};

use super::experts::{Experts, ExpertsOf, add_experts, read_experts};
use super::reader::Gguf;
use crate::error::{At, Error, Result};

/// What differs between the supported architectures.
#[derive(Debug)]
pub(super) struct Architecture {
    /// `general.architecture`, the prefix of its keys.
    pub(super) name: &'static str,
    /// Hugging Face's.
    model_type: &'static str,
    /// Hugging Face's class.
    class: &'static str,
    /// Query and key rows are stored for RoPE on alternating pairs.
    pub(super) paired_rope: bool,
    /// Query and key heads are normalised.
    pub(super) qk_norm: bool,
    /// An attention bias covers the output projection too.
    pub(super) output_bias: bool,
    /// The MLP may have biases.
    pub(super) mlp_bias: bool,
    /// What experts are like, where the architecture has any.
    experts: ExpertsOf,
}

const ARCHITECTURES: [Architecture; 5] = [
    Architecture {
        name: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
        paired_rope: true,
        qk_norm: false,
        output_bias: true,
        mlp_bias: true,
        experts: ExpertsOf::Mixtral,
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        paired_rope: false,
        qk_norm: false,
        output_bias: false,
        mlp_bias: false,
        experts: ExpertsOf::None,
    },
    Architecture {
        name: "qwen2moe",
        model_type: "qwen2_moe",
        class: "Qwen2MoeForCausalLM",
        paired_rope: false,
        qk_norm: false,
        output_bias: false,
        mlp_bias: false,
        experts: ExpertsOf::Sized { renormalised: false, shared: true },
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        paired_rope: false,
        qk_norm: true,
        output_bias: true,
        mlp_bias: false,
        experts: ExpertsOf::None,
    },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        paired_rope: false,
        qk_norm: true,
        output_bias: true,
        mlp_bias: false,
        experts: ExpertsOf::Sized { renormalised: true, shared: false },
    },
];

/// Keys below the architecture's prefix that are read here or carry no meaning for the result.
const KNOWN_KEYS: [&str; 28] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "tensor_data_layout",
    "use_parallel_residual",
    "vocab_size",
];

/// The sizes of a decoder, checked for consistency.
#[derive(Debug)]
pub(super) struct Sizes {
    pub(super) architecture: &'static Architecture,
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) mlp: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) experts: Option<Experts>,
}

/// Reads keys below the architecture's prefix.
pub(super) struct Keys<'a, 'f> {
    pub(super) gguf: &'a Gguf<'f>,
    prefix: &'static str,
}

impl Keys<'_, '_> {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A positive size; an array, which some files hold per layer, must repeat one value.
    fn size(&self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        let Some(value) = self.gguf.get(&key) else {
            return Ok(None);
        };
        let size = match value.as_array() {
            None => self.gguf.u64(&key)?,
            Some(array) => {
                let mut values = array.iter().map(|value| value.as_u64());
                let first = values.next().flatten();
                if values.any(|value| value != first) {
                    return Err(Error::unsupported("the value differs between layers")
                        .at(format_args!("key {key}")));
                }
                first
            }
        };
        size.and_then(|size| usize::try_from(size).ok())
            .filter(|&size| size > 0)
            .map(Some)
            .ok_or_else(|| {
                Error::format("the value is not a positive size").at(format_args!("key {key}"))
            })
    }

    pub(super) fn required(&self, name: &str) -> Result<usize> {
        self.size(name)?
            .ok_or_else(|| Error::missing(format!("no key {}", self.key(name))).at("metadata"))
    }

    /// A finite number.
    fn number(&self, name: &str) -> Result<Option<f64>> {
        let key = self.key(name);
        match self.gguf.f64(&key)? {
            Some(value) if !value.is_finite() => {
                Err(Error::format("the value is not finite").at(format_args!("key {key}")))
            }
            other => Ok(other),
        }
    }
}

impl Architecture {
    /// The architecture of a file; unknown ones are refused by name.
    fn of(gguf: &Gguf<'_>) -> Result<&'static Architecture> {
        let name = gguf
            .str("general.architecture")?
            .ok_or_else(|| Error::missing("no key general.architecture").at("metadata"))?;
        ARCHITECTURES.iter().find(|architecture| architecture.name == name).ok_or_else(|| {
            Error::unsupported(format!("architecture {name}")).at("key general.architecture")
        })
    }
}

impl Sizes {
    /// Reads and checks the sizes. `tensors` bounds the number of layers.
    pub(super) fn read(gguf: &Gguf<'_>) -> Result<Sizes> {
        let architecture = Architecture::of(gguf)?;
        let keys = Keys { gguf, prefix: architecture.name };
        refuse_unknown_keys(&keys, architecture.experts != ExpertsOf::None)?;
        let layers = keys.required("block_count")?;
        if layers > gguf.tensors().len() {
            return Err(Error::mismatch(format!(
                "{layers} blocks declared, but the file has {} tensors",
                gguf.tensors().len()
            ))
            .at(format_args!("key {}", keys.key("block_count"))));
        }
        let hidden = keys.required("embedding_length")?;
        let heads = keys.required("attention.head_count")?;
        let kv_heads = keys.size("attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = match keys.size("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(Error::mismatch(format!(
                    "hidden size {hidden} does not divide into {heads} heads"
                ))
                .at("metadata"));
            }
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = keys.size(name)?
                && other != head_dim
            {
                return Err(Error::unsupported(format!(
                    "{other}, which differs from the head size {head_dim}"
                ))
                .at(format_args!("key {}", keys.key(name))));
            }
        }
        if !heads.is_multiple_of(kv_heads) || !head_dim.is_multiple_of(2) {
            return Err(Error::mismatch(format!(
                "{heads} query heads, {kv_heads} key heads and head size {head_dim} do not fit"
            ))
            .at("metadata"));
        }
        if heads.checked_mul(head_dim).is_none() {
            return Err(Error::format("the size of all heads overflows").at("metadata"));
        }
        let mlp = keys.required("feed_forward_length")?;
        Ok(Sizes {
            architecture,
            layers,
            hidden,
            mlp,
            heads,
            kv_heads,
            head_dim,
            experts: read_experts(&keys, architecture.experts, mlp)?,
        })
    }
}

fn refuse_unknown_keys(keys: &Keys<'_, '_>, experts: bool) -> Result<()> {
    for (key, value) in keys.gguf.metadata() {
        let own = key.strip_prefix(keys.prefix).and_then(|rest| rest.strip_prefix('.'));
        let Some(own) = own else { continue };
        let known = match own {
            "expert_count" | "expert_used_count" => value.as_u64() == Some(0) || experts,
            "expert_feed_forward_length" | "expert_shared_feed_forward_length" => experts,
            "use_parallel_residual" => value.as_bool() == Some(false),
            "rope.scaling.yarn_ext_factor" => value.as_f64() == Some(1.0),
            _ => KNOWN_KEYS.contains(&own),
        };
        if !known {
            return Err(Error::unsupported("the key, or its value, is not supported")
                .at(format_args!("key {key}")));
        }
    }
    Ok(())
}

/// What the tensor directory says about the student.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) vocab: usize,
    pub(super) tied: bool,
    pub(super) attention_bias: bool,
    pub(super) mlp_bias: bool,
}

/// The configuration in Hugging Face's form (`rope_theta` and `rope_scaling` at top level).
pub(super) fn hugging_face_config(gguf: &Gguf<'_>, sizes: &Sizes, found: &Found) -> Result<Json> {
    let architecture = sizes.architecture;
    let keys = Keys { gguf, prefix: architecture.name };
    let eps = keys.number("attention.layer_norm_rms_epsilon")?.ok_or_else(|| {
        Error::missing(format!("no key {}", keys.key("attention.layer_norm_rms_epsilon")))
            .at("metadata")
    })?;
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    let mut config = json!({
        "architectures": [architecture.class],
        "model_type": architecture.model_type,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "rms_norm_eps": decimal(eps),
        "rope_theta": decimal(theta),
        "rope_scaling": rope_scaling(&keys)?,
        "max_position_embeddings": keys.required("context_length")?,
        "vocab_size": found.vocab,
        "tie_word_embeddings": found.tied,
        "attention_bias": found.attention_bias,
        "mlp_bias": found.mlp_bias,
    });
    if let Some(config) = config.as_object_mut() {
        sizes.experts.iter().for_each(|experts| add_experts(config, architecture.experts, experts));
        for (name, id) in
            [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")]
        {
            if let Some(id) = gguf.u64(&format!("tokenizer.ggml.{id}_token_id"))? {
                config.insert(name.into(), id.into());
            }
        }
    }
    Ok(config)
}

/// Hugging Face's `rope_scaling`, or null. A factor without a type means linear, as in llama.cpp.
fn rope_scaling(keys: &Keys<'_, '_>) -> Result<Json> {
    let key = keys.key("rope.scaling.type");
    let kind = keys.gguf.str(&key)?;
    let factor = match keys.number("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.number("rope.scale_linear")?,
    };
    let factor = match factor {
        Some(factor) if factor < 0.0 => {
            return Err(Error::format(format!("{factor} is negative"))
                .at(format_args!("key {}", keys.key("rope.scaling.factor"))));
        }
        // Zero says "not scaled".
        Some(0.0) => 1.0,
        Some(factor) => factor,
        None => 1.0,
    };
    match kind.unwrap_or("linear") {
        "none" => Ok(Json::Null),
        "linear" if factor == 1.0 => Ok(Json::Null),
        "linear" => Ok(json!({ "rope_type": "linear", "factor": decimal(factor) })),
        "yarn" => yarn(keys, factor).at(format_args!("key {key}")),
        other => {
            Err(Error::unsupported(format!("RoPE scaling {other}")).at(format_args!("key {key}")))
        }
    }
}

fn yarn(keys: &Keys<'_, '_>, factor: f64) -> Result<Json> {
    let mut scaling = Map::new();
    scaling.insert("rope_type".into(), "yarn".into());
    scaling.insert("factor".into(), decimal(factor));
    if let Some(original) = keys.size("rope.scaling.original_context_length")? {
        scaling.insert("original_max_position_embeddings".into(), original.into());
    }
    for (name, own) in
        [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")]
    {
        if let Some(beta) = keys.number(own)? {
            scaling.insert(name.into(), decimal(beta));
        }
    }
    let scale = match keys.number("rope.scaling.yarn_attn_factor")? {
        Some(scale) => Some(scale),
        None => keys.number("rope.scaling.attn_factor")?,
    };
    if let Some(scale) = scale.filter(|&scale| scale != 1.0) {
        // The file's factor multiplies YaRN's own; Hugging Face's replaces it.
        let own = 0.1 * factor.ln() + 1.0;
        scaling.insert("attention_factor".into(), decimal(scale * own));
    }
    Ok(Json::Object(scaling))
}

/// A number that went through f32, as the shortest decimal that gives the same f32.
fn decimal(value: f64) -> Json {
    let shortest = (value as f32).to_string().parse().unwrap_or(value);
    Number::from_f64(shortest).map_or(Json::Null, Json::Number)
}
