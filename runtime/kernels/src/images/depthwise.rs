//! Convolutions of each channel with a kernel of its own: several channels at once, no products
//! between them.

use super::{Images, seen};
use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::math;
use crate::pool::Pool;
use crate::simd::{LANES, Simd};
use crate::table::Kernels;
use limbeck_plan::DepthwiseConv2d;

/// The operands of [`depthwise_conv2d`]; see [`limbeck_plan::DepthwiseConv2d`] for the formula.
#[derive(Debug)]
pub struct DepthwiseConv2dArgs<'a> {
    /// What the op's step says.
    pub params: &'a DepthwiseConv2d,
    /// `[images h w, C]`.
    pub x: &'a [f32],
    /// Channels of an image.
    pub channels: usize,
    /// `[kh kw, C]`.
    pub w: &'a [f32],
    /// `[C]`.
    pub bias: Option<&'a [f32]>,
    /// `[images h' w', C]`.
    pub out: &'a mut [f32],
}

impl DepthwiseConv2dArgs<'_> {
    pub(crate) fn check(&self) -> Result<Images, Error> {
        let (window, channels) = (&self.params.window, self.channels);
        let images = Images::of(window, channels, self.x.len())?;
        check_len("the kernels", self.w.len(), window.taps().saturating_mul(channels))?;
        self.bias.map_or(Ok(()), |bias| check_len("the bias", bias.len(), channels))?;
        let values = images.rows().saturating_mul(channels);
        check_len("the convolution's result", self.out.len(), values)?;
        Ok(images)
    }
}

/// Some pixels of the result, whose operands are checked.
pub(crate) struct DepthwiseTask<'a> {
    params: &'a DepthwiseConv2d,
    images: Images,
    x: &'a [f32],
    w: &'a [f32],
    bias: &'a [f32],
    /// The first pixel.
    first: usize,
    /// Whole pixels.
    out: &'a mut [f32],
}

/// Computes `out`; see [`DepthwiseConv2dArgs`].
///
/// # Errors
/// `Shape` when the operands do not fit each other, `Range` for a window that does not move over the
/// image.
pub fn depthwise_conv2d(
    kernels: &Kernels,
    pool: &Pool,
    args: DepthwiseConv2dArgs<'_>,
) -> Result<(), Error> {
    let images = args.check()?;
    let DepthwiseConv2dArgs { params, x, channels, w, bias, out } = args;
    let bias = bias.unwrap_or_default();
    SharedRows::new(out).for_each_chunk(pool, channels, |first, out| {
        let first = first / channels;
        kernels.depthwise(&mut DepthwiseTask { params, images, x, w, bias, first, out });
    });
    Ok(())
}

/// Runs a task. A sum goes over the window's pixels within the image, in order.
#[inline(always)]
pub(crate) fn depthwise_task<S: Simd>(s: S, task: &mut DepthwiseTask<'_>) {
    let (window, images) = (&task.params.window, task.images);
    let ([height, width], channels) = (window.image, images.channels);
    for (row, out) in task.out.chunks_exact_mut(channels).enumerate() {
        let row = task.first + row;
        let (place, across) = (row / images.out[1], row % images.out[1]);
        let (image, down) = (place / images.out[0], place % images.out[0]);
        let (top, lines) = seen(window, 0, down);
        let (left, columns) = seen(window, 1, across);
        for at in (0..channels).step_by(LANES) {
            let mut sum = s.splat(0.0);
            for i in lines.clone() {
                let y = (top + (i * window.dilation[0]) as isize) as usize;
                for j in columns.clone() {
                    let column = (left + (j * window.dilation[1]) as isize) as usize;
                    let pixel = ((image * height + y) * width + column) * channels;
                    let x = s.load_some(&task.x[pixel..][..channels], at);
                    let tap = (i * window.kernel[1] + j) * channels;
                    let w = s.load_some(&task.w[tap..][..channels], at);
                    sum = s.fma(x, w, sum);
                }
            }
            let sum = s.add(sum, s.load_some(task.bias, at));
            s.store_some(out, at, math::apply(s, task.params.activation, sum));
        }
    }
}
