//! The shape rule of patches.

use super::rows_of;
use crate::ops::Patches;
use crate::{DType, Dim, Fact, Manifest, Symbol};

/// Largest side of an image and most channels.
pub(super) const MAX_SIDE: usize = 1 << 14;
/// Most rows of zeros: class tokens and registers.
const MAX_LEAD: usize = 64;

impl Patches {
    /// Values of one image; `None` for sizes out of range.
    pub fn image(&self) -> Option<usize> {
        let in_range = |n: usize| (1..=MAX_SIDE).contains(&n);
        let sides = [self.channels, self.height, self.width, self.patch];
        sides.into_iter().all(in_range).then(|| self.channels * self.height * self.width)
    }

    /// Rows that one image gives; `None` for sizes out of range or a patch that does not divide
    /// the image.
    pub fn rows(&self) -> Option<usize> {
        self.image().filter(|_| self.lead <= MAX_LEAD)?;
        let whole = |n: usize| n.is_multiple_of(self.patch).then_some(n / self.patch);
        let rows = self.lead.checked_add(whole(self.height)? * whole(self.width)?)?;
        (rows <= Manifest::MAX_CONTEXT).then_some(rows)
    }

    /// Values of one patch; `None` for sizes out of range.
    pub fn cols(&self) -> Option<usize> {
        self.image()?;
        Some(self.channels * self.patch * self.patch)
    }
}

pub(super) fn patches(p: &Patches, inputs: &[Fact]) -> Result<Fact, String> {
    let (Some(image), Some(_), Some(cols)) = (p.image(), p.rows(), p.cols()) else {
        let Patches { channels, height, width, patch, lead } = p;
        return Err(format!(
            "{channels} x {height} x {width} in patches of {patch} after {lead} rows is no image \
             of whole patches"
        ));
    };
    let want = Fact::new(DType::F32, vec![Dim::symbol(Symbol::SEQUENCES), Dim::from(image)]);
    if inputs[0] != want {
        return Err(format!("input {} is not {want}", inputs[0]));
    }
    Ok(rows_of(Symbol::TOKENS, cols))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    fn infer(p: &Patches, cols: usize) -> Result<Vec<Fact>, String> {
        let shape = vec![Dim::symbol(Symbol::SEQUENCES), Dim::from(cols)];
        Op::Patches(p.clone()).infer(&[Fact::new(DType::F32, shape)])
    }

    #[test]
    fn images_are_whole_patches_of_sizes_in_range() {
        let good = Patches { channels: 3, height: 24, width: 16, patch: 8, lead: 1 };
        assert_eq!(infer(&good, 3 * 24 * 16).unwrap(), [rows_of(Symbol::TOKENS, 192)]);
        assert_eq!(good.rows(), Some(7));
        assert!(infer(&good, 24 * 16).is_err());
        for bad in [
            Patches { patch: 0, ..good.clone() },
            Patches { patch: 7, ..good.clone() },
            Patches { channels: 0, ..good.clone() },
            Patches { height: usize::MAX, ..good.clone() },
            Patches { lead: usize::MAX, ..good.clone() },
            Patches { height: 0, ..good.clone() },
        ] {
            assert!(infer(&bad, 3 * 24 * 16).is_err(), "{bad:?}");
        }
    }
}
