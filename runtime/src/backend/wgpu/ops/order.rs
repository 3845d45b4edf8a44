//! Rows in the order of their choices, so that tiles of many rows need little more than each of their rows.

use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::{FEW_ROWS, Shader};
use crate::error::Result;

/// Rows of the call that a group of a linear has where there are many.
pub(super) const TILE: usize = 32;

/// Tiles that so many rows fill at most where those of each kind begin with one.
pub(super) fn tiles(rows: usize, kinds: usize) -> usize {
    rows / TILE + kinds.min(rows)
}

/// Words of the order of rows that follow choices of so many kinds.
pub(in crate::backend::wgpu) fn ordered_words(rows: usize, kinds: usize) -> usize {
    tiles(rows, kinds).saturating_mul(TILE)
}

/// Puts rows that are many in the order of their choices, of so many kinds, which lie in the buffer from `first` on.
/// Of experts a tile has one.
pub(super) fn sort(
    rec: &mut Recorder<'_>,
    (keys, first, stride): (&Slice, usize, usize),
    (rows, kinds): (usize, usize),
    experts: bool,
) -> Result<()> {
    if rows <= FEW_ROWS {
        return Ok(());
    }
    let pad = if experts { TILE } else { 1 };
    let words = [rows, kinds, pad, first, stride, ordered_words(rows, kinds)];
    let ordered = Slice::whole(rec.buffers.ordered);
    rec.dispatch(Shader::Sort, &words.map(|word| word as u32), &[keys, &ordered], 1)
}
