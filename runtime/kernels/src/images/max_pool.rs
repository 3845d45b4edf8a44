//! The largest value in a window.

use super::{Images, seen};
use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::pool::Pool;
use limbeck_plan::MaxPool2d;

/// Writes `out [images h' w', channels]`, the largest values of `x [images h w, channels]` in each
/// window; see [`limbeck_plan::MaxPool2d`]. It compares and computes nothing, so that it is its own
/// reference.
///
/// # Errors
/// `Shape` when the operands do not fit each other, `Range` for a window that does not move over the
/// image.
pub fn max_pool2d(
    pool: &Pool,
    params: &MaxPool2d,
    x: &[f32],
    channels: usize,
    out: &mut [f32],
) -> Result<(), Error> {
    let window = &params.window;
    let images = Images::of(window, channels, x.len())?;
    check_len("the largest values", out.len(), images.rows().saturating_mul(channels))?;
    let [height, width] = window.image;
    SharedRows::new(out).for_each_chunk(pool, channels, |first, out| {
        for (row, out) in out.chunks_exact_mut(channels).enumerate() {
            let row = first / channels + row;
            let (place, across) = (row / images.out[1], row % images.out[1]);
            let (image, down) = (place / images.out[0], place % images.out[0]);
            let (top, lines) = seen(window, 0, down);
            let (left, columns) = seen(window, 1, across);
            out.fill(f32::NEG_INFINITY);
            for i in lines {
                let y = (top + (i * window.dilation[0]) as isize) as usize;
                for j in columns.clone() {
                    let at = (left + (j * window.dilation[1]) as isize) as usize;
                    let pixel = ((image * height + y) * width + at) * channels;
                    for (out, x) in out.iter_mut().zip(&x[pixel..][..channels]) {
                        *out = if *x > *out || x.is_nan() { *x } else { *out };
                    }
                }
            }
        }
    });
    Ok(())
}
