//! BERT encoders (MiniLM is one): `modeling_bert.py` of transformers, with the pooling that
//! sentence-transformers puts behind it. Post-norm: `x = LN(x + f(x))`.

use limbeck_graph::{Graph, TensorExpr, ValueId};
use limbeck_plan::{
    Activate, Add, DType, Dim, Embedding, Manifest, Op, Pool, Pooling, Symbol, Task,
};

use crate::acm::{Role, Settings, overlaid_mlp};
use crate::config::Config;
use crate::decoder::{activation, encoder_attention, layer_norm, linear};
use crate::{Description, EmbeddingRule, Error, Student, TensorIndex};

/// What plain BERT gives when no pooling is described.
const DEFAULT_RULE: EmbeddingRule = EmbeddingRule { pooling: Pooling::Mean, normalise: true };

struct Bert<'a> {
    tensors: &'a TensorIndex,
    graph: Graph,
    hidden: usize,
    heads: usize,
    intermediate: usize,
    eps: f32,
    activation: limbeck_plan::Activation,
    prefix: &'static str,
    acm: Settings,
}

pub(crate) fn build(
    config: &mut Config,
    tensors: &TensorIndex,
    description: &Description,
) -> Result<Student, Error> {
    let prefix = if tensors.has("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
    let mut b = Bert {
        tensors,
        graph: Graph::new(),
        hidden: config.size("hidden_size")?,
        heads: config.size("num_attention_heads")?,
        intermediate: config.size("intermediate_size")?,
        eps: config.get("layer_norm_eps")?.unwrap_or(1e-12),
        activation: activation(config, "hidden_act")?,
        prefix,
        acm: Settings::read(config)?,
    };
    if !b.hidden.is_multiple_of(b.heads) {
        return Err(config.unsupported("num_attention_heads", &b.heads.to_string()));
    }
    let positions: Option<String> = config.get("position_embedding_type")?;
    if let Some(kind) = positions.filter(|kind| kind != "absolute") {
        return Err(config.unsupported("position_embedding_type", &kind));
    }
    // It would tie a language-modelling head, which an encoder has not.
    config.get::<bool>("tie_word_embeddings")?;
    if config.get("is_decoder")?.unwrap_or(false) {
        return Err(config.unsupported("is_decoder", "true"));
    }
    let vocab = config.size("vocab_size")?;
    let context = config.context()?;
    let types = config.size("type_vocab_size")?;
    for unused in ["embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"] {
        tensors.discard(&format!("{prefix}{unused}"));
    }
    let mut x = b.embeddings(vocab, context, types)?;
    for layer in 0..config.layers()? {
        x = b.layer(layer, x)?;
    }
    b.acm.finish()?;
    let rule = description.pooling.unwrap_or(DEFAULT_RULE);
    let op = Op::Pool(Pool { pooling: rule.pooling, normalise: rule.normalise });
    let pooled = b.graph.node("pooling", op, &[x])?;
    b.graph.output("last_hidden_state", x);
    b.graph.output("embedding", pooled);
    Ok(Student {
        architecture: "bert".into(),
        task: Task::Embed,
        context_length: context,
        vocab_size: vocab,
        embedding_size: b.hidden,
        entries: vec![(Manifest::EMBED_ENTRY.into(), b.graph)],
        notes: Vec::new(),
    })
}

impl Bert<'_> {
    /// Word plus position plus the first token type, normalised. The token type is the same row
    /// for every token, so it is added to the position table.
    fn embeddings(&mut self, vocab: usize, context: usize, types: usize) -> Result<ValueId, Error> {
        let rows = vec![Dim::symbol(Symbol::TOKENS)];
        let ids = self.graph.input("input_ids", DType::I32, rows.clone());
        let positions = self.graph.input("positions", DType::I32, rows);
        let at = |part: &str| format!("{}embeddings.{part}", self.prefix);
        let word = self.tensors.matrix(&at("word_embeddings.weight"), vocab, self.hidden)?;
        let place = self.tensors.matrix(&at("position_embeddings.weight"), context, self.hidden)?;
        let kind = self.tensors.matrix(&at("token_type_embeddings.weight"), types, self.hidden)?;
        let norm = at("LayerNorm");
        let word = self.graph.weight(word);
        let place = self.graph.weight(TensorExpr::AddRow {
            base: Box::new(place),
            row: Box::new(kind),
            index: 0,
        });
        let lookup = || Op::Embedding(Embedding { scale: 1.0 });
        let a = self.graph.node("word_embeddings", lookup(), &[ids, word])?;
        let b = self.graph.node("position_embeddings", lookup(), &[positions, place])?;
        let sum = self.graph.node("embeddings", Op::Add(Add {}), &[a, b])?;
        self.norm(&norm, sum)
    }

    fn layer(&mut self, layer: usize, x: ValueId) -> Result<ValueId, Error> {
        let prefix = self.prefix;
        let at = |part: &str| format!("{prefix}encoder.layer.{layer}.{part}");
        let mut qkv = Vec::with_capacity(3);
        for (role, name) in [(Role::Query, "query"), (Role::Key, "key"), (Role::Value, "value")] {
            qkv.push(self.projection(role, &at(&format!("attention.self.{name}")), x)?);
        }
        let op = encoder_attention(self.hidden, self.heads, false);
        let attended = self.graph.node(&at("attention"), op, &qkv)?;
        let out = self.projection(Role::Output, &at("attention.output.dense"), attended)?;
        let sum = self.graph.node(&at("attention_residual"), Op::Add(Add {}), &[out, x])?;
        let x = self.norm(&at("attention.output.LayerNorm"), sum)?;
        let down = self.mlp(layer, x)?;
        let sum = self.graph.node(&at("output_residual"), Op::Add(Add {}), &[down, x])?;
        self.norm(&at("output.LayerNorm"), sum)
    }

    /// The layer's MLP, or the adaptive module in its place.
    fn mlp(&mut self, layer: usize, x: ValueId) -> Result<ValueId, Error> {
        let prefix = self.prefix;
        let at = |part: &str| format!("{prefix}encoder.layer.{layer}.{part}");
        let dense = ["intermediate.dense", "output.dense"].map(at);
        let (h, inner) = (self.hidden, self.intermediate);
        let acm = match overlaid_mlp(self.tensors, layer, h, self.activation)? {
            Some(module) => {
                for name in &dense {
                    self.tensors.discard(&format!("{name}.weight"));
                    self.tensors.discard(&format!("{name}.bias"));
                }
                Some(module)
            }
            None => {
                let (name, activation) = (at("mlp"), self.activation);
                self.acm.module(self.tensors, Role::Mlp, &name, [h, h], activation, &dense)?
            }
        };
        if let Some(module) = acm {
            return module.place(&mut self.graph, x);
        }
        let [up, down] = &dense;
        let up = self.linear(up, x, [inner, h])?;
        let op = Op::Activate(Activate { activation: self.activation });
        let active = self.graph.node(&at("intermediate.activation"), op, &[up])?;
        self.linear(down, active, [h, inner])
    }

    /// A projection of the attention, or the adaptive module in its place.
    fn projection(&mut self, role: Role, name: &str, x: ValueId) -> Result<ValueId, Error> {
        let (shape, dense) = ([self.hidden; 2], [name.to_owned()]);
        match self.acm.module(self.tensors, role, name, shape, self.activation, &dense)? {
            Some(module) => module.place(&mut self.graph, x),
            None => self.linear(name, x, shape),
        }
    }

    fn linear(&mut self, name: &str, x: ValueId, shape: [usize; 2]) -> Result<ValueId, Error> {
        linear(&mut self.graph, self.tensors, name, x, shape, true)
    }

    fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, Error> {
        layer_norm(&mut self.graph, self.tensors, name, x, self.hidden, self.eps)
    }
}
