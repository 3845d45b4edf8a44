//! Activations quantised for the integer kernels: per row and block of the weight's columns,
//! `x = scale * q` with `q` in -127..=127.

use super::task::Input;
use crate::simd::{LANES, Simd};
use crate::vec_bytes;
use limbeck_plan::{QUANT_BLOCK, Values, WIDE_BLOCK};
use std::marker::PhantomData;

/// What the kernels need of one row's block besides its values. There is one for each 32 values, which
/// are twice as many bytes, so that both are found by the same offset; a wide block uses its first one.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub(crate) struct ActBlock {
    pub scale: f32,
    /// `scale` times the sum of the values.
    pub scaled_sum: f32,
    /// -8 times the sum of the values: what 4-bit weights that are stored unsigned add too much.
    pub minus_8_sums: i32,
    /// -128 times that sum: the same for 8-bit weights made unsigned.
    pub minus_128_sums: i32,
}

impl ActBlock {
    fn new(scale: f32, sum: i32) -> Self {
        ActBlock {
            scale,
            scaled_sum: scale * sum as f32,
            minus_8_sums: -8 * sum,
            minus_128_sums: -128 * sum,
        }
    }
}

/// Quantised rows: values `[rows, blocks * 32]`, padded with zeros, and `[rows, blocks]` scales and
/// sums.
#[derive(Debug, Default)]
pub(crate) struct QuantActs {
    q: Vec<i8>,
    blocks: Vec<ActBlock>,
}

impl QuantActs {
    pub(crate) fn reserve(&mut self, rows: usize, cols: usize) {
        let blocks = rows.saturating_mul(cols.div_ceil(QUANT_BLOCK));
        if self.blocks.len() < blocks {
            self.blocks.resize(blocks, ActBlock::default());
            self.q.resize(blocks * QUANT_BLOCK, 0);
        }
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        vec_bytes(&self.q) + vec_bytes(&self.blocks)
    }

    /// A view for writing rows from several threads. There is room for them.
    pub(crate) fn rows(&mut self, rows: usize, cols: usize) -> ActRows<'_> {
        let per_row = cols.div_ceil(QUANT_BLOCK);
        assert!(self.blocks.len() >= rows * per_row);
        ActRows {
            q: self.q.as_mut_ptr(),
            blocks: self.blocks.as_mut_ptr(),
            rows,
            per_row,
            borrow: PhantomData,
        }
    }

    pub(crate) fn input(&self, rows: usize, cols: usize) -> Input<'_> {
        let blocks = rows * cols.div_ceil(QUANT_BLOCK);
        Input::Quantised { q: &self.q[..blocks * QUANT_BLOCK], blocks: &self.blocks[..blocks] }
    }
}

/// See [`QuantActs::rows`].
pub(crate) struct ActRows<'a> {
    q: *mut i8,
    blocks: *mut ActBlock,
    rows: usize,
    per_row: usize,
    borrow: PhantomData<&'a mut QuantActs>,
}

// SAFETY: the pointers come from an exclusive borrow that lives as long as the value; `row`
// demands that each row is used by one thread at a time.
unsafe impl Sync for ActRows<'_> {}

impl ActRows<'_> {
    /// # Safety
    /// While the result lives, `row` is not asked for again.
    #[allow(clippy::mut_from_ref, reason = "the caller keeps rows apart, as the contract says")]
    pub(crate) unsafe fn row(&self, row: usize) -> (&mut [i8], &mut [ActBlock]) {
        assert!(row < self.rows);
        let at = row * self.per_row;
        // SAFETY: `rows` checked that the buffers hold all rows; rows do not overlap.
        unsafe {
            (
                std::slice::from_raw_parts_mut(
                    self.q.add(at * QUANT_BLOCK),
                    self.per_row * QUANT_BLOCK,
                ),
                std::slice::from_raw_parts_mut(self.blocks.add(at), self.per_row),
            )
        }
    }
}

/// Quantises one row in blocks of as many columns as the weight's values have. A block that holds NaN
/// or infinity gets the scale NaN, and one whose magnitudes are below about 1e-36 becomes zero.
#[inline(always)]
pub(crate) fn quantise_row<S: Simd>(
    s: S,
    x: &[f32],
    values: Values,
    q: &mut [i8],
    blocks: &mut [ActBlock],
) {
    match values {
        Values::Q8w => quantise_blocks::<S, { WIDE_BLOCK / QUANT_BLOCK }>(s, x, q, blocks),
        _ => quantise_blocks::<S, 1>(s, x, q, blocks),
    }
}

/// [`quantise_row`] in blocks of `PARTS` times 32 columns.
#[inline(always)]
fn quantise_blocks<S: Simd, const PARTS: usize>(
    s: S,
    x: &[f32],
    q: &mut [i8],
    blocks: &mut [ActBlock],
) {
    let (quants, _) = q.as_chunks_mut::<QUANT_BLOCK>();
    let (quants, _) = quants.as_chunks_mut::<PARTS>();
    let (blocks, _) = blocks.as_chunks_mut::<PARTS>();
    for (b, (parts, block)) in quants.iter_mut().zip(blocks).enumerate() {
        let mut v = [[s.splat(0.0); 4]; PARTS];
        for (p, v) in v.iter_mut().enumerate() {
            *v = load(s, x, (b * PARTS + p) * QUANT_BLOCK);
        }
        let largest = f32::from_bits(s.max_abs_bits(&v));
        let inverse = 127.0 / largest;
        if !largest.is_finite() || !inverse.is_finite() {
            parts.as_flattened_mut().fill(0);
            let scale = if largest.is_finite() { 0.0 } else { f32::NAN };
            block[0] = ActBlock::new(scale, 0);
            continue;
        }
        let inverse = s.splat(inverse);
        for v in v.as_flattened_mut() {
            *v = s.mul(*v, inverse);
        }
        // SAFETY: |v * inverse| <= 127 but for rounding, which the nearest integer swallows.
        let sum = unsafe { s.store_blocks(parts, &v) };
        block[0] = ActBlock::new(largest / 127.0, sum);
    }
}

/// The 32 values from `at` on, zeros behind the last.
#[inline(always)]
fn load<S: Simd>(s: S, x: &[f32], at: usize) -> [S::V; 4] {
    [
        s.load_some(x, at),
        s.load_some(x, at + LANES),
        s.load_some(x, at + 2 * LANES),
        s.load_some(x, at + 3 * LANES),
    ]
}
