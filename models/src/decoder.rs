//! The pre-norm decoder that Llama, Qwen2 and Qwen3 share: RMS norms, grouped-head attention with
//! rotary positions and a KV cache, a gated MLP.
//!
//! Tensor names are Hugging Face's: `model.layers.{i}.self_attn.q_proj.weight` and so on.

use limbeck_graph::{Graph, TensorExpr, ValueId};
use limbeck_plan::{
    Activation, Add, Attention, DType, Dim, Embedding, Gate, Linear, Manifest, Norm, NormKind, Op,
    Rope, RopeStyle, SelectRows, SoftCap, State, StateKind, Symbol, Task,
};

use crate::acm::{Role, Settings};
use crate::config::Config;
use crate::moe::{Moe, Place};
use crate::rope::{self, Rotary};
use crate::{Error, Student, TensorIndex};

/// Largest head that a plan may have.
const MAX_HEAD_DIM: usize = 4096;

/// Which projections of a layer carry a bias.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Biases {
    /// Query, key and value projections.
    pub qkv: bool,
    /// The attention's output projection.
    pub output: bool,
    /// The three projections of the MLP.
    pub mlp: bool,
}

/// Everything that shapes a decoder.
pub(crate) struct Decoder {
    pub architecture: &'static str,
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    pub context: usize,
    pub eps: f32,
    pub activation: Activation,
    pub biases: Biases,
    pub qk_norm: bool,
    pub tied: bool,
    pub scale: f32,
    pub attention_softcap: Option<f32>,
    pub logit_softcap: Option<f32>,
    /// Window of each layer.
    pub windows: Vec<Option<usize>>,
    pub rotary: Rotary,
    /// Of the layers' adaptive modules.
    pub acm: Settings,
    /// MLP of each layer.
    pub mlps: Vec<Mlp>,
}

/// What a layer's MLP is.
#[derive(Clone, Debug)]
pub(crate) enum Mlp {
    /// One gated MLP.
    Dense,
    /// A mixture of experts.
    Moe(Moe),
}

impl Decoder {
    /// Reads the keys that the family shares; biases, QK norm and windows are the caller's.
    pub fn read(config: &Config, architecture: &'static str) -> Result<Decoder, Error> {
        let heads = config.size("num_attention_heads")?;
        let hidden = config.size("hidden_size")?;
        let layers = config.layers()?;
        let context = config.context()?;
        let head_dim = config.size_or("head_dim", Some(hidden / heads))?;
        if head_dim > MAX_HEAD_DIM {
            return Err(config.unsupported("head_dim", &head_dim.to_string()));
        }
        let kv_heads = config.size_or("num_key_value_heads", Some(heads))?;
        if kv_heads > heads || !heads.is_multiple_of(kv_heads) {
            return Err(config.unsupported("num_key_value_heads", &kv_heads.to_string()));
        }
        Ok(Decoder {
            architecture,
            hidden,
            intermediate: config.size("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab: config.size("vocab_size")?,
            context,
            eps: config.get("rms_norm_eps")?.unwrap_or(1e-6),
            activation: activation(config, "hidden_act")?,
            biases: Biases::default(),
            qk_norm: false,
            tied: config.get("tie_word_embeddings")?.unwrap_or(false),
            scale: attention_scale(config, head_dim)?,
            attention_softcap: config.get("attn_logit_softcapping")?,
            logit_softcap: config.get("final_logit_softcapping")?,
            windows: vec![None; layers],
            mlps: vec![Mlp::Dense; layers],
            rotary: rope::read(config, head_dim, context)?,
            acm: Settings::read(config)?,
        })
    }

    /// Builds the text entry.
    pub fn build(self, tensors: &TensorIndex) -> Result<Student, Error> {
        let mut b = Builder { graph: Graph::new(), tensors, d: &self };
        let ids = b.graph.input("input_ids", DType::I32, vec![Dim::symbol(Symbol::TOKENS)]);
        let table = tensors.matrix("model.embed_tokens.weight", self.vocab, self.hidden)?;
        let weight = b.graph.weight(table.clone());
        let embedding = Op::Embedding(Embedding { scale: 1.0 });
        let mut x = b.graph.node("embed_tokens", embedding, &[ids, weight])?;
        for layer in 0..self.layers {
            x = b.layer(layer, x)?;
        }
        self.acm.finish()?;
        let rows = b.graph.node("select_rows", Op::SelectRows(SelectRows {}), &[x])?;
        let normed = b.norm("model.norm", rows)?;
        let head = self.head(tensors, table)?;
        let weight = b.graph.weight(head);
        let mut logits = b.graph.node("lm_head", plain_linear(false), &[normed, weight])?;
        if let Some(cap) = self.logit_softcap {
            logits = b.graph.node("logit_soft_cap", Op::SoftCap(SoftCap { cap }), &[logits])?;
        }
        b.graph.output("logits", logits);
        Ok(Student {
            architecture: self.architecture.into(),
            task: Task::Text,
            context_length: self.context,
            vocab_size: self.vocab,
            embedding_size: 0,
            entries: vec![(Manifest::TEXT_ENTRY.into(), b.graph)],
            notes: Vec::new(),
        })
    }

    fn head(&self, tensors: &TensorIndex, table: TensorExpr) -> Result<TensorExpr, Error> {
        if self.tied {
            tensors.discard("lm_head.weight");
            return Ok(table);
        }
        tensors.matrix("lm_head.weight", self.vocab, self.hidden)
    }
}

struct Builder<'a> {
    graph: Graph,
    tensors: &'a TensorIndex,
    d: &'a Decoder,
}

