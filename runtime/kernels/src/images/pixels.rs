//! Images as rows of pixels.

use crate::error::{Error, check_len};
use limbeck_plan::Pixels;

/// Writes images `x [images, channels height width]` as rows of pixels, `out [images height width,
/// channels]`. It moves values and computes nothing, so that it is its own reference.
///
/// # Errors
/// `Range` for sizes out of range, `Shape` when the operands do not fit each other.
pub fn pixels(params: &Pixels, x: &[f32], out: &mut [f32]) -> Result<(), Error> {
    let Some(image) = params.image() else {
        return Err(Error::range(format!("{params:?} is no image")));
    };
    check_len("the images", x.len(), x.len() / image * image)?;
    check_len("the pixels", out.len(), x.len())?;
    let plane = params.height * params.width;
    for (x, out) in x.chunks_exact(image).zip(out.chunks_exact_mut(image)) {
        for (channel, x) in x.chunks_exact(plane).enumerate() {
            let out = out.iter_mut().skip(channel).step_by(params.channels);
            out.zip(x).for_each(|(out, x)| *out = *x);
        }
    }
    Ok(())
}
