//! Experts: their metadata and tensors.

use serde_json::{Map, Value as Json, json};

use super::config::Keys;
use super::names::Part;
use crate::error::{Error, Result};
use crate::import::tensor::RowOrder;

/// The experts of an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpertsOf {
    None,
    /// A dense architecture that is Mixtral with experts, whose size is the MLP's.
    Mixtral,
    /// Experts of a size of their own, in every layer.
    Sized {
        /// Hugging Face's `norm_topk_prob`, which llama.cpp knows by the architecture.
        renormalised: bool,
        /// A shared expert beside them.
        shared: bool,
    },
}

/// What a file says of its experts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Experts {
    count: usize,
    used: usize,
    /// Hidden units of an expert, and of the shared one.
    mlp: usize,
    shared: Option<usize>,
}

/// The experts that a file has; an expert count of 0 says that it has none.
pub(super) fn read_experts(
    keys: &Keys<'_, '_>,
    of: ExpertsOf,
    mlp: usize,
) -> Result<Option<Experts>> {
    let none = |name: &str| keys.gguf.u64(&keys.key(name)).map(|n| n.unwrap_or(0) == 0);
    if of == ExpertsOf::None || (of == ExpertsOf::Mixtral && none("expert_count")?) {
        return Ok(None);
    }
    let (count, used) = (keys.required("expert_count")?, keys.required("expert_used_count")?);
    if used > count {
        let message = format!("{used} experts of a token are more than {count}");
        let key = keys.key("expert_used_count");
        return Err(Error::mismatch(message).at(format_args!("key {key}")));
    }
    let ExpertsOf::Sized { shared, .. } = of else {
        return Ok(Some(Experts { count, used, mlp, shared: None }));
    };
    let shared = match shared {
        true => Some(keys.required("expert_shared_feed_forward_length")?),
        false => None,
    };
    let mlp = keys.required("expert_feed_forward_length")?;
    Ok(Some(Experts { count, used, mlp, shared }))
}

/// Adds what Hugging Face's configuration says of them.
pub(super) fn add_experts(config: &mut Map<String, Json>, of: ExpertsOf, experts: &Experts) {
    let mut set = |key: &str, value: Json| config.insert(key.into(), value);
    set("num_experts_per_tok", experts.used.into());
    match of {
        ExpertsOf::Sized { renormalised, .. } => {
            set("num_experts", experts.count.into());
            set("moe_intermediate_size", experts.mlp.into());
            set("norm_topk_prob", renormalised.into());
        }
        _ => {
            set("architectures", json!(["MixtralForCausalLM"]));
            set("model_type", "mixtral".into());
            set("num_local_experts", experts.count.into());
        }
    }
    if let Some(shared) = experts.shared {
        set("shared_expert_intermediate_size", shared.into());
    }
}

/// A router and stacked experts `[count, rows, cols]`, with a shared expert where there is one.
pub(super) fn expert_parts(experts: &Experts, hidden: usize) -> Vec<Part> {
    let Experts { count, mlp, shared, .. } = *experts;
    let part = |file, name, shape: &[usize]| Part {
        file,
        name,
        shape: shape.to_vec(),
        bias: false,
        order: RowOrder::Stored,
    };
    let mut parts = vec![
        part("ffn_gate_inp", "mlp.gate", &[count, hidden]),
        part("ffn_gate_exps", "mlp.experts.gate_proj", &[count, mlp, hidden]),
        part("ffn_up_exps", "mlp.experts.up_proj", &[count, mlp, hidden]),
        part("ffn_down_exps", "mlp.experts.down_proj", &[count, hidden, mlp]),
    ];
    if let Some(shared) = shared {
        parts.extend([
            part("ffn_gate_inp_shexp", "mlp.shared_expert_gate", &[hidden]),
            part("ffn_gate_shexp", "mlp.shared_expert.gate_proj", &[shared, hidden]),
            part("ffn_up_shexp", "mlp.shared_expert.up_proj", &[shared, hidden]),
            part("ffn_down_shexp", "mlp.shared_expert.down_proj", &[hidden, shared]),
        ]);
    }
    parts
}
