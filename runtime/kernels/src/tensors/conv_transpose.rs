//! Transposed convolutions: a linear makes of each pixel what it gives to those around it, and each
//! pixel of the result adds up what it is given, in the order of the window.

use super::{TensorScratch, grow, image};
use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::linear::{LinearArgs, LinearScratch, linear};
use crate::packed::Packed;
use crate::pool::Pool;
use crate::table::Kernels;
use limbeck_plan::{Activation, ConvTranspose2d};

/// The operands of [`conv_transpose2d`]; see [`limbeck_plan::ConvTranspose2d`] for the formula.
#[derive(Debug)]
pub struct ConvTranspose2dArgs<'a> {
    /// What the op's step says.
    pub params: &'a ConvTranspose2d,
    /// `[batch, h, w, C]`.
    pub x: &'a [f32],
    /// The sizes of `x`.
    pub shape: &'a [usize],
    /// `[kh kw N, C]` in panels or quads.
    pub w: Packed<'a>,
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// `[batch, h', w', N]`.
    pub out: &'a mut [f32],
    /// The sizes of `out`.
    pub out_shape: &'a [usize],
}

/// The sizes of a call.
#[derive(Clone, Copy)]
pub(crate) struct Sides {
    pub image: [usize; 2],
    pub out: [usize; 2],
    pub outputs: usize,
}

impl ConvTranspose2dArgs<'_> {
    pub(crate) fn check(&self) -> Result<Sides, Error> {
        let p = self.params;
        let ([batch, height, width, channels], [out_batch, down, across, outputs]) =
            (image(self.shape)?, image(self.out_shape)?);
        let taps = p.kernel[0] * p.kernel[1];
        let fits = self.w.cols() == channels
            && self.w.rows() == taps.saturating_mul(outputs)
            && batch == out_batch
            && p.stride.iter().chain(&p.dilation).all(|n| *n > 0);
        if !fits {
            let message = format!("{:?} does not go to {:?}", self.shape, self.out_shape);
            return Err(Error::shape(message));
        }
        let sizes = |shape: &[usize]| super::count(shape).ok_or_else(|| Error::shape("too large"));
        check_len("the images", self.x.len(), sizes(self.shape)?)?;
        check_len("the result", self.out.len(), sizes(self.out_shape)?)?;
        self.bias.map_or(Ok(()), |bias| check_len("the bias", bias.len(), outputs))?;
        Ok(Sides { image: [height, width], out: [down, across], outputs })
    }
}

/// Which of `n` pixels gives to pixel `at` of the result by its `tap`, along an axis.
pub(crate) fn giver(
    p: &ConvTranspose2d,
    axis: usize,
    at: usize,
    tap: usize,
    n: usize,
) -> Option<usize> {
    let from = (at + p.padding[axis]).checked_sub(tap * p.dilation[axis])?;
    let pixel = from / p.stride[axis];
    (from.is_multiple_of(p.stride[axis]) && pixel < n).then_some(pixel)
}

/// Computes `out`; see [`ConvTranspose2dArgs`].
///
/// # Errors
/// `Shape` when the operands do not fit each other, `Format` for a weight in another layout.
pub fn conv_transpose2d(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut LinearScratch,
    tensors: &mut TensorScratch,
    args: ConvTranspose2dArgs<'_>,
) -> Result<(), Error> {
    let Sides { image, out: [down, across], outputs } = args.check()?;
    let ConvTranspose2dArgs { params, x, w, bias, out, .. } = args;
    let pixels = x.len() / w.cols();
    let mut given = std::mem::take(&mut tensors.values);
    grow(&mut given, pixels.saturating_mul(w.rows()))?;
    let args = LinearArgs {
        x,
        norm: None,
        factors: None,
        w,
        bias: None,
        activation: Activation::Identity,
        gated: false,
        residual: None,
        precise: false,
        out: &mut given[..pixels * w.rows()],
    };
    linear(kernels, pool, scratch, args)?;
    let row = w.rows();
    SharedRows::new(out).for_each_chunk(pool, outputs, |first, out| {
        for (pixel, out) in out.chunks_exact_mut(outputs).enumerate() {
            let pixel = first / outputs + pixel;
            let (line, column) = (pixel / across % down, pixel % across);
            let image_at = pixel / across / down;
            match bias {
                Some(bias) => out.copy_from_slice(bias),
                None => out.fill(0.0),
            }
            for i in 0..params.kernel[0] {
                let Some(y) = giver(params, 0, line, i, image[0]) else { continue };
                for j in 0..params.kernel[1] {
                    let Some(at) = giver(params, 1, column, j, image[1]) else { continue };
                    let from = (image_at * image[0] + y) * image[1] + at;
                    let tap = (i * params.kernel[1] + j) * outputs;
                    let given = &given[from * row + tap..][..outputs];
                    out.iter_mut().zip(given).for_each(|(out, v)| *out += v);
                }
            }
        }
    });
    tensors.values = given;
    Ok(())
}
