//! The shape rules of images.

use super::patches::MAX_SIDE;
use super::{epilogue, known_size, matrix, same, vector, weight};
use crate::ops::{Conv2d, DepthwiseConv2d, MaxPool2d, Pixels, Window};
use crate::{DType, Dim, Fact, Manifest, Symbol};

/// Most pixels of an image, as many as it may have tokens.
const MAX_PIXELS: usize = Manifest::MAX_CONTEXT;
/// Most pixels in the window of an op without a weight, which would bound it.
const MAX_POOLED: usize = 1 << 12;

impl Pixels {
    /// Values of one image; `None` for sizes out of range.
    pub fn image(&self) -> Option<usize> {
        let in_range = |n: usize| (1..=MAX_SIDE).contains(&n);
        let pixels = pixels_of([self.height, self.width])?;
        in_range(self.channels).then(|| pixels * self.channels)
    }
}

impl Window {
    /// Height and width of the result; `None` for sizes out of range and a window that is larger
    /// than the padded image.
    pub fn out(&self) -> Option<[usize; 2]> {
        pixels_of(self.image)?;
        let [above, left, below, right] = self.padding;
        let padding = [[above, below], [left, right]];
        let mut out = [0; 2];
        for (axis, out) in out.iter_mut().enumerate() {
            let (kernel, stride) = (self.kernel[axis], self.stride[axis]);
            let (dilation, [before, after]) = (self.dilation[axis], padding[axis]);
            let sizes = [kernel, stride, dilation];
            if sizes.iter().any(|n| !(1..=MAX_SIDE).contains(n)) || before.max(after) > MAX_SIDE {
                return None;
            }
            let padded = before + self.image[axis] + after;
            let left = padded.checked_sub((kernel - 1) * dilation + 1)?;
            *out = left / stride + 1;
        }
        pixels_of(out).map(|_| out)
    }

    /// Pixels that it sees.
    pub fn taps(&self) -> usize {
        self.kernel[0].saturating_mul(self.kernel[1])
    }

    /// The window's pixels are those of the image, one by one.
    pub fn is_pixel(&self) -> bool {
        (self.kernel, self.stride, self.padding) == ([1, 1], [1, 1], [0; 4])
    }

    /// The window over an image of these sides, where its own leaves them open.
    pub fn over(&self, image: [usize; 2]) -> Window {
        Window { image, ..self.clone() }
    }

    /// The sides of the result for an image whose sides the window leaves open.
    fn sides(&self, image: [&Dim; 2]) -> Result<[Dim; 2], String> {
        if self.image != [0, 0] {
            return Err("a tensor has its sides, and the window other ones".into());
        }
        let [above, left, below, right] = self.padding;
        let axis = |axis: usize, before: usize, after: usize| {
            let (kernel, stride) = (self.kernel[axis], self.stride[axis]);
            let dilation = self.dilation[axis];
            let in_range = |n: usize| (1..=MAX_SIDE).contains(&n);
            if ![kernel, stride, dilation].into_iter().all(in_range) || before.max(after) > MAX_SIDE
            {
                return None;
            }
            // One place more for each whole stride that is left of the window.
            let (has, takes) = (before + after + stride, (kernel - 1) * dilation + 1);
            let left = image[axis].clone().plus(has.saturating_sub(takes));
            Some(left.minus(takes.saturating_sub(has)).over(stride))
        };
        let found = axis(0, above, below).zip(axis(1, left, right));
        found.map(|(down, across)| [down, across]).ok_or_else(|| {
            format!("a window of {:?} every {:?} is out of range", self.kernel, self.stride)
        })
    }

    fn checked(&self) -> Result<[usize; 2], String> {
        self.out().ok_or_else(|| {
            let Window { image: [h, w], kernel, stride, padding, dilation } = self;
            format!(
                "a window of {kernel:?} every {stride:?}, its pixels {dilation:?} apart, does not \
                 move over an image of {h} x {w} padded by {padding:?}"
            )
        })
    }
}

/// `height width` where both are in range.
fn pixels_of([height, width]: [usize; 2]) -> Option<usize> {
    let in_range = |n: usize| (1..=MAX_SIDE).contains(&n);
    let pixels = (in_range(height) && in_range(width)).then(|| height * width)?;
    (pixels <= MAX_PIXELS).then_some(pixels)
}

/// `[sequences height width, channels]`; the sides are in range.
fn image([height, width]: [usize; 2], channels: usize) -> Fact {
    let rows = Dim::symbol(Symbol::SEQUENCES).times(height * width);
    Fact::new(DType::F32, vec![rows, Dim::from(channels)])
}

