//! The ops on images. An image is rows of pixels, left to right and top to bottom, each with its
//! channels side by side (NHWC): `[sequences height width, channels]`. So a convolution of one pixel
//! is a linear, and what works on rows works on images.

use serde::{Deserialize, Serialize};

use super::Activation;

/// Images as rows of pixels: `pixels [sequences, channels height width] -> [sequences height width,
/// channels]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pixels {
    /// Channels of an image.
    pub channels: usize,
    /// Height of an image.
    pub height: usize,
    /// Width of an image.
    pub width: usize,
}

/// A window that moves over an image, and gives a pixel of the result at each place.
///
/// Of an axis of `n` pixels with `before` and `after` added at its ends, place `o` sees the pixels
/// `o stride - before + i dilation` for `i` in `0..kernel`; there are `(before + n + after -
/// ((kernel - 1) dilation + 1)) / stride + 1` places, rounded down. The whole window lies within the
/// padded image at each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Height and width of the image; 0 over a tensor `[batch, h, w, C]`, which has them. An op whose
    /// window leaves them open takes and gives such tensors in the place of rows of pixels.
    #[serde(default)]
    pub image: [usize; 2],
    /// Rows and columns of pixels that the window sees.
    pub kernel: [usize; 2],
    /// How far it moves down and to the right.
    pub stride: [usize; 2],
    /// Pixels added above, at the left, below and at the right.
    pub padding: [usize; 4],
    /// Distance of the pixels that it sees, down and to the right.
    pub dilation: [usize; 2],
}

/// A convolution with a packed weight and a fused epilogue.
///
/// `x [sequences h w, C], weight [N, kh kw C / groups], (bias [N] f32)?, (residual [sequences h' w',
/// N])? -> [sequences h' w', N]` with `y = act(conv(x) + bias + residual)`: other than a
/// [`super::Linear`]'s, the activation comes last. Pixels outside the image are zeros. A row of the
/// weight has the window's pixels in order, each with its input channels side by side; nothing is
/// padded, so that blocks of a quantised weight span pixels where the channels are not a multiple
/// of 32. Group `g` of the outputs, `N / groups` rows, sees the `g`-th part of the channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv2d {
    /// Where it looks.
    pub window: Window,
    /// Divides the channels of the input and of the result.
    pub groups: usize,
    /// Whether a bias operand follows the weight.
    pub bias: bool,
    /// Applied to the sum.
    pub activation: Activation,
    /// Whether a residual operand comes last.
    pub residual: bool,
}

/// A convolution of each channel with a kernel of its own: `x [sequences h w, C], weight [kh kw, C]
/// f32, (bias [C])? -> [sequences h' w', C]`, `y = act(sum_i x[i] weight[i] + bias)` over the
/// window's pixels. Pixels outside the image are zeros.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DepthwiseConv2d {
    /// Where it looks.
    pub window: Window,
    /// Whether a bias operand follows the weight.
    pub bias: bool,
    /// Applied to the sum.
    pub activation: Activation,
}

/// The largest value of each channel in the window: `x [sequences h w, C] -> [sequences h' w', C]`.
/// Pixels outside the image are left out; a window of none of the image gives `-inf`. NaN is larger
/// than all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool2d {
    /// Where it looks.
    pub window: Window,
}
