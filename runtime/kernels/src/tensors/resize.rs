//! Images in other sizes.

use super::{TensorArg, TensorOut, check_shape, image};
use crate::elementwise::SharedRows;
use crate::error::Error;
use crate::pool::Pool;
use limbeck_plan::{Coordinates, Interpolation, Resize};

/// Two pixels of an axis and the share of the second.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The pixel before, or the only one.
    pub first: usize,
    /// The pixel after.
    pub second: usize,
    /// In 0..1.
    pub share: f32,
}

/// Where pixel `at` of `to` lies among `from`, both at least 1 (ONNX, `Resize`).
pub fn place(p: &Resize, axis: usize, at: usize, from: usize, to: usize) -> Place {
    let scale = p.scales.map_or(to as f32 / from as f32, |scales| scales[axis]);
    let at = at as f32;
    let x = match p.coordinates {
        Coordinates::Asymmetric => at / scale,
        Coordinates::PytorchHalfPixel if to == 1 => 0.0,
        Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => (at + 0.5) / scale - 0.5,
        Coordinates::AlignCorners if to == 1 => 0.0,
        Coordinates::AlignCorners => at * (from - 1) as f32 / (to - 1) as f32,
    };
    let held = |x: f32| x.clamp(0.0, (from - 1) as f32) as usize;
    let one = |x: f32| Place { first: held(x), second: held(x), share: 0.0 };
    match p.interpolation {
        Interpolation::NearestFloor => one(x.floor()),
        Interpolation::NearestCeil => one(x.ceil()),
        Interpolation::NearestFloorHalf => one((x - 0.5).ceil()),
        Interpolation::NearestCeilHalf => one((x + 0.5).floor()),
        Interpolation::Linear => {
            let x = x.clamp(0.0, (from - 1) as f32);
            let first = held(x.floor());
            Place { first, second: (first + 1).min(from - 1), share: x - x.floor() }
        }
    }
}

pub(super) fn run(
    pool: &Pool,
    p: &Resize,
    x: TensorArg<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    let [batch, height, width, channels] = image(x.shape)?;
    let [_, down, across, _] = image(out.shape)?;
    check_shape("the resized images", out.shape, &[batch, down, across, channels])?;
    let (x, out) = (x.floats()?, out.floats()?);
    if out.is_empty() {
        return Ok(());
    }
    if x.is_empty() {
        return Err(Error::shape("an image without pixels cannot be resized"));
    }
    let lines: Vec<Place> = (0..down).map(|at| place(p, 0, at, height, down)).collect();
    let columns: Vec<Place> = (0..across).map(|at| place(p, 1, at, width, across)).collect();
    let linear = p.interpolation == Interpolation::Linear;
    SharedRows::new(out).for_each_chunk(pool, channels, |first, out| {
        for (row, out) in out.chunks_exact_mut(channels).enumerate() {
            let row = first / channels + row;
            let (line, image) = (lines[row / across % down], row / across / down);
            let column = columns[row % across];
            let pixel = |y: usize, at: usize| {
                &x[((image * height + y) * width + at) * channels..][..channels]
            };
            if !linear {
                out.copy_from_slice(pixel(line.first, column.first));
                continue;
            }
            let above =
                pixel(line.first, column.first).iter().zip(pixel(line.first, column.second));
            let below =
                pixel(line.second, column.first).iter().zip(pixel(line.second, column.second));
            for (out, ((a, b), (c, d))) in out.iter_mut().zip(above.zip(below)) {
                let above = a + (b - a) * column.share;
                let below = c + (d - c) * column.share;
                *out = above + (below - above) * line.share;
            }
        }
    });
    Ok(())
}
