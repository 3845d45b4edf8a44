//! `UNet2DModel`: UNets that denoise images without text (diffusers). Residual blocks with group norms and the
//! time's embedding, attention within images, and what the way down keeps for the way up.
//!
//! With `patch_size`, a key of our own, a pixel of the network is a square of so many pixels a side of the
//! sample (PyTorch's `pixel_unshuffle`), and `in_channels` and `sample_size` are the network's.

use limbeck_graph::{Graph, TensorExpr, ValueId};
use limbeck_plan::{
    Activation, Add, Binary, Concat, Conv2d, Coordinates, DType, Dim, Gather, GroupNorm,
    Interpolation, Manifest, Map, MapStep, MatMul, Op, Reshape, Resize, Softmax, Task, Transpose,
    Unary, Window,
};

use crate::config::Config;
use crate::decoder::{activation_named, linear};
use crate::{Description, Error, ErrorKind, Student, TensorIndex};

/// Most blocks on a way, and most residual blocks of one.
const MAX_BLOCKS: usize = 64;
/// Most pixels of a side and channels.
const MAX_SIDE: usize = 1 << 13;
/// Longest period of the time's embedding.
const MAX_PERIOD: f32 = 10_000.0;

/// Pixels of the network, `[batch, height, width, channels]`.
#[derive(Clone, Copy)]
struct Image {
    value: ValueId,
    channels: usize,
    sides: [usize; 2],
}

/// A block: its channels, and whether residual blocks are followed by attention.
#[derive(Clone, Copy)]
struct Block {
    channels: usize,
    attention: bool,
}

struct UNet<'a> {
    tensors: &'a TensorIndex,
    graph: Graph,
    activation: Activation,
    groups: usize,
    eps: f32,
    /// Channels of a head of attention; `None` makes all one head.
    head_dim: Option<usize>,
    /// Residual blocks of a block on the way down; one more on the way up.
    layers: usize,
    /// Pixels added at each end before the way down leaves out every other one; none are one at the far end.
    down_padding: usize,
    /// The embedded time and class after the activation, `[batch, width]`, and its width.
    embedding: (ValueId, usize),
}

pub(crate) fn build(
    config: &mut Config,
    tensors: &TensorIndex,
    _: &Description,
) -> Result<Student, Error> {
    plain_network(config)?;
    let sides = sides(config)?;
    let (inputs, outputs) =
        (config.size_or("in_channels", Some(3))?, config.size_or("out_channels", Some(3))?);
    let patch = config.size_or("patch_size", Some(1))?;
    let downwards = blocks(config, "down_block_types", "DownBlock2D", "AttnDownBlock2D")?;
    let upwards = blocks(config, "up_block_types", "UpBlock2D", "AttnUpBlock2D")?;
    let first = downwards.first().map_or(0, |block| block.channels);
    let layers = config.size_or("layers_per_block", Some(2))?;
    if layers > MAX_BLOCKS {
        return Err(config.unsupported("layers_per_block", &layers.to_string()));
    }
    let name: Option<String> = config.get("act_fn")?;
    let activation = activation_named(config, "act_fn", name.as_deref().unwrap_or("silu"))?;
    let mut graph = Graph::new();
    let sample = sample(&mut graph, config, inputs, patch, sides)?;
    let embedding = embedding(&mut graph, tensors, config, first, activation)?;
    let mut net = UNet {
        tensors,
        graph,
        activation,
        groups: config.size_or("norm_num_groups", Some(32))?,
        eps: config.get("norm_eps")?.unwrap_or(1e-5),
        head_dim: head_dim(config)?,
        layers,
        down_padding: config.get("downsample_padding")?.unwrap_or(1),
        embedding,
    };
    let attention = config.get("add_attention")?.unwrap_or(true);
    let x = net.conv("conv_in", sample, first, 3, 1, [1; 4])?;
    let (x, kept) = net.down(&downwards, x)?;
    let x = net.middle(x, attention)?;
    let x = net.up(&upwards, x, kept)?;
    let x = net.norm("conv_norm_out", x, Activation::Silu)?;
    let x = net.conv("conv_out", x, outputs, 3, 1, [1; 4])?;
    let out = unpatched(&mut net.graph, config, x, patch)?;
    net.graph.output("out_sample", out);
    Ok(Student {
        architecture: "UNet2DModel".into(),
        task: Task::Tensors,
        context_length: 1,
        vocab_size: 0,
        embedding_size: 0,
        entries: vec![(Manifest::TENSORS_ENTRY.into(), net.graph)],
        notes: Vec::new(),
    })
}