/// Rows of each sequence, where they are as many for each.
pub(super) fn rows_per_image(fact: &Fact) -> Option<u64> {
    let rows = fact.shape.first()?.factor_of(Symbol::SEQUENCES)?;
    (1..=MAX_PIXELS as u64).contains(&rows).then_some(rows)
}

/// The channels of an op's input, and the sizes of its result but for the channels: rows of the
/// call's images, or the axes of a tensor `[batch, h, w, C]`, whose window leaves the sides open.
pub(super) fn input(window: &Window, x: &Fact) -> Result<(usize, Vec<Dim>), String> {
    if let [batch, height, width, channels] = x.shape.as_slice() {
        let channels = known_size(channels).filter(|_| x.dtype == DType::F32);
        let channels = channels.ok_or_else(|| format!("{x} is not images of known channels"))?;
        let [down, across] = window.sides([height, width])?;
        return Ok((channels, vec![batch.clone(), down, across]));
    }
    let out = window.checked()?;
    let (_, channels) = matrix(x)?;
    same(x, &image(window.image, channels))?;
    Ok((channels, image(out, channels).shape[..1].to_vec()))
}

/// The result of an op on images with so many channels.
pub(super) fn with_channels(mut sizes: Vec<Dim>, channels: usize) -> Fact {
    sizes.push(Dim::from(channels));
    Fact::new(DType::F32, sizes)
}

pub(super) fn pixels(p: &Pixels, inputs: &[Fact]) -> Result<Fact, String> {
    let Some(values) = p.image() else {
        let Pixels { channels, height, width } = p;
        return Err(format!("{channels} x {height} x {width} is no image"));
    };
    let given = Fact::new(DType::F32, vec![Dim::symbol(Symbol::SEQUENCES), Dim::from(values)]);
    same(&inputs[0], &given)?;
    Ok(image([p.height, p.width], p.channels))
}

pub(super) fn conv2d(p: &Conv2d, inputs: &[Fact]) -> Result<Fact, String> {
    let (channels, sizes) = input(&p.window, &inputs[0])?;
    let (n, k) = weight(&inputs[1])?;
    let divides = |of: usize| p.groups > 0 && of.is_multiple_of(p.groups);
    if !divides(channels) || !divides(n) {
        return Err(format!("{} groups do not divide {channels} and {n} channels", p.groups));
    }
    if (channels / p.groups).checked_mul(p.window.taps()) != Some(k) {
        let [h, w] = p.window.kernel;
        let each = channels / p.groups;
        return Err(format!("the weight takes {k} columns, a window {h} x {w} x {each}"));
    }
    let out = with_channels(sizes, n);
    epilogue(&inputs[2..], p.bias, p.residual, n, &out)?;
    Ok(out)
}

pub(super) fn depthwise_conv2d(p: &DepthwiseConv2d, inputs: &[Fact]) -> Result<Fact, String> {
    let (channels, sizes) = input(&p.window, &inputs[0])?;
    if weight(&inputs[1])? != (p.window.taps(), channels) {
        let taps = p.window.taps();
        return Err(format!("the weight is {}, not f32[{taps}, {channels}]", inputs[1]));
    }
    inputs.get(2).map_or(Ok(()), |bias| vector(bias, channels, "bias"))?;
    Ok(with_channels(sizes, channels))
}

pub(super) fn max_pool2d(p: &MaxPool2d, inputs: &[Fact]) -> Result<Fact, String> {
    let (channels, sizes) = input(&p.window, &inputs[0])?;
    taps_in_range(&p.window)?;
    Ok(with_channels(sizes, channels))
}

