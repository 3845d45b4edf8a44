//! What works on images: rows of pixels, or tensors with channels last, which ONNX has first.

use limbeck_plan::{
    AveragePool2d, Conv2d, ConvTranspose2d, Coordinates, DepthwiseConv2d, GroupNorm, Interpolation,
    Linear, MaxPool2d, OperandId, Patches, Resize, Step, Symbol, Window,
};

use super::{Forms, Lowering, malformed};
use crate::error::Result;
use crate::onnx::builder::{float, int, ints, text};
use crate::onnx::proto::AttributeProto;

/// Channels last to channels first, and back.
const FIRST: [i64; 4] = [0, 3, 1, 2];
const LAST: [i64; 4] = [0, 2, 3, 1];

impl Lowering<'_> {
    /// Whether a value is there as images with their channels first, and not otherwise.
    pub(super) fn is_image(&self, id: OperandId) -> bool {
        let forms = self.forms.get(&id);
        forms.is_some_and(|forms| forms.plain.is_none() && forms.image.is_some())
    }

    /// The pixels of each image, where a value's rows are such.
    pub(super) fn pixels_of(&self, id: OperandId) -> Option<i64> {
        let count = self.shape(id).first()?.factor_of(Symbol::SEQUENCES)?;
        i64::try_from(count).ok()
    }

    /// A value with its channels first, where it is there as such or has four axes.
    pub(super) fn image_of(&mut self, id: OperandId) -> Result<String> {
        self.image(id, [0, 0])
    }

    /// Images of these sides with their channels first.
    fn image(&mut self, id: OperandId, [height, width]: [usize; 2]) -> Result<String> {
        if let Some(image) = self.forms.get(&id).and_then(|forms| forms.image.clone()) {
            return Ok(image);
        }
        let mut x = self.plain(id)?;
        if self.shape(id).len() == 2 {
            let cols = self.cols(id)?;
            x = self.reshaped(&x, &[-1, height as i64, width as i64, cols]);
        }
        let image = self.turned(&x, &FIRST);
        self.forms.entry(id).or_default().image = Some(image.clone());
        Ok(image)
    }

    /// The plan's form of images.
    pub(super) fn rows_of_image(&mut self, image: &str, id: OperandId) -> Result<String> {
        let last = self.turned(image, &LAST);
        if self.shape(id).len() != 2 {
            return Ok(last);
        }
        let cols = self.cols(id)?;
        Ok(self.reshaped(&last, &[-1, cols]))
    }

    /// Where a window looks, as attributes.
    fn window(&self, window: &Window) -> Vec<AttributeProto> {
        let two = |name: &str, v: [usize; 2]| ints(name, v.map(|n| n as i64));
        vec![
            two("kernel_shape", window.kernel),
            two("strides", window.stride),
            ints("pads", window.padding.map(|n| n as i64)),
            two("dilations", window.dilation),
        ]
    }

    /// A linear over images: a convolution of one pixel, whose residual comes after the activation.
    pub(super) fn pointwise(
        &mut self,
        p: &Linear,
        (x, weight): (OperandId, OperandId),
        (bias, residual): (Option<OperandId>, Option<OperandId>),
    ) -> Result<Forms> {
        let sizes = self.known(weight)?;
        let weight = self.weight(weight, &[sizes[0], sizes[1], 1, 1])?;
        let bias = bias.map(|bias| self.vector(bias, 0)).transpose()?;
        let x = self.image_of(x)?;
        let inputs: Vec<&str> = [x.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
        let y = self.b.op("Conv", &inputs, vec![ints("kernel_shape", [1, 1])]);
        let y = self.activate(&y, p.activation);
        let Some(residual) = residual else { return Ok(of_image(y)) };
        if self.forms.get(&residual).is_some_and(|forms| forms.image.is_some()) {
            let residual = self.image_of(residual)?;
            return Ok(of_image(self.b.op("Add", &[&y, &residual], Vec::new())));
        }
        let y = self.rows_of_image(&y, residual)?;
        let residual = self.plain(residual)?;
        let sum = self.b.op("Add", &[&y, &residual], Vec::new());
        Ok(Forms { plain: Some(sum), image: None })
    }

    pub(super) fn conv2d(&mut self, p: &Conv2d, step: &Step) -> Result<Forms> {
        let mut inputs = step.inputs.iter().copied();
        let mut next = || inputs.next().ok_or_else(malformed);
        let (x, weight) = (next()?, next()?);
        let bias = if p.bias { Some(next()?) } else { None };
        let residual = if p.residual { Some(next()?) } else { None };
        let [kh, kw] = p.window.kernel.map(|n| n as i64);
        let sizes = self.known(weight)?;
        let channels = sizes[1] / (kh * kw).max(1);
        let weight = self.weight(weight, &[sizes[0], kh, kw, channels])?;
        let weight = self.turned(&weight, &FIRST);
        let bias = bias.map(|bias| self.vector(bias, 0)).transpose()?;
        let x = self.image(x, p.window.image)?;
        let inputs: Vec<&str> = [x.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
        let mut attributes = self.window(&p.window);
        attributes.push(int("group", p.groups as i64));
        let mut y = self.b.op("Conv", &inputs, attributes);
        if let Some(residual) = residual {
            let sides = p.window.out().unwrap_or_default();
            let residual = self.image(residual, sides)?;
            y = self.b.op("Add", &[&y, &residual], Vec::new());
        }
        Ok(of_image(self.activate(&y, p.activation)))
    }

    pub(super) fn depthwise_conv2d(&mut self, p: &DepthwiseConv2d, step: &Step) -> Result<Forms> {
        let [x, weight, ..] = step.inputs[..] else { return Err(malformed()) };
        let [kh, kw] = p.window.kernel.map(|n| n as i64);
        let channels = self.cols(x)?;
        let weight = self.weight(weight, &[kh, kw, 1, channels])?;
        let weight = self.turned(&weight, &[3, 2, 0, 1]);
        let bias = step.inputs.get(2).filter(|_| p.bias);
        let bias = bias.map(|bias| self.vector(*bias, 0)).transpose()?;
        let x = self.image(x, p.window.image)?;
        let inputs: Vec<&str> = [x.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
        let mut attributes = self.window(&p.window);
        attributes.push(int("group", channels));
        let y = self.b.op("Conv", &inputs, attributes);
        Ok(of_image(self.activate(&y, p.activation)))
    }

    pub(super) fn max_pool2d(&mut self, p: &MaxPool2d, x: OperandId) -> Result<Forms> {
        let x = self.image(x, p.window.image)?;
        let attributes = self.window(&p.window);
        Ok(of_image(self.b.op("MaxPool", &[&x], attributes)))
    }

    pub(super) fn average_pool2d(&mut self, p: &AveragePool2d, x: OperandId) -> Result<Forms> {
        let x = self.image(x, p.window.image)?;
        let mut attributes = self.window(&p.window);
        attributes.push(int("count_include_pad", p.count_padding.into()));
        Ok(of_image(self.b.op("AveragePool", &[&x], attributes)))
    }

    pub(super) fn conv_transpose2d(&mut self, p: &ConvTranspose2d, step: &Step) -> Result<Forms> {
        let [x, weight, ..] = step.inputs[..] else { return Err(malformed()) };
        let [kh, kw] = p.kernel.map(|n| n as i64);
        let sizes = self.known(weight)?;
        let outputs = sizes[0] / (kh * kw).max(1);
        let weight = self.weight(weight, &[kh, kw, outputs, sizes[1]])?;
        let weight = self.turned(&weight, &[3, 2, 0, 1]);
        let bias = step.inputs.get(2).filter(|_| p.bias);
        let bias = bias.map(|bias| self.vector(*bias, 0)).transpose()?;
        let x = self.image_of(x)?;
        let inputs: Vec<&str> = [x.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
        let two = |name: &str, v: [usize; 2]| ints(name, v.map(|n| n as i64));
        let attributes = vec![
            two("kernel_shape", p.kernel),
            two("strides", p.stride),
            ints("pads", p.padding.map(|n| n as i64)),
            two("dilations", p.dilation),
            two("output_padding", p.output_padding),
        ];
        Ok(of_image(self.b.op("ConvTranspose", &inputs, attributes)))
    }

    pub(super) fn resize(&mut self, p: &Resize, x: OperandId) -> Result<Forms> {
        let image = self.image_of(x)?;
        let (mode, nearest) = match p.interpolation {
            Interpolation::NearestFloorHalf => ("nearest", "round_prefer_floor"),
            Interpolation::NearestCeilHalf => ("nearest", "round_prefer_ceil"),
            Interpolation::NearestFloor => ("nearest", "floor"),
            Interpolation::NearestCeil => ("nearest", "ceil"),
            Interpolation::Linear => ("linear", "round_prefer_floor"),
        };
        let coordinates = match p.coordinates {
            Coordinates::Asymmetric => "asymmetric",
            Coordinates::HalfPixel => "half_pixel",
            Coordinates::PytorchHalfPixel => "pytorch_half_pixel",
            Coordinates::AlignCorners => "align_corners",
        };
        let attributes = vec![
            text("mode", mode),
            text("nearest_mode", nearest),
            text("coordinate_transformation_mode", coordinates),
        ];
        let resized = if let Some([height, width]) = p.scales {
            let scales = self.b.floats(&[1.0, 1.0, height, width]);
            self.b.op("Resize", &[&image, "", &scales], attributes)
        } else {
            let kept = self.b.op("Shape", &[&image], vec![int("start", 0), int("end", 2)]);
            let [height, width] = [self.size(&p.sides[0])?, self.size(&p.sides[1])?];
            let sizes = self.joined(&[kept, height, width], 0);
            self.b.op("Resize", &[&image, "", "", &sizes], attributes)
        };
        Ok(of_image(resized))
    }

    /// A reshape to groups, an instance norm, a reshape back, and what each channel is multiplied with and
    /// added to.
    pub(super) fn group_norm(&mut self, p: &GroupNorm, step: &Step) -> Result<Forms> {
        let [x, weight, ..] = step.inputs[..] else { return Err(malformed()) };
        let rank = self.shape(x).len();
        let first = if rank == 4 {
            self.image_of(x)?
        } else {
            let x = self.plain(x)?;
            let last = rank as i64 - 1;
            let order: Vec<i64> = [0, last].into_iter().chain(1..last).collect();
            self.turned(&x, &order)
        };
        let groups = self.reshaped(&first, &[0, p.groups as i64, -1]);
        let (ones, zeros) = (vec![1.0; p.groups], vec![0.0; p.groups]);
        let (ones, zeros) = (self.b.floats(&ones), self.b.floats(&zeros));
        let inputs = [groups.as_str(), &ones, &zeros];
        let even = self.b.op("InstanceNormalization", &inputs, vec![float("epsilon", p.eps)]);
        let shape = self.b.op("Shape", &[&first], Vec::new());
        let mut y = self.b.op("Reshape", &[&even, &shape], Vec::new());
        let weight = self.vector(weight, rank.saturating_sub(2))?;
        y = self.b.op("Mul", &[&y, &weight], Vec::new());
        if let Some(bias) = step.inputs.get(2).filter(|_| p.bias) {
            let bias = self.vector(*bias, rank.saturating_sub(2))?;
            y = self.b.op("Add", &[&y, &bias], Vec::new());
        }
        let y = self.activate(&y, p.activation);
        if rank == 4 {
            return Ok(of_image(y));
        }
        let order: Vec<i64> = [0].into_iter().chain(2..rank as i64).chain([1]).collect();
        Ok(Forms { plain: Some(self.turned(&y, &order)), image: None })
    }

    /// Patches in rows, channel by channel, with rows of zeros before those of each image.
    pub(super) fn patches(&mut self, p: &Patches, x: OperandId) -> Result<String> {
        let x = self.plain(x)?;
        let [c, h, w, side] = [p.channels, p.height, p.width, p.patch].map(|n| n as i64);
        let (down, across) = (h / side.max(1), w / side.max(1));
        let apart = self.reshaped(&x, &[-1, c, down, side, across, side]);
        let turned = self.turned(&apart, &[0, 2, 4, 1, 3, 5]);
        let cols = c * side * side;
        let mut rows = self.reshaped(&turned, &[-1, down * across, cols]);
        if p.lead > 0 {
            let pads = self.b.integers(&[0, p.lead as i64, 0, 0, 0, 0]);
            rows = self.b.op("Pad", &[&rows, &pads], Vec::new());
        }
        Ok(self.reshaped(&rows, &[-1, cols]))
    }
}

fn of_image(name: String) -> Forms {
    Forms { plain: None, image: Some(name) }
}
