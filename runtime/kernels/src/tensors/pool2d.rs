//! The mean in a window.

use super::{TensorArg, TensorOut, check_shape, image};
use crate::elementwise::SharedRows;
use crate::error::Error;
use crate::images::{Images, seen};
use crate::pool::Pool;
use limbeck_plan::AveragePool2d;

pub(super) fn run(
    pool: &Pool,
    p: &AveragePool2d,
    x: TensorArg<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    let [batch, height, width, channels] = image(x.shape)?;
    let window = p.window.over([height, width]);
    let x = x.floats()?;
    if x.is_empty() && batch > 0 {
        return Err(Error::shape("there is no image"));
    }
    let images = Images::of(&window, channels, x.len())?;
    let [down, across] = images.out;
    check_shape("the means", out.shape, &[batch, down, across, channels])?;
    SharedRows::new(out.floats()?).for_each_chunk(pool, channels, |first, out| {
        for (row, out) in out.chunks_exact_mut(channels).enumerate() {
            let row = first / channels + row;
            let (place, at) = (row / across, row % across);
            let (image, line) = (place / down, place % down);
            let (top, lines) = seen(&window, 0, line);
            let (left, columns) = seen(&window, 1, at);
            let inside = lines.len() * columns.len();
            out.fill(0.0);
            for i in lines {
                let y = (top + (i * window.dilation[0]) as isize) as usize;
                for j in columns.clone() {
                    let at = (left + (j * window.dilation[1]) as isize) as usize;
                    let pixel = ((image * height + y) * width + at) * channels;
                    out.iter_mut().zip(&x[pixel..][..channels]).for_each(|(o, x)| *o += x);
                }
            }
            let count = if p.count_padding { window.taps() } else { inside } as f32;
            out.iter_mut().for_each(|o| *o /= count);
        }
    });
    Ok(())
}
