//! Images as rows of patches.

use crate::error::{Error, check_len};
use limbeck_plan::Patches;

/// Writes each image of `pixels [images, channels height width]` as `lead` rows of zeros and a row
/// for each patch, left to right and top to bottom: `out [images rows, channels patch patch]`. It
/// moves values and computes nothing, so that it is its own reference.
///
/// # Errors
/// `Range` for sizes that do not divide or are out of range, `Shape` when the operands do not fit
/// each other.
pub fn patches(params: &Patches, pixels: &[f32], out: &mut [f32]) -> Result<(), Error> {
    let sizes = params.image().zip(params.rows()).zip(params.cols());
    let Some(((image, rows), cols)) = sizes else {
        return Err(Error::range(format!("{params:?} is no image of whole patches")));
    };
    let images = pixels.len() / image;
    check_len("the images", pixels.len(), images * image)?;
    check_len("the patches", out.len(), images.saturating_mul(rows * cols))?;
    let Patches { height, width, patch, lead, .. } = *params;
    let across = width / patch;
    for (pixels, out) in pixels.chunks_exact(image).zip(out.chunks_exact_mut(rows * cols)) {
        let (zeros, out) = out.split_at_mut(lead * cols);
        zeros.fill(0.0);
        for (at, row) in out.chunks_exact_mut(cols).enumerate() {
            let (top, left) = (at / across * patch, at % across * patch);
            for (line, out) in row.chunks_exact_mut(patch).enumerate() {
                let (channel, y) = (line / patch, top + line % patch);
                let start = (channel * height + y) * width + left;
                out.copy_from_slice(&pixels[start..start + patch]);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_patch_is_a_row_channel_by_channel() {
        let p = Patches { channels: 2, height: 4, width: 6, patch: 2, lead: 1 };
        let image = 2 * 4 * 6;
        let pixels: Vec<f32> = (0..2 * image).map(|v| v as f32 + 1.0).collect();
        let mut out = vec![-1.0; 2 * 7 * 8];
        patches(&p, &pixels, &mut out).unwrap();
        let row = |i: usize| &out[i * 8..][..8];
        assert_eq!(row(0), [0.0; 8]);
        assert_eq!(row(1), [1.0, 2.0, 7.0, 8.0, 25.0, 26.0, 31.0, 32.0]);
        assert_eq!(row(3)[..4], [5.0, 6.0, 11.0, 12.0]);
        assert_eq!(row(4)[..2], [13.0, 14.0]);
        assert_eq!(row(7), [0.0; 8]);
        assert_eq!(row(8)[0], 49.0);
        assert!(patches(&p, &pixels[1..], &mut out).is_err());
        assert!(patches(&p, &pixels, &mut out[8..]).is_err());
        assert!(patches(&Patches { patch: 4, ..p }, &pixels, &mut out).is_err());
    }
}