impl Builder<'_> {
    fn layer(&mut self, layer: usize, x: ValueId) -> Result<ValueId, Error> {
        let d = self.d;
        let at = |part: &str| format!("model.layers.{layer}.{part}");
        self.tensors.discard(&at("self_attn.rotary_emb.inv_freq"));
        let normed = self.norm(&at("input_layernorm"), x)?;
        let attended = self.attention(layer, normed)?;
        let out = self.projection(
            Role::Output,
            &at("self_attn.o_proj"),
            attended,
            [d.hidden, d.heads * d.head_dim],
            d.biases.output,
        )?;
        let x = self.graph.node(&at("attention_residual"), Op::Add(Add {}), &[out, x])?;
        let normed = self.norm(&at("post_attention_layernorm"), x)?;
        let down = self.mlp(layer, normed)?;
        Ok(self.graph.node(&at("mlp_residual"), Op::Add(Add {}), &[down, x])?)
    }

    /// The layer's MLP on its normalised stream, `[T, hidden]`.
    fn mlp(&mut self, layer: usize, x: ValueId) -> Result<ValueId, Error> {
        if let Some(Mlp::Moe(moe)) = self.d.mlps.get(layer) {
            return moe.build(&mut self.place(layer), x);
        }
        let d = self.d;
        let name = format!("model.layers.{layer}.mlp");
        let dense = ["gate_proj", "up_proj", "down_proj"].map(|part| format!("{name}.{part}"));
        let shape = [d.hidden, d.hidden];
        let acm = d.acm.module(self.tensors, Role::Mlp, &name, shape, d.activation, &dense)?;
        match acm {
            Some(module) => module.place(&mut self.graph, x),
            None => self.dense_mlp(&name, x),
        }
    }

    fn dense_mlp(&mut self, name: &str, x: ValueId) -> Result<ValueId, Error> {
        let d = self.d;
        let at = |part: &str| format!("{name}.{part}");
        let (inner, bias) = (d.intermediate, d.biases.mlp);
        let gate = self.linear(&at("gate_proj"), x, [inner, d.hidden], bias)?;
        let up = self.linear(&at("up_proj"), x, [inner, d.hidden], bias)?;
        let op = Op::Gate(Gate { activation: d.activation });
        let gated = self.graph.node(&at("gate"), op, &[gate, up])?;
        self.linear(&at("down_proj"), gated, [d.hidden, inner], bias)
    }

    /// A projection of the attention, or the adaptive module in its place.
    fn projection(
        &mut self,
        role: Role,
        name: &str,
        x: ValueId,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<ValueId, Error> {
        let (acm, activation) = (&self.d.acm, self.d.activation);
        let dense = [name.to_owned()];
        match acm.module(self.tensors, role, name, shape, activation, &dense)? {
            Some(module) => module.place(&mut self.graph, x),
            None => self.linear(name, x, shape, bias),
        }
    }

    fn place(&mut self, layer: usize) -> Place<'_> {
        let Decoder { hidden, activation, .. } = *self.d;
        Place { graph: &mut self.graph, tensors: self.tensors, layer, hidden, activation }
    }

    fn attention(&mut self, layer: usize, x: ValueId) -> Result<ValueId, Error> {
        let d = self.d;
        let at = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
        let (q_width, kv_width) = (d.heads * d.head_dim, d.kv_heads * d.head_dim);
        let bias = d.biases.qkv;
        let mut inputs = vec![
            self.projection(Role::Query, &at("q_proj"), x, [q_width, d.hidden], bias)?,
            self.projection(Role::Key, &at("k_proj"), x, [kv_width, d.hidden], bias)?,
            self.projection(Role::Value, &at("v_proj"), x, [kv_width, d.hidden], bias)?,
        ];
        if d.qk_norm {
            for name in ["q_norm", "k_norm"] {
                let weight = self.tensors.vector(&at(&format!("{name}.weight")), d.head_dim)?;
                inputs.push(self.graph.weight(weight));
            }
        }
        inputs.push(self.graph.weight(TensorExpr::Inline {
            rows: 1,
            name: "rope frequencies".into(),
            values: d.rotary.inv_freq.as_slice().into(),
        }));
        let kind = StateKind::Append { kv_heads: d.kv_heads, head_dim: d.head_dim };
        let state = self.graph.state(State { name: format!("layers.{layer}.kv"), kind });
        let op = Op::Attention(Attention {
            heads: d.heads,
            kv_heads: d.kv_heads,
            head_dim: d.head_dim,
            scale: d.scale,
            softcap: d.attention_softcap,
            causal: true,
            window: d.windows.get(layer).copied().flatten(),
            fused: false,
            qk_norm_eps: d.qk_norm.then_some(d.eps),
            rope: Some(Rope {
                style: RopeStyle::Half,
                rotary_dim: d.rotary.rotary_dim,
                factor: d.rotary.factor,
            }),
            state: Some(state),
        });
        Ok(self.graph.node(&at("attention"), op, &inputs)?)
    }

    fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, Error> {
        let weight = self.tensors.vector(&format!("{name}.weight"), self.d.hidden)?;
        let weight = self.graph.weight(weight);
        let op = Op::Norm(Norm { kind: NormKind::Rms, eps: self.d.eps, bias: false });
        Ok(self.graph.node(name, op, &[x, weight])?)
    }

    fn linear(
        &mut self,
        name: &str,
        x: ValueId,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<ValueId, Error> {
        linear(&mut self.graph, self.tensors, name, x, shape, bias)
    }
}