/// Refuses what diffusers knows beside the plain network, and takes what does not matter here.
fn plain_network(config: &Config) -> Result<(), Error> {
    for (key, known) in [
        ("time_embedding_type", "positional"),
        ("downsample_type", "conv"),
        ("upsample_type", "conv"),
        ("resnet_time_scale_shift", "default"),
        ("mid_block_type", "UNetMidBlock2D"),
    ] {
        if let Some(value) = config.get::<String>(key)?.filter(|value| value != known) {
            return Err(config.unsupported(key, &value));
        }
    }
    if let Some(scale) = config.get::<f64>("mid_block_scale_factor")?.filter(|scale| *scale != 1.0)
    {
        return Err(config.unsupported("mid_block_scale_factor", &scale.to_string()));
    }
    // Training's.
    config.discard(|key| ["dropout", "num_train_timesteps"].contains(&key));
    Ok(())
}

/// Height and width of the network's image.
fn sides(config: &Config) -> Result<[usize; 2], Error> {
    let found: serde_json::Value = config.require("sample_size")?;
    let sides = match serde_json::from_value::<usize>(found.clone()) {
        Ok(side) => Some([side; 2]),
        Err(_) => serde_json::from_value(found.clone()).ok(),
    };
    let in_range = |sides: &[usize; 2]| sides.iter().all(|side| (1..=MAX_SIDE).contains(side));
    sides.filter(in_range).ok_or_else(|| config.unsupported("sample_size", &found.to_string()))
}

/// The blocks of a way, in the order in which `block_out_channels` has the way down.
fn blocks(config: &Config, key: &str, plain: &str, attention: &str) -> Result<Vec<Block>, Error> {
    let channels: Vec<usize> = config.require("block_out_channels")?;
    let in_range = |n: &usize| (1..=MAX_SIDE).contains(n);
    if channels.is_empty() || channels.len() > MAX_BLOCKS || !channels.iter().all(in_range) {
        return Err(config.unsupported("block_out_channels", &format!("{channels:?}")));
    }
    let mut kinds: Vec<String> = config.require(key)?;
    if kinds.len() != channels.len() {
        return Err(config.unsupported(key, &format!("{kinds:?}")));
    }
    if key.starts_with("up") {
        kinds.reverse();
    }
    let block = |(kind, channels): (&String, usize)| match kind.as_str() {
        kind if kind == plain => Ok(Block { channels, attention: false }),
        kind if kind == attention => Ok(Block { channels, attention: true }),
        kind => Err(config.unsupported(key, kind)),
    };
    kinds.iter().zip(channels).map(block).collect()
}

fn head_dim(config: &Config) -> Result<Option<usize>, Error> {
    let groups: Option<usize> = config.get("attn_norm_num_groups")?;
    if let Some(groups) = groups {
        return Err(config.unsupported("attn_norm_num_groups", &groups.to_string()));
    }
    // Missing, it is diffusers' default; null makes all one head.
    let default = (!config.has("attention_head_dim")).then_some(8);
    Ok(config.get::<usize>("attention_head_dim")?.or(default))
}

fn batch() -> Dim {
    Dim::symbol("batch")
}

fn reshape(graph: &mut Graph, name: &str, x: ValueId, sizes: &[usize]) -> Result<ValueId, Error> {
    let sizes = sizes.iter().map(|size| Dim::from(*size));
    let shape = std::iter::once(batch()).chain(sizes).collect();
    Ok(graph.node(name, Op::Reshape(Reshape { shape }), &[x])?)
}

fn transpose(graph: &mut Graph, name: &str, x: ValueId, order: &[usize]) -> Result<ValueId, Error> {
    Ok(graph.node(name, Op::Transpose(Transpose { order: order.to_vec() }), &[x])?)
}

/// The sample `[batch, channels, height, width]` as the network's image.
fn sample(
    graph: &mut Graph,
    config: &Config,
    channels: usize,
    patch: usize,
    [h, w]: [usize; 2],
) -> Result<Image, Error> {
    let (outer, [height, width]) = outer(config, channels, patch, [h, w])?;
    let shape = vec![batch(), Dim::from(outer), Dim::from(height), Dim::from(width)];
    let given = graph.input("sample", DType::F32, shape);
    let apart = reshape(graph, "sample.patches", given, &[outer, h, patch, w, patch])?;
    let turned = transpose(graph, "sample.turned", apart, &[0, 2, 4, 1, 3, 5])?;
    let value = reshape(graph, "sample.pixels", turned, &[h, w, channels])?;
    Ok(Image { value, channels, sides: [h, w] })
}

