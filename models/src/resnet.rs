//! `resnet`: residual convolutional networks (Hugging Face's `ResNetForImageClassification`), with
//! blocks of two convolutions (`basic`) or of three (`bottleneck`). A batch norm becomes a part of
//! the convolution before it.

use limbeck_graph::{BatchNorm, Graph, TensorExpr, ValueId};
use limbeck_plan::{
    Activate, Activation, Add, Conv2d, DType, Dim, Manifest, MaxPool2d, Op, Pixels, Pool, Pooling,
    Symbol, Task, Window,
};

use crate::config::Config;
use crate::decoder::{activation_named, linear};
use crate::{Description, Error, ErrorKind, Student, TensorIndex};

/// Of every batch norm, PyTorch's default.
const EPS: f64 = 1e-5;
/// A bottleneck's inner channels are the outer ones divided by this.
const REDUCTION: usize = 4;
/// Most blocks of a student.
const MAX_BLOCKS: usize = 4096;

struct ResNet<'a> {
    tensors: &'a TensorIndex,
    graph: Graph,
    /// Of the first convolution and of whole blocks.
    activation: Activation,
    bottleneck: bool,
    /// Whether the first of a bottleneck's convolutions moves by the block's stride, not the second.
    stride_first: bool,
}

/// An image in the graph.
#[derive(Clone, Copy)]
struct Image {
    value: ValueId,
    channels: usize,
    sides: [usize; 2],
}

pub(crate) fn build(
    config: &mut Config,
    tensors: &TensorIndex,
    description: &Description,
) -> Result<Student, Error> {
    let layer_type: String = config.require("layer_type")?;
    if !["basic", "bottleneck"].contains(&layer_type.as_str()) {
        return Err(config.unsupported("layer_type", &layer_type));
    }
    let activation: Option<String> = config.get("hidden_act")?;
    let activation =
        activation_named(config, "hidden_act", activation.as_deref().unwrap_or("relu"))?;
    let stem = config.size("embedding_size")?;
    let channels = config.size_or("num_channels", Some(3))?;
    let stages = stages(config)?;
    let first_moves = config.get("downsample_in_first_stage")?.unwrap_or(false);
    // What a backbone gives beside its last result.
    config.discard(|key| ["stage_names", "out_features", "out_indices"].contains(&key));
    let mut r = ResNet {
        tensors,
        graph: Graph::new(),
        activation,
        bottleneck: layer_type == "bottleneck",
        stride_first: config.get("downsample_in_bottleneck")?.unwrap_or(false),
    };
    tensors.discard_all(|name| name.ends_with(".num_batches_tracked"));
    let mut x = r.stem(description, channels, stem)?;
    for (i, (depth, width)) in stages.iter().enumerate() {
        for layer in 0..*depth {
            let moves = layer == 0 && (i > 0 || first_moves);
            let name = format!("resnet.encoder.stages.{i}.layers.{layer}");
            x = r.block(&name, x, *width, if moves { 2 } else { 1 })?;
        }
    }
    let mean = Op::Pool(Pool { pooling: Pooling::Mean, normalise: false });
    let pooled = r.graph.node("resnet.pooler", mean, &[x.value])?;
    let name = "classifier.1";
    let classes = tensors.shape(&format!("{name}.weight")).and_then(|shape| shape.first());
    // A missing head is named when it is read.
    let shape = [classes.copied().unwrap_or(1), x.channels];
    let logits = linear(&mut r.graph, tensors, name, pooled, shape, true)?;
    r.graph.output("logits", logits);
    Ok(Student {
        architecture: "resnet".into(),
        task: Task::Classify,
        context_length: 1,
        vocab_size: 0,
        embedding_size: 0,
        entries: vec![(Manifest::CLASSIFY_ENTRY.into(), r.graph)],
        notes: Vec::new(),
    })
}

/// Blocks and channels of each stage.
fn stages(config: &Config) -> Result<Vec<(usize, usize)>, Error> {
    let depths: Vec<usize> = config.require("depths")?;
    let widths: Vec<usize> = config.require("hidden_sizes")?;
    let blocks = depths.iter().fold(0usize, |sum, depth| sum.saturating_add(*depth));
    if depths.contains(&0) || depths.is_empty() || blocks > MAX_BLOCKS {
        return Err(config.unsupported("depths", &format!("{depths:?}")));
    }
    let in_range = |width: &usize| (1..=1 << 20).contains(width);
    if widths.len() != depths.len() || !widths.iter().all(in_range) {
        return Err(config.unsupported("hidden_sizes", &format!("{widths:?}")));
    }
    Ok(depths.into_iter().zip(widths).collect())
}