/// A layer norm from `{name}.weight` and `{name}.bias`.
pub(crate) fn layer_norm(
    graph: &mut Graph,
    tensors: &TensorIndex,
    name: &str,
    x: ValueId,
    width: usize,
    eps: f32,
) -> Result<ValueId, Error> {
    let weight = tensors.vector(&format!("{name}.weight"), width)?;
    let bias = tensors.vector(&format!("{name}.bias"), width)?;
    let inputs = [x, graph.weight(weight), graph.weight(bias)];
    let op = Op::Norm(Norm { kind: NormKind::Layer, eps, bias: true });
    Ok(graph.node(name, op, &inputs)?)
}

/// Attention of an encoder: all tokens see one another, and nothing is kept. Its input is `fused` where one linear
/// gives queries, keys and values.
pub(crate) fn encoder_attention(hidden: usize, heads: usize, fused: bool) -> Op {
    let head_dim = hidden / heads;
    Op::Attention(Attention {
        heads,
        kv_heads: heads,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        softcap: None,
        causal: false,
        window: None,
        fused,
        qk_norm_eps: None,
        rope: None,
        state: None,
    })
}

/// A linear from `{name}.weight` and, when it has one, `{name}.bias`.
pub(crate) fn linear(
    graph: &mut Graph,
    tensors: &TensorIndex,
    name: &str,
    x: ValueId,
    [rows, cols]: [usize; 2],
    bias: bool,
) -> Result<ValueId, Error> {
    let weight = tensors.matrix(&format!("{name}.weight"), rows, cols)?;
    let mut inputs = vec![x, graph.weight(weight)];
    if bias {
        let bias = tensors.vector(&format!("{name}.bias"), rows)?;
        inputs.push(graph.weight(bias));
    }
    Ok(graph.node(name, plain_linear(bias), &inputs)?)
}

