//! `acm_vit`: vision transformers with a class token (torchvision's `VisionTransformer`), and the same with
//! Adaptive Computation Modules as their released code names them. Pre-norm: `x += f(LN(x))`.

use limbeck_graph::{Graph, TensorExpr, ValueId};
use limbeck_plan::{
    Activate, Activation, Add, DType, Dim, Embedding, Manifest, Op, Patches, Pool, Pooling, Symbol,
    Task,
};

use crate::acm::{Released, Role};
use crate::config::Config;
use crate::decoder::{encoder_attention, layer_norm, linear, plain_linear};
use crate::{Description, Error, Student, TensorIndex};

/// Of every norm, as torchvision has it.
const EPS: f32 = 1e-6;
const CHANNELS: usize = 3;

struct Vit<'a> {
    tensors: &'a TensorIndex,
    graph: Graph,
    hidden: usize,
    heads: usize,
    inner: usize,
    acm: Option<Released>,
}

pub(crate) fn build(
    config: &mut Config,
    tensors: &TensorIndex,
    _: &Description,
) -> Result<Student, Error> {
    let mut v = Vit {
        tensors,
        graph: Graph::new(),
        hidden: config.size("hidden_dim")?,
        heads: config.size("num_heads")?,
        inner: config.size("mlp_dim")?,
        acm: Released::read(config)?,
    };
    if !v.hidden.is_multiple_of(v.heads) {
        return Err(config.unsupported("num_heads", &v.heads.to_string()));
    }
    let (side, patch) = (config.size("image_size")?, config.size("patch_size")?);
    let patches = Patches { channels: CHANNELS, height: side, width: side, patch, lead: 1 };
    let (Some(rows), Some(image), Some(cols)) = (patches.rows(), patches.image(), patches.cols())
    else {
        return Err(config.unsupported("patch_size", &format!("{patch} for images of {side}")));
    };
    // Training's; the second is torchvision's head before the head, which the tensors would show.
    config.get::<f64>("dropout")?;
    config.get::<usize>("representation_size")?;
    let classes = config.size("num_classes")?;
    let mut x = v.embed(patches, [rows, image, cols])?;
    for layer in 0..config.layers_of("num_layers")? {
        x = v.layer(layer, x)?;
    }
    let first = Op::Pool(Pool { pooling: Pooling::Cls, normalise: false });
    let x = v.graph.node("class_token", first, &[x])?;
    let x = v.norm("encoder.ln", x)?;
    let logits = v.linear("heads.head", x, [classes, v.hidden])?;
    v.graph.output("logits", logits);
    Ok(Student {
        architecture: if v.acm.is_some() { "acm_vit" } else { "vit" }.into(),
        task: Task::Classify,
        context_length: rows,
        vocab_size: 0,
        embedding_size: 0,
        entries: vec![(Manifest::CLASSIFY_ENTRY.into(), v.graph)],
        notes: Vec::new(),
    })
}