/// The network's image as a sample.
fn unpatched(graph: &mut Graph, config: &Config, x: Image, patch: usize) -> Result<ValueId, Error> {
    let [h, w] = x.sides;
    let (outer, [height, width]) = outer(config, x.channels, patch, x.sides)?;
    let apart = reshape(graph, "out.patches", x.value, &[h, w, outer, patch, patch])?;
    let turned = transpose(graph, "out.turned", apart, &[0, 3, 1, 4, 2, 5])?;
    reshape(graph, "out", turned, &[outer, height, width])
}

/// Channels and sides of a sample.
fn outer(
    config: &Config,
    channels: usize,
    patch: usize,
    sides: [usize; 2],
) -> Result<(usize, [usize; 2]), Error> {
    let square = patch.saturating_mul(patch);
    if !channels.is_multiple_of(square) || channels > MAX_SIDE || patch > MAX_SIDE {
        return Err(config.unsupported("patch_size", &format!("{patch} for {channels} channels")));
    }
    Ok((channels / square, sides.map(|side| side * patch)))
}

/// Time and class as a vector `[batch, 4 first]`, after the activation that every reader begins with.
fn embedding(
    graph: &mut Graph,
    tensors: &TensorIndex,
    config: &Config,
    first: usize,
    activation: Activation,
) -> Result<(ValueId, usize), Error> {
    let width = config.size_or("time_embedding_dim", Some(4 * first))?;
    let waves = waves(graph, config, first)?;
    let name = "time_embedding.linear_1";
    let inner = linear(graph, tensors, name, waves, [width, first], true)?;
    let inner = map_one(graph, "time_embedding.act", inner, Activation::Silu)?;
    let mut x = linear(graph, tensors, "time_embedding.linear_2", inner, [width, width], true)?;
    if let Some(kind) = config.get::<String>("class_embed_type")? {
        return Err(config.unsupported("class_embed_type", &kind));
    }
    if let Some(classes) = config.get::<usize>("num_class_embeds")? {
        let table = tensors.matrix("class_embedding.weight", classes, width)?;
        let table = graph.tensor(table, vec![Dim::from(classes), Dim::from(width)]);
        let labels = graph.input("class_labels", DType::I32, vec![batch()]);
        let gather = Op::Gather(Gather { axis: 0 });
        let class = graph.node("class_embedding", gather, &[table, labels])?;
        x = graph.node("embedding", Op::Add(Add {}), &[x, class])?;
    }
    Ok((map_one(graph, "embedding.act", x, activation)?, width))
}

/// Cosines and sines of the time, `[batch, width]`.
fn waves(graph: &mut Graph, config: &Config, width: usize) -> Result<ValueId, Error> {
    let shift: f32 = config.get("freq_shift")?.unwrap_or(0.0);
    let cosines_first = config.get("flip_sin_to_cos")?.unwrap_or(true);
    let half = width / 2;
    if !width.is_multiple_of(2) || half as f32 <= shift {
        return Err(config.unsupported("block_out_channels", &format!("{width} for the time")));
    }
    let step = -MAX_PERIOD.ln() / (half as f32 - shift);
    let values: Vec<f32> = (0..half).map(|i| (step * i as f32).exp()).collect();
    let name = "time_proj.frequencies".to_owned();
    let frequencies = TensorExpr::Inline { name, rows: 1, values: values.into() };
    let frequencies = graph.tensor(frequencies, vec![Dim::Const(1), Dim::from(half)]);
    let given = graph.input("timestep", DType::F32, vec![batch()]);
    let time = reshape(graph, "time_proj.time", given, &[1])?;
    let mut wave = |name: &str, unary: Unary| {
        let steps = vec![
            MapStep::Input(0),
            MapStep::Input(1),
            MapStep::Binary(Binary::Mul, 0, 1),
            MapStep::Unary(unary, 2),
        ];
        graph.node(name, Op::Map(Map { inputs: 2, steps }), &[time, frequencies])
    };
    let cosines = wave("time_proj.cos", Unary::Cos)?;
    let sines = wave("time_proj.sin", Unary::Sin)?;
    let inputs = if cosines_first { [cosines, sines] } else { [sines, cosines] };
    Ok(graph.node("time_proj", Op::Concat(Concat { inputs: 2, axis: 1 }), &inputs)?)
}

fn map_one(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    activation: Activation,
) -> Result<ValueId, Error> {
    let steps = vec![MapStep::Input(0), MapStep::Unary(Unary::Activation(activation), 0)];
    Ok(graph.node(name, Op::Map(Map { inputs: 1, steps }), &[x])?)
}

