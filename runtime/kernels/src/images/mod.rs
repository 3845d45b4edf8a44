//! Ops on images, which are rows of pixels, left to right and top to bottom, each with its channels
//! side by side.

mod conv;
mod depthwise;
mod gather;
mod max_pool;
mod pixels;
mod winograd;

pub use conv::{Conv2dArgs, ConvScratch, conv2d};
pub use depthwise::{DepthwiseConv2dArgs, depthwise_conv2d};
pub(crate) use depthwise::{DepthwiseTask, depthwise_task};
pub use max_pool::max_pool2d;
pub use pixels::pixels;
pub(crate) use winograd::{WinogradTask, winograd_task};

use crate::error::{Error, check_len};
use limbeck_plan::Window;

/// Images that an op reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Images {
    /// How many.
    pub count: usize,
    /// Channels of those that it reads.
    pub channels: usize,
    /// Height and width of those that it writes.
    pub out: [usize; 2],
}

impl Images {
    /// The images of `values` values that a window moves over.
    pub fn of(window: &Window, channels: usize, values: usize) -> Result<Images, Error> {
        let out = window.out().filter(|_| channels > 0);
        let out = out.ok_or_else(|| {
            let Window { image, kernel, padding: [top, left, bottom, right], .. } = window;
            Error::range(format!(
                "a window of {} x {} does not move over images of {} x {} with {channels} channels, padded by \
                 {top}, {left}, {bottom} and {right}",
                kernel[0], kernel[1], image[0], image[1]
            ))
        })?;
        let [height, width] = window.image;
        let image = (height * width).checked_mul(channels);
        let count = image.map_or(0, |image| values / image);
        check_len("the images", values, count * image.unwrap_or(0))?;
        Ok(Images { count, channels, out })
    }

    /// Pixels that it writes.
    pub fn rows(&self) -> usize {
        self.count * self.out[0] * self.out[1]
    }
}

/// The pixels of an axis that a window sees from place `at`: the offset of its first pixel, and which
/// of its pixels lie within the axis.
pub(crate) fn seen(window: &Window, axis: usize, at: usize) -> (isize, std::ops::Range<usize>) {
    let (kernel, dilation) = (window.kernel[axis], window.dilation[axis]);
    let first = (at * window.stride[axis]) as isize - window.padding[axis] as isize;
    let before = (-first).max(0) as usize;
    let after = (window.image[axis] as isize - first).max(0) as usize;
    let start = before.div_ceil(dilation).min(kernel);
    (first, start..after.div_ceil(dilation).clamp(start, kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_beyond_an_image_is_told_in_sizes() {
        let window = Window {
            image: [2, 0],
            kernel: [3, 5],
            stride: [1, 1],
            padding: [0, 1, 0, 1],
            dilation: [1, 1],
        };
        let error = Images::of(&window, 4, 0).unwrap_err().to_string();
        let wanted = "a window of 3 x 5 does not move over images of 2 x 0 with 4 channels, padded by 0, 1, 0 and 1";
        assert!(error.contains(wanted), "{error}");
    }
}
