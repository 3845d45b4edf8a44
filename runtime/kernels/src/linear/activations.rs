//! Activations quantised for the integer kernels: per row and block of the weight's columns,
//! `x = scale * q` with `q` in -127..=127.

use super::task::Input;
use crate::simd::{Lanes, Simd, WIDE};
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

/// Quantises one row, times the factors where there are any, in blocks of as many columns as the
/// weight's values have. A block that holds NaN or infinity gets the scale NaN, and one whose magnitudes
/// are below about 1e-36 becomes zero.
#[inline(always)]
pub(crate) fn quantise_row<S: Simd>(
    s: S,
    x: &[f32],
    factors: Option<&[f32]>,
    values: Values,
    q: &mut [i8],
    blocks: &mut [ActBlock],
) {
    match values {
        Values::Q8w => {
            quantise_blocks::<S, { WIDE_BLOCK / QUANT_BLOCK }>(s, x, factors, q, blocks);
        }
        _ => quantise_blocks::<S, 1>(s, x, factors, q, blocks),
    }
}

/// [`quantise_row`] in blocks of `PARTS` times 32 columns.
#[inline(always)]
fn quantise_blocks<S: Simd, const PARTS: usize>(
    s: S,
    x: &[f32],
    factors: Option<&[f32]>,
    q: &mut [i8],
    blocks: &mut [ActBlock],
) {
    let (quants, _) = q.as_chunks_mut::<QUANT_BLOCK>();
    let (quants, _) = quants.as_chunks_mut::<PARTS>();
    let (blocks, _) = blocks.as_chunks_mut::<PARTS>();
    let columns = PARTS * QUANT_BLOCK;
    // What the last block has, and zeros behind it.
    let mut last = [[[0.0; QUANT_BLOCK]; PARTS]; 2];
    for (b, (q, block)) in quants.iter_mut().zip(blocks).enumerate() {
        let of_block = b * columns..(b + 1) * columns;
        let (x, factors) = if of_block.end <= x.len() {
            (&x[of_block.clone()], factors.map(|factors| &factors[of_block]))
        } else {
            for (last, from) in last.iter_mut().zip([Some(x), factors]) {
                let rest = from.and_then(|from| from.get(of_block.start..)).unwrap_or(&[]);
                last.as_flattened_mut()[..rest.len()].copy_from_slice(rest);
            }
            (last[0].as_flattened(), factors.map(|_| last[1].as_flattened()))
        };
        block[0] = quantise_block(s, x, factors, q);
    }
}

/// One block of as many values as `q` has.
#[inline(always)]
fn quantise_block<S: Simd, const PARTS: usize>(
    s: S,
    x: &[f32],
    factors: Option<&[f32]>,
    q: &mut [[i8; QUANT_BLOCK]; PARTS],
) -> ActBlock {
    let wide = s.wide();
    let mut v = [[wide.splat(0.0); 2]; PARTS];
    for (v, x) in v.as_flattened_mut().iter_mut().zip(x.chunks_exact(WIDE)) {
        // SAFETY: a chunk holds 16 values.
        *v = unsafe { wide.load(x.as_ptr()) };
    }
    if let Some(factors) = factors {
        for (v, factors) in v.as_flattened_mut().iter_mut().zip(factors.chunks_exact(WIDE)) {
            // SAFETY: as above.
            *v = wide.mul(*v, unsafe { wide.load(factors.as_ptr()) });
        }
    }
    let largest = f32::from_bits(s.max_abs_bits(&v));
    let inverse = 127.0 / largest;
    if !largest.is_finite() || !inverse.is_finite() {
        q.as_flattened_mut().fill(0);
        let scale = if largest.is_finite() { 0.0 } else { f32::NAN };
        return ActBlock::new(scale, 0);
    }
    for v in v.as_flattened_mut() {
        *v = wide.mul(*v, wide.splat(inverse));
    }
    // |v * inverse| <= 127 but for rounding, which the nearest integer swallows.
    ActBlock::new(largest / 127.0, s.store_blocks(q, &v))
}