pub(crate) fn plain_linear(bias: bool) -> Op {
    Op::Linear(Linear {
        bias,
        activation: Activation::Identity,
        gated: false,
        residual: false,
        factors: false,
        precise: false,
    })
}

/// The activation that a configuration names, as Hugging Face's `ACT2FN` does.
pub(crate) fn activation(config: &Config, key: &str) -> Result<Activation, Error> {
    let name: String = config.require(key)?;
    activation_named(config, key, &name)
}

/// The activation of a name that was found under a key.
pub(crate) fn activation_named(
    config: &Config,
    key: &str,
    name: &str,
) -> Result<Activation, Error> {
    Ok(match name {
        "silu" | "swish" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        "tanh" => Activation::Tanh,
        "linear" | "identity" => Activation::Identity,
        _ => return Err(config.unsupported(key, name)),
    })
}

fn attention_scale(config: &Config, head_dim: usize) -> Result<f32, Error> {
    if let Some(scale) = config.get("attention_multiplier")? {
        return Ok(scale);
    }
    let scalar: Option<f32> = config.get("query_pre_attn_scalar")?;
    Ok(scalar.unwrap_or(head_dim as f32).powf(-0.5))
}

/// Windows per layer from `layer_types`, or from `use_sliding_window`, `sliding_window` and
/// `max_window_layers`, as Qwen2 and Qwen3 have them.
pub(crate) fn windows(config: &Config, layers: usize) -> Result<Vec<Option<usize>>, Error> {
    let on = config.get("use_sliding_window")?.unwrap_or(false);
    let size: Option<usize> = config.get("sliding_window")?;
    let first: Option<usize> = config.get("max_window_layers")?;
    let types: Option<Vec<String>> = config.get("layer_types")?;
    let window = || {
        size.filter(|s| *s > 0)
            .ok_or_else(|| config.unsupported("sliding_window", "(none)"))
            .map(Some)
    };
    match types {
        Some(types) if types.len() == layers => types
            .iter()
            .map(|kind| match kind.as_str() {
                "full_attention" => Ok(None),
                "sliding_attention" => window(),
                other => Err(config.unsupported("layer_types", other)),
            })
            .collect(),
        Some(types) => {
            let count = format!("with {} entries for {layers} layers", types.len());
            Err(config.unsupported("layer_types", &count))
        }
        None if on => {
            let window = window()?;
            let full = first.unwrap_or(0);
            Ok((0..layers).map(|i| window.filter(|_| i >= full)).collect())
        }
        None => Ok(vec![None; layers]),
    }
}