impl Vit<'_> {
    /// Patches through a convolution as wide as its stride, which is a linear, and what is added to
    /// each position: the class token with its embedding, elsewhere the embedding with the
    /// convolution's bias.
    fn embed(
        &mut self,
        patches: Patches,
        [rows, image, cols]: [usize; 3],
    ) -> Result<ValueId, Error> {
        let (h, patch) = (self.hidden, patches.patch);
        let pixels = vec![Dim::symbol(Symbol::SEQUENCES), Dim::from(image)];
        let pixels = self.graph.input("pixel_values", DType::F32, pixels);
        let tokens = vec![Dim::symbol(Symbol::TOKENS)];
        let positions = self.graph.input("positions", DType::I32, tokens);
        let x = self.graph.node("patches", Op::Patches(patches), &[pixels])?;
        let shape = [h, CHANNELS, patch, patch];
        let kernel = self.tensors.take("conv_proj.weight", &shape, h, cols)?;
        let kernel = self.graph.weight(kernel);
        let x = self.graph.node("conv_proj", plain_linear(false), &[x, kernel])?;
        let bias = self.tensors.vector("conv_proj.bias", h)?;
        let class = self.tensors.take("class_token", &[1, 1, h], 1, h)?;
        let place = self.tensors.take("encoder.pos_embedding", &[1, rows, h], rows, h)?;
        let rest = TensorExpr::Rows {
            base: Box::new(place.clone()),
            first: 1,
            count: rows.saturating_sub(1),
        };
        let add = |base: TensorExpr, row: TensorExpr| TensorExpr::AddRow {
            base: Box::new(base),
            row: Box::new(row),
            index: 0,
        };
        let table = TensorExpr::ConcatRows(vec![add(class, place), add(rest, bias)]);
        let table = self.graph.weight(table);
        let lookup = Op::Embedding(Embedding { scale: 1.0 });
        let place = self.graph.node("pos_embedding", lookup, &[positions, table])?;
        Ok(self.graph.node("embeddings", Op::Add(Add {}), &[x, place])?)
    }

    fn layer(&mut self, layer: usize, x: ValueId) -> Result<ValueId, Error> {
        let at = |part: &str| format!("encoder.layers.encoder_layer_{layer}.{part}");
        let normed = self.norm(&at("ln_1"), x)?;
        let attended = self.attention(&at("self_attention"), normed)?;
        let x = self.graph.node(&at("attention_residual"), Op::Add(Add {}), &[attended, x])?;
        let normed = self.norm(&at("ln_2"), x)?;
        let down = match self.module(Role::Mlp, &at("mlp"), normed)? {
            Some(y) => y,
            None => self.mlp(&at("mlp"), normed)?,
        };
        Ok(self.graph.node(&at("mlp_residual"), Op::Add(Add {}), &[down, x])?)
    }

    /// Queries, keys and values come from one matrix in torchvision's checkpoints, from three in
    /// those of the released code.
    fn attention(&mut self, name: &str, x: ValueId) -> Result<ValueId, Error> {
        let h = self.hidden;
        let at = |part: &str| format!("{name}.{part}");
        let fused = self.tensors.has(&at("in_proj_weight"));
        let inputs = if fused {
            let weight = self.tensors.matrix(&at("in_proj_weight"), 3 * h, h)?;
            let bias = self.tensors.vector(&at("in_proj_bias"), 3 * h)?;
            let inputs = [x, self.graph.weight(weight), self.graph.weight(bias)];
            vec![self.graph.node(&at("in_proj"), plain_linear(true), &inputs)?]
        } else {
            let mut inputs = Vec::with_capacity(3);
            for role in [Role::Query, Role::Key, Role::Value] {
                inputs.push(self.projection(role, &at(role.key()), x)?);
            }
            inputs
        };
        let op = encoder_attention(h, self.heads, fused);
        let attended = self.graph.node(name, op, &inputs)?;
        match fused {
            true => self.linear(&at("out_proj"), attended, [h, h]),
            false => self.projection(Role::Output, &at("o_proj"), attended),
        }
    }

    fn projection(&mut self, role: Role, name: &str, x: ValueId) -> Result<ValueId, Error> {
        match self.module(role, name, x)? {
            Some(y) => Ok(y),
            None => self.linear(name, x, [self.hidden; 2]),
        }
    }

    fn module(&mut self, role: Role, name: &str, x: ValueId) -> Result<Option<ValueId>, Error> {
        let Some(acm) = &self.acm else { return Ok(None) };
        let module = acm.module(self.tensors, role, name, self.hidden)?;
        module.map(|module| module.place(&mut self.graph, x)).transpose()
    }

    fn mlp(&mut self, name: &str, x: ValueId) -> Result<ValueId, Error> {
        // The older checkpoints number the linears, the newer ones all of the block's parts.
        let old = self.tensors.has(&format!("{name}.linear_1.weight"));
        let [up, down] = if old { ["linear_1", "linear_2"] } else { ["0", "3"] };
        let up = self.linear(&format!("{name}.{up}"), x, [self.inner, self.hidden])?;
        let op = Op::Activate(Activate { activation: Activation::Gelu });
        let active = self.graph.node(&format!("{name}.activation"), op, &[up])?;
        self.linear(&format!("{name}.{down}"), active, [self.hidden, self.inner])
    }

    fn linear(&mut self, name: &str, x: ValueId, shape: [usize; 2]) -> Result<ValueId, Error> {
        linear(&mut self.graph, self.tensors, name, x, shape, true)
    }

    fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, Error> {
        layer_norm(&mut self.graph, self.tensors, name, x, self.hidden, EPS)
    }
}