impl ResNet<'_> {
    /// The pixels, a convolution of 7 x 7 and the largest of 3 x 3, both of stride 2.
    fn stem(
        &mut self,
        description: &Description,
        channels: usize,
        width: usize,
    ) -> Result<Image, Error> {
        let Some([height, width_of]) = description.image else {
            let message = "the checkpoint does not say how large images are: give --image-size";
            return Err(Error::new(ErrorKind::Missing, message));
        };
        let pixels = Pixels { channels, height, width: width_of };
        let Some(values) = pixels.image() else {
            let message = format!("images of {channels} x {height} x {width_of} are out of range");
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        let shape = vec![Dim::symbol(Symbol::SEQUENCES), Dim::from(values)];
        let given = self.graph.input("pixel_values", DType::F32, shape);
        let value = self.graph.node("pixels", Op::Pixels(pixels), &[given])?;
        let x = Image { value, channels, sides: [height, width_of] };
        let x = self.conv("resnet.embedder.embedder", x, width, 7, 2)?;
        let x = self.activate("resnet.embedder.embedder.activation", x, self.activation)?;
        let window = window(x.sides, 3, 2);
        let sides = moved(&window)?;
        let pool = Op::MaxPool2d(MaxPool2d { window });
        let value = self.graph.node("resnet.embedder.pooler", pool, &[x.value])?;
        Ok(Image { value, sides, ..x })
    }

    /// `act(layers(x) + shortcut(x))`.
    fn block(&mut self, name: &str, x: Image, width: usize, stride: usize) -> Result<Image, Error> {
        let at = |part: &str| format!("{name}.{part}");
        let inner = width / REDUCTION;
        let layers = match (self.bottleneck, self.stride_first) {
            (false, _) => vec![(width, 3, stride), (width, 3, 1)],
            (true, false) => vec![(inner, 1, 1), (inner, 3, stride), (width, 1, 1)],
            (true, true) => vec![(inner, 1, stride), (inner, 3, 1), (width, 1, 1)],
        };
        let mut y = x;
        for (i, (width, kernel, stride)) in layers.iter().enumerate() {
            y = self.conv(&at(&format!("layer.{i}")), y, *width, *kernel, *stride)?;
            if i + 1 < layers.len() {
                // Whatever the configuration names.
                y = self.activate(&at(&format!("layer.{i}.activation")), y, Activation::Relu)?;
            }
        }
        let shortcut = match x.channels != width || stride != 1 {
            true => self.conv(&at("shortcut"), x, width, 1, stride)?,
            false => x,
        };
        let sum = self.graph.node(&at("residual"), Op::Add(Add {}), &[y.value, shortcut.value])?;
        self.activate(&at("activation"), Image { value: sum, ..y }, self.activation)
    }

    /// A convolution that keeps the middle of each window, and its batch norm.
    fn conv(
        &mut self,
        name: &str,
        x: Image,
        width: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<Image, Error> {
        let at = |part: &str| format!("{name}.{part}");
        let shape = [width, x.channels, kernel, kernel];
        let cols = x.channels * kernel * kernel;
        let weight = self.tensors.take(&at("convolution.weight"), &shape, width, cols)?;
        let vector = |part: &str| self.tensors.vector(&at(&format!("normalization.{part}")), width);
        let norm = BatchNorm {
            gamma: vector("weight")?,
            beta: vector("bias")?,
            mean: vector("running_mean")?,
            variance: vector("running_var")?,
            eps: EPS,
        };
        let base = TensorExpr::TransposeEach { base: Box::new(weight), rows: x.channels };
        let normalised = |bias| TensorExpr::Normalised {
            base: Box::new(base.clone()),
            norm: Box::new(norm.clone()),
            bias,
        };
        let inputs =
            [x.value, self.graph.weight(normalised(false)), self.graph.weight(normalised(true))];
        let window = window(x.sides, kernel, stride);
        let sides = moved(&window)?;
        let op = Op::Conv2d(Conv2d {
            window,
            groups: 1,
            bias: true,
            activation: Activation::Identity,
            residual: false,
        });
        Ok(Image { value: self.graph.node(name, op, &inputs)?, channels: width, sides })
    }

    fn activate(&mut self, name: &str, x: Image, activation: Activation) -> Result<Image, Error> {
        let op = Op::Activate(Activate { activation });
        Ok(Image { value: self.graph.node(name, op, &[x.value])?, ..x })
    }
}

/// A square window whose middle goes over the whole image.
fn window(image: [usize; 2], kernel: usize, stride: usize) -> Window {
    Window {
        image,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [kernel / 2; 4],
        dilation: [1; 2],
    }
}

fn moved(window: &Window) -> Result<[usize; 2], Error> {
    window.out().ok_or_else(|| {
        let [height, width] = window.image;
        let message = format!("an image of {height} x {width} within the network is out of range");
        Error::new(ErrorKind::Unsupported, message)
    })
}
