//! Tensor names: which tensors an architecture has, under which names and with which shapes.

use std::collections::HashMap;
use std::ops::Range;

use super::blocks::BlockType;
use super::config::{Found, Sizes};
use super::experts::expert_parts;
use super::reader::{Gguf, TensorInfo};
use crate::error::{Error, Result};
use crate::import::tensor::RowOrder;

/// A tensor of the checkpoint under its Hugging Face name.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) kind: BlockType,
    pub(super) range: Range<usize>,
    pub(super) order: RowOrder,
}

/// All tensors of a file, matched against its architecture.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) entries: Vec<Entry>,
    pub(super) found: Found,
    /// Bytes of `rope_freqs.weight`, f32.
    pub(super) rope_freqs: Option<Range<usize>>,
}

/// Takes tensors out of the file's directory one by one, so that what is left is unknown.
struct Matcher<'a, 'f> {
    left: HashMap<&'f str, &'a TensorInfo<'f>>,
    entries: Vec<Entry>,
}

impl<'f> Matcher<'_, 'f> {
    fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Entry> {
        let Some(tensor) = self.left.remove(name) else {
            return Err(Error::missing(format!("no tensor {name}")).at("tensors"));
        };
        if tensor.shape != shape {
            return Err(Error::mismatch(format!(
                "its shape is {:?}, but the metadata say {shape:?}",
                tensor.shape
            ))
            .at(format_args!("tensor {name}")));
        }
        Ok(Entry {
            name: String::new(),
            shape: tensor.shape.clone(),
            kind: tensor.kind,
            range: tensor.range.clone(),
            order: RowOrder::Stored,
        })
    }

    /// Takes the tensor `name` of the file as `entry_name`.
    fn keep(
        &mut self,
        name: &str,
        entry_name: String,
        shape: &[usize],
        order: RowOrder,
    ) -> Result<()> {
        let entry = self.take(name, shape)?;
        self.entries.push(Entry { name: entry_name, order, ..entry });
        Ok(())
    }
}

/// Matches a file's tensors against its architecture. Missing, surplus and misshapen tensors are
/// refused by name.
pub(super) fn directory(gguf: &Gguf<'_>, sizes: &Sizes) -> Result<Directory> {
    let mut matcher = Matcher {
        left: gguf.tensors().iter().map(|t| (t.name, t)).collect(),
        entries: Vec::with_capacity(gguf.tensors().len()),
    };
    let stored = RowOrder::Stored;
    let vocab = match matcher.left.get("token_embd.weight").map(|t| t.shape.as_slice()) {
        Some(&[vocab, _]) => vocab,
        Some(_) => {
            return Err(Error::mismatch("it is not a matrix").at("tensor token_embd.weight"));
        }
        None => return Err(Error::missing("no tensor token_embd.weight").at("tensors")),
    };
    let table = [vocab, sizes.hidden];
    matcher.keep("token_embd.weight", "model.embed_tokens.weight".into(), &table, stored)?;
    matcher.keep("output_norm.weight", "model.norm.weight".into(), &[sizes.hidden], stored)?;
    let found = Found {
        vocab,
        tied: !matcher.has("output.weight"),
        attention_bias: matcher.has("blk.0.attn_q.bias"),
        mlp_bias: sizes.architecture.mlp_bias && matcher.has("blk.0.ffn_gate.bias"),
    };
    if !found.tied {
        matcher.keep("output.weight", "lm_head.weight".into(), &table, stored)?;
    }
    let mut rope_freqs = None;
    if matcher.has("rope_freqs.weight") {
        let entry = matcher.take("rope_freqs.weight", &[sizes.head_dim / 2])?;
        if entry.kind != BlockType::F32 {
            return Err(Error::unsupported(format!("it is stored as {}", entry.kind.name()))
                .at("tensor rope_freqs.weight"));
        }
        rope_freqs = Some(entry.range);
    }
    for layer in 0..sizes.layers {
        for part in layer_parts(sizes, &found) {
            let name = format!("blk.{layer}.{}", part.file);
            let entry_name = format!("model.layers.{layer}.{}", part.name);
            matcher.keep(
                &format!("{name}.weight"),
                format!("{entry_name}.weight"),
                &part.shape,
                part.order,
            )?;
            if part.bias {
                let rows = part.shape.get(..1).unwrap_or_default();
                matcher.keep(
                    &format!("{name}.bias"),
                    format!("{entry_name}.bias"),
                    rows,
                    part.order,
                )?;
            }
        }
    }
    if let Some(name) = matcher.left.keys().min() {
        return Err(Error::unsupported(format!(
            "not a tensor of the architecture {}",
            sizes.architecture.name
        ))
        .at(format_args!("tensor {name}")));
    }
    Ok(Directory { entries: matcher.entries, found, rope_freqs })
}

/// One module of a layer.
pub(super) struct Part {
    pub(super) file: &'static str,
    pub(super) name: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) bias: bool,
    pub(super) order: RowOrder,
}

fn layer_parts(sizes: &Sizes, found: &Found) -> Vec<Part> {
    let Sizes { hidden, mlp, head_dim, .. } = *sizes;
    // No overflow: the product of heads and head_dim was checked, and kv_heads <= heads.
    let (q, kv) = (sizes.heads * head_dim, sizes.kv_heads * head_dim);
    let rope = if sizes.architecture.paired_rope {
        RowOrder::Halves { head_dim }
    } else {
        RowOrder::Stored
    };
    let bias = found.attention_bias;
    let norm = |file, name, size| Part {
        file,
        name,
        shape: vec![size],
        bias: false,
        order: RowOrder::Stored,
    };
    let linear = |file, name, rows, cols, bias, order| Part {
        file,
        name,
        shape: vec![rows, cols],
        bias,
        order,
    };
    let stored = RowOrder::Stored;
    let output_bias = bias && sizes.architecture.output_bias;
    let mut parts = vec![
        norm("attn_norm", "input_layernorm", hidden),
        linear("attn_q", "self_attn.q_proj", q, hidden, bias, rope),
        linear("attn_k", "self_attn.k_proj", kv, hidden, bias, rope),
        linear("attn_v", "self_attn.v_proj", kv, hidden, bias, stored),
        linear("attn_output", "self_attn.o_proj", hidden, q, output_bias, stored),
        norm("ffn_norm", "post_attention_layernorm", hidden),
    ];
    match &sizes.experts {
        Some(experts) => parts.extend(expert_parts(experts, hidden)),
        None => parts.extend([
            linear("ffn_gate", "mlp.gate_proj", mlp, hidden, found.mlp_bias, stored),
            linear("ffn_up", "mlp.up_proj", mlp, hidden, found.mlp_bias, stored),
            linear("ffn_down", "mlp.down_proj", hidden, mlp, found.mlp_bias, stored),
        ]),
    }
    if sizes.architecture.qk_norm {
        parts.push(norm("attn_q_norm", "self_attn.q_norm", head_dim));
        parts.push(norm("attn_k_norm", "self_attn.k_norm", head_dim));
    }
    parts
}
