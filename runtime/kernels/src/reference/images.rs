//! Convolutions.

use super::linear::round_to_8_bits;
use super::{Products, math};
use crate::error::Error;
use crate::images::{Conv2dArgs, DepthwiseConv2dArgs};
use limbeck_plan::Window;

/// Calls `body(tap, pixel)` for each pixel of the window that pixel `row` of the result sees within
/// its image: which of the window's it is, and which of `x`.
fn each_tap(window: &Window, out: [usize; 2], row: usize, mut body: impl FnMut(usize, usize)) {
    let ([height, width], [kh, kw]) = (window.image, window.kernel);
    let (image, y, x) = (row / (out[0] * out[1]), row / out[1] % out[0], row % out[1]);
    for tap in 0..kh * kw {
        let (i, j) = (tap / kw, tap % kw);
        let y = (y * window.stride[0] + i * window.dilation[0]).checked_sub(window.padding[0]);
        let x = (x * window.stride[1] + j * window.dilation[1]).checked_sub(window.padding[1]);
        if let (Some(y), Some(x)) = (y.filter(|y| *y < height), x.filter(|x| *x < width)) {
            body(tap, (image * height + y) * width + x);
        }
    }
}

/// See [`crate::conv2d`].
///
/// # Errors
/// As there.
pub fn conv2d(args: Conv2dArgs<'_>, products: Products) -> Result<(), Error> {
    let images = args.check()?;
    let Conv2dArgs { params, x, w, bias, residual, out } = args;
    let (n, k, channels) = (w.rows(), w.cols(), images.channels);
    let (each, outputs) = (channels / params.groups, n / params.groups);
    let quantised = products == Products::Quantised && w.format().values.is_quantised();
    let mut weight = vec![0.0; n * k];
    for (row, weight) in weight.chunks_exact_mut(k).enumerate() {
        w.unpack_row(row, weight)?;
    }
    for row in 0..images.rows() {
        for group in 0..params.groups {
            let mut seen = vec![0.0; k];
            each_tap(&params.window, images.out, row, |tap, pixel| {
                let x = &x[pixel * channels + group * each..][..each];
                seen[tap * each..][..each].copy_from_slice(x);
            });
            if quantised {
                round_to_8_bits(w.format().values, &mut seen);
            }
            for j in group * outputs..(group + 1) * outputs {
                let weight = &weight[j * k..][..k];
                let mut sum = 0.0;
                for (x, w) in seen.iter().zip(weight) {
                    sum += f64::from(*x) * f64::from(*w);
                }
                let at = row * n + j;
                sum += bias.map_or(0.0, |b| f64::from(b[j]));
                sum += residual.map_or(0.0, |r| f64::from(r[at]));
                out[at] = math::apply(params.activation, sum) as f32;
            }
        }
    }
    Ok(())
}

/// See [`crate::depthwise_conv2d`].
///
/// # Errors
/// As there.
pub fn depthwise_conv2d(args: DepthwiseConv2dArgs<'_>) -> Result<(), Error> {
    let images = args.check()?;
    let DepthwiseConv2dArgs { params, x, channels, w, bias, out } = args;
    for (row, out) in out.chunks_exact_mut(channels).enumerate() {
        for (channel, out) in out.iter_mut().enumerate() {
            let mut sum = bias.map_or(0.0, |b| f64::from(b[channel]));
            each_tap(&params.window, images.out, row, |tap, pixel| {
                let x = f64::from(x[pixel * channels + channel]);
                sum += x * f64::from(w[tap * channels + channel]);
            });
            *out = math::apply(params.activation, sum) as f32;
        }
    }
    Ok(())
}