impl UNet<'_> {
    /// The way down, and what it keeps.
    fn down(&mut self, blocks: &[Block], mut x: Image) -> Result<(Image, Vec<Image>), Error> {
        let mut kept = vec![x];
        for (i, block) in blocks.iter().enumerate() {
            let at = |part: &str, n: usize| format!("down_blocks.{i}.{part}.{n}");
            for layer in 0..self.layers {
                x = self.residual(&at("resnets", layer), x, block.channels)?;
                if block.attention {
                    x = self.attention(&at("attentions", layer), x)?;
                }
                kept.push(x);
            }
            if i + 1 < blocks.len() {
                let padding = match self.down_padding {
                    0 => [0, 0, 1, 1],
                    n => [n; 4],
                };
                let name = format!("{}.conv", at("downsamplers", 0));
                x = self.conv(&name, x, block.channels, 3, 2, padding)?;
                kept.push(x);
            }
        }
        Ok((x, kept))
    }

    fn middle(&mut self, x: Image, attention: bool) -> Result<Image, Error> {
        let x = self.residual("mid_block.resnets.0", x, x.channels)?;
        let x = match attention {
            true => self.attention("mid_block.attentions.0", x)?,
            false => x,
        };
        self.residual("mid_block.resnets.1", x, x.channels)
    }

    fn up(&mut self, blocks: &[Block], mut x: Image, mut kept: Vec<Image>) -> Result<Image, Error> {
        for (i, block) in blocks.iter().rev().enumerate() {
            let at = |part: &str, n: usize| format!("up_blocks.{i}.{part}.{n}");
            for layer in 0..=self.layers {
                let name = at("resnets", layer);
                if let Some(beside) = kept.pop() {
                    let op = Op::Concat(Concat { inputs: 2, axis: 3 });
                    let inputs = [x.value, beside.value];
                    let value = self.graph.node(&format!("{name}.concat"), op, &inputs)?;
                    x = Image { value, channels: x.channels + beside.channels, ..x };
                }
                x = self.residual(&name, x, block.channels)?;
                if block.attention {
                    x = self.attention(&at("attentions", layer), x)?;
                }
            }
            if i + 1 < blocks.len() {
                x = self.doubled(&at("upsamplers", 0), x)?;
            }
        }
        Ok(x)
    }

    /// Each pixel four times, and a convolution.
    fn doubled(&mut self, name: &str, x: Image) -> Result<Image, Error> {
        let sides = x.sides.map(|side| 2 * side);
        let op = Op::Resize(Resize {
            sides: sides.map(Dim::from),
            scales: Some([2.0; 2]),
            interpolation: Interpolation::NearestFloor,
            coordinates: Coordinates::Asymmetric,
        });
        let value = self.graph.node(&format!("{name}.resize"), op, &[x.value])?;
        self.conv(&format!("{name}.conv"), Image { value, sides, ..x }, x.channels, 3, 1, [1; 4])
    }

    /// `conv2(act(norm2(conv1(act(norm1(x))) + embedding))) + shortcut(x)`.
    fn residual(&mut self, name: &str, x: Image, channels: usize) -> Result<Image, Error> {
        let at = |part: &str| format!("{name}.{part}");
        let y = self.norm(&at("norm1"), x, self.activation)?;
        let y = self.conv(&at("conv1"), y, channels, 3, 1, [1; 4])?;
        let (embedding, width) = self.embedding;
        let proj = at("time_emb_proj");
        let shift =
            linear(&mut self.graph, self.tensors, &proj, embedding, [channels, width], true)?;
        let shift = reshape(&mut self.graph, &at("time_emb"), shift, &[1, 1, channels])?;
        let value = self.sum(&at("time"), y.value, shift)?;
        let y = self.norm(&at("norm2"), Image { value, ..y }, self.activation)?;
        let y = self.conv(&at("conv2"), y, channels, 3, 1, [1; 4])?;
        let beside = match x.channels == channels {
            true => x,
            false => self.conv(&at("conv_shortcut"), x, channels, 1, 1, [0; 4])?,
        };
        let value = self.graph.node(name, Op::Add(Add {}), &[y.value, beside.value])?;
        Ok(Image { value, ..y })
    }

    /// `x + attention(norm(x))` over the pixels of an image.
    fn attention(&mut self, name: &str, x: Image) -> Result<Image, Error> {
        let at = |part: &str| format!("{name}.{part}");
        let (channels, pixels) = (x.channels, x.sides[0] * x.sides[1]);
        let head = self.head_dim.unwrap_or(channels);
        if head == 0 || !channels.is_multiple_of(head) {
            let message = format!("{name}: {channels} channels are no heads of {head}");
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        let heads = channels / head;
        let y = self.norm(&at("group_norm"), x, Activation::Identity)?;
        let y = reshape(&mut self.graph, &at("rows"), y.value, &[pixels, channels])?;
        let mut turned = [y; 3];
        for (found, part) in turned.iter_mut().zip(["to_q", "to_k", "to_v"]) {
            let rows = self.linear(&at(part), y, channels)?;
            let apart = format!("{name}.{part}.heads");
            let rows = reshape(&mut self.graph, &apart, rows, &[pixels, heads, head])?;
            let name = format!("{name}.{part}.turned");
            *found = transpose(&mut self.graph, &name, rows, &[0, 2, 1, 3])?;
        }
        let [q, k, v] = turned;
        let scores = MatMul { transposed: true, scale: (head as f32).powf(-0.5) };
        let scores = self.graph.node(&at("scores"), Op::MatMul(scores), &[q, k])?;
        let softmax = Op::Softmax(Softmax { log: false });
        let weights = self.graph.node(&at("weights"), softmax, &[scores])?;
        let mixed = Op::MatMul(MatMul { transposed: false, scale: 1.0 });
        let mixed = self.graph.node(&at("mixed"), mixed, &[weights, v])?;
        let mixed = transpose(&mut self.graph, &at("mixed.turned"), mixed, &[0, 2, 1, 3])?;
        let mixed = reshape(&mut self.graph, &at("mixed.rows"), mixed, &[pixels, channels])?;
        let out = self.linear(&at("to_out.0"), mixed, channels)?;
        let [h, w] = x.sides;
        let out = reshape(&mut self.graph, &at("pixels"), out, &[h, w, channels])?;
        let value = self.graph.node(name, Op::Add(Add {}), &[out, x.value])?;
        Ok(Image { value, ..x })
    }

    fn linear(&mut self, name: &str, x: ValueId, width: usize) -> Result<ValueId, Error> {
        linear(&mut self.graph, self.tensors, name, x, [width; 2], true)
    }

    /// A sum where axes of size 1 repeat.
    fn sum(&mut self, name: &str, a: ValueId, b: ValueId) -> Result<ValueId, Error> {
        let steps = vec![MapStep::Input(0), MapStep::Input(1), MapStep::Binary(Binary::Add, 0, 1)];
        Ok(self.graph.node(name, Op::Map(Map { inputs: 2, steps }), &[a, b])?)
    }

    fn norm(&mut self, name: &str, x: Image, activation: Activation) -> Result<Image, Error> {
        let weight = self.tensors.vector(&format!("{name}.weight"), x.channels)?;
        let bias = self.tensors.vector(&format!("{name}.bias"), x.channels)?;
        let inputs = [x.value, self.graph.weight(weight), self.graph.weight(bias)];
        let (groups, eps) = (self.groups, self.eps);
        let op = Op::GroupNorm(GroupNorm { groups, eps, bias: true, activation });
        Ok(Image { value: self.graph.node(name, op, &inputs)?, ..x })
    }

    fn conv(
        &mut self,
        name: &str,
        x: Image,
        channels: usize,
        kernel: usize,
        stride: usize,
        padding: [usize; 4],
    ) -> Result<Image, Error> {
        let shape = [channels, x.channels, kernel, kernel];
        let cols = x.channels * kernel * kernel;
        let weight = self.tensors.take(&format!("{name}.weight"), &shape, channels, cols)?;
        let weight = TensorExpr::TransposeEach { base: Box::new(weight), rows: x.channels };
        let bias = self.tensors.vector(&format!("{name}.bias"), channels)?;
        let inputs = [x.value, self.graph.weight(weight), self.graph.weight(bias)];
        let mut window = Window {
            image: x.sides,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding,
            dilation: [1; 2],
        };
        let sides = window.out().ok_or_else(|| {
            let message = format!("{name}: an image of {:?} is out of range", x.sides);
            Error::new(ErrorKind::Unsupported, message)
        })?;
        // Tensors have their own sides.
        window.image = [0; 2];
        let op = Op::Conv2d(Conv2d {
            window,
            groups: 1,
            bias: true,
            activation: Activation::Identity,
            residual: false,
        });
        Ok(Image { value: self.graph.node(name, op, &inputs)?, channels, sides })
    }
}