/// Of an op without a weight, which would bound it.
pub(super) fn taps_in_range(window: &Window) -> Result<(), String> {
    match window.taps() {
        0..=MAX_POOLED => Ok(()),
        taps => Err(format!("a window of {taps} pixels is out of range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Op, Pool, Pooling};

    fn window() -> Window {
        Window {
            image: [9, 12],
            kernel: [3, 2],
            stride: [2, 1],
            padding: [1, 0, 1, 2],
            dilation: [1, 3],
        }
    }

    fn conv(window: Window, groups: usize) -> Op {
        let activation = Activation::Relu;
        Op::Conv2d(Conv2d { window, groups, bias: true, activation, residual: true })
    }

    fn known(rows: u64, cols: u64) -> Fact {
        Fact::new(DType::F32, vec![Dim::Const(rows), Dim::Const(cols)])
    }

    /// 8 channels in 2 groups to 10.
    fn inputs() -> [Fact; 4] {
        [image([9, 12], 8), known(10, 3 * 2 * 4), known(1, 10), image([5, 11], 10)]
    }

    #[test]
    fn a_window_has_as_many_places_as_fit() {
        assert_eq!(window().out(), Some([5, 11]));
        let all = Window { kernel: [9, 12], padding: [0; 4], dilation: [1, 1], ..window() };
        assert_eq!(all.out(), Some([1, 1]));
        let pixel = Window { kernel: [1, 1], stride: [1, 1], padding: [0; 4], ..window() };
        assert!(pixel.is_pixel() && !window().is_pixel());
        for bad in [
            Window { image: [0, 12], ..window() },
            Window { image: [1 << 14, 1 << 14], ..window() },
            Window { image: [usize::MAX, 12], ..window() },
            Window { kernel: [0, 2], ..window() },
            Window { kernel: [12, 2], ..window() },
            Window { kernel: [usize::MAX, 2], ..window() },
            Window { stride: [0, 1], ..window() },
            Window { stride: [2, usize::MAX], ..window() },
            Window { dilation: [0, 3], ..window() },
            Window { dilation: [1, 14], ..window() },
            Window { dilation: [usize::MAX, 3], ..window() },
            Window { padding: [usize::MAX, 0, 1, 2], ..window() },
            // A small image may not grow without bound by its padding either.
            Window { padding: [1 << 14; 4], stride: [1, 1], ..window() },
        ] {
            assert_eq!(bad.out(), None, "{bad:?}");
            assert!(conv(bad, 2).infer(&inputs()).unwrap_err().contains("a window of"));
        }
    }

    #[test]
    fn a_convolution_takes_images_of_its_window_and_gives_images() {
        assert_eq!(conv(window(), 2).infer(&inputs()).unwrap(), [image([5, 11], 10)]);
        for (at, fact) in [
            (0, image([9, 11], 8)),
            (0, image([9, 12], 9)),
            (0, known(108, 8)),
            (0, Fact::new(DType::F32, vec![Dim::symbol(Symbol::TOKENS), Dim::Const(8)])),
            (1, known(10, 25)),
            (1, known(9, 24)),
            (2, known(1, 9)),
            (3, image([5, 10], 10)),
        ] {
            let mut inputs = inputs();
            inputs[at] = fact;
            assert!(conv(window(), 2).infer(&inputs).is_err(), "{inputs:?}");
        }
        for groups in [0, 1, 3, 4, 8, usize::MAX] {
            assert!(conv(window(), groups).infer(&inputs()).is_err(), "{groups}");
        }
        assert!(conv(window(), 2).infer(&inputs()[..3]).is_err());
    }

    #[test]
    fn other_ops_on_images_keep_their_channels() {
        let depthwise = |bias| {
            let activation = Activation::Identity;
            Op::DepthwiseConv2d(DepthwiseConv2d { window: window(), bias, activation })
        };
        let x = || image([9, 12], 8);
        let out = depthwise(true).infer(&[x(), known(6, 8), known(1, 8)]).unwrap();
        assert_eq!(out, [image([5, 11], 8)]);
        assert!(depthwise(false).infer(&[x(), known(8, 6)]).is_err());
        assert!(depthwise(true).infer(&[x(), known(6, 8), known(1, 7)]).is_err());
        let pool = |window| Op::MaxPool2d(MaxPool2d { window }).infer(&[x()]);
        assert_eq!(pool(window()).unwrap(), [image([5, 11], 8)]);
        let (padding, dilation) = ([0, 999, 0, 0], [1, 1]);
        let huge = Window { kernel: [9, 500], padding, dilation, ..window() };
        assert!(pool(huge).unwrap_err().contains("4500 pixels"));
        let mean = Op::Pool(Pool { pooling: Pooling::Mean, normalise: false });
        assert_eq!(mean.infer(&[x()]).unwrap(), [image([1, 1], 8)]);
        assert_eq!(mean.infer(&[image([1, 1], 8)]).unwrap(), [image([1, 1], 8)]);
        assert!(mean.infer(&[known(108, 8)]).is_err());
    }

    #[test]
    fn pixels_are_rows_of_an_image_in_range() {
        let p = Pixels { channels: 3, height: 9, width: 12 };
        let given = |cols: usize| {
            Fact::new(DType::F32, vec![Dim::symbol(Symbol::SEQUENCES), Dim::from(cols)])
        };
        let infer = |p: &Pixels, cols| Op::Pixels(p.clone()).infer(&[given(cols)]);
        assert_eq!(infer(&p, 3 * 108).unwrap(), [image([9, 12], 3)]);
        assert!(infer(&p, 108).is_err());
        for bad in [
            Pixels { channels: 0, ..p.clone() },
            Pixels { height: usize::MAX, ..p.clone() },
            Pixels { height: 1 << 14, width: 1 << 14, ..p.clone() },
            Pixels { width: 0, ..p.clone() },
        ] {
            assert!(infer(&bad, 3 * 108).is_err(), "{bad:?}");
        }
    }
}
