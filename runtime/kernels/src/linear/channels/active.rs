//! The channels of rows that are not zero, as lists of where a tile has them.

use super::QUADS_AHEAD;
use crate::channels::ChannelTile;
use crate::linear::task::Input;
use crate::simd::Simd;
use crate::table::Kernels;
use crate::vec_bytes;
use limbeck_plan::{PackFormat, QUANT_BLOCK};

/// What a list has room for after its channels: quads that are asked for and never computed, and
/// what a kernel writes at once.
const SPARE: usize = 4 * QUADS_AHEAD + 16;

/// A row's block of 32 channels.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ActiveBlock {
    /// A bit for each channel that is not zero.
    pub mask: u32,
    /// Where the row's list has the first of them; a multiple of four but for floats.
    pub first: u32,
    /// Groups of four; none of floats.
    pub quads: u32,
}

/// Some rows' channels that are not zero.
#[derive(Debug, Default)]
pub(crate) struct ActiveRows {
    blocks: Vec<ActiveBlock>,
    /// One of these, as the input is.
    values: Vec<i8>,
    floats: Vec<f32>,
    /// For whole tiles, and for a last one of another width.
    at: [Vec<u32>; 2],
}

impl ActiveRows {
    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        let lists = vec_bytes(&self.blocks) + vec_bytes(&self.values) + vec_bytes(&self.floats);
        lists + self.at.each_ref().map(vec_bytes).iter().sum::<usize>()
    }
}

/// A view of [`ActiveRows`].
#[derive(Clone, Copy)]
pub(crate) struct Active<'a> {
    /// `[rows, blocks]`.
    pub blocks: &'a [ActiveBlock],
    per_row: usize,
    values: &'a [i8],
    floats: &'a [f32],
    /// For whole tiles, and for the last one.
    at: [&'a [u32]; 2],
}

/// A block's quads of channels in a row's list, whose last quad is filled up with the block's first
/// channel and zeros. [`QUADS_AHEAD`] quads more may be read from `at`.
#[derive(Clone, Copy)]
pub(crate) struct Quads {
    /// Of each channel how far it is from the tile's first.
    pub at: *const u32,
    pub values: *const i8,
    pub count: usize,
}

/// One row in which to find the channels that are not zero.
pub(crate) enum FindTask<'a> {
    Quants(FindQuants<'a>),
    Floats(FindFloats<'a>),
}

/// A row of floats, whose list has no gaps between blocks.
pub(crate) struct FindFloats<'a> {
    pub x: &'a [f32],
    /// As for [`FindQuants`].
    pub stride: u32,
    pub record: u32,
    /// As many as `x` has, the last one perhaps in part.
    pub blocks: &'a mut [ActiveBlock],
    /// At least 16 longer than `x`, both.
    pub at: &'a mut [u32],
    pub floats: &'a mut [f32],
}

impl FindFloats<'_> {
    /// As [`FindQuants::has_room`].
    #[cfg(target_arch = "x86_64")]
    pub fn has_room(&self) -> bool {
        let room = self.x.len() + 16;
        self.at.len() >= room && self.floats.len() >= room
    }

    /// Finds the channels of block `b`, whose list begins at `first`. Gives where the next one's begins.
    #[inline(always)]
    pub fn block(&mut self, b: usize, first: usize) -> usize {
        let (mut end, mut mask) = (first, 0);
        for (c, x) in self.x[b * QUANT_BLOCK..].iter().take(QUANT_BLOCK).enumerate() {
            let kept = *x != 0.0;
            (self.at[end], self.floats[end]) =
                (b as u32 * self.record + c as u32 * self.stride, *x);
            end += usize::from(kept);
            mask |= u32::from(kept) << c;
        }
        self.blocks[b] = ActiveBlock { mask, first: first as u32, quads: 0 };
        end
    }
}

/// A quantised row.
pub(crate) struct FindQuants<'a> {
    /// Whole blocks.
    pub q: &'a [i8],
    /// From one channel to the next, from one block to the next.
    pub stride: u32,
    pub record: u32,
    /// As many as `q` has.
    pub blocks: &'a mut [ActiveBlock],
    /// At least 16 longer than `q`, both.
    pub at: &'a mut [u32],
    pub values: &'a mut [i8],
}

impl FindQuants<'_> {
    /// Whether the lists have room for what a kernel writes at once.
    #[cfg(target_arch = "x86_64")]
    pub fn has_room(&self) -> bool {
        let room = self.q.len() + 16;
        self.at.len() >= room && self.values.len() >= room
    }

    /// Ends the list of block `b`, whose channels of `mask` are in `first..end`: fills up the last quad
    /// with the first channel and zeros. Gives where the next block's begins.
    #[inline(always)]
    pub fn close(&mut self, b: usize, mask: u32, first: usize, end: usize) -> usize {
        let at = self.at[first];
        self.at[end..end + 4].fill(at);
        self.values[end..end + 4].fill(0);
        let quads = mask.count_ones().div_ceil(4);
        self.blocks[b] = ActiveBlock { mask, first: first as u32, quads };
        first + 4 * quads as usize
    }
}

impl ActiveRows {
    /// Makes room for `rows` rows of `cols` values.
    pub fn reserve(&mut self, rows: usize, cols: usize) {
        let blocks = cols.div_ceil(QUANT_BLOCK);
        let entries = rows.saturating_mul(entries(blocks));
        if self.values.len() < entries {
            self.values.resize(entries, 0);
            self.floats.resize(entries, 0.0);
            self.at.iter_mut().for_each(|at| at.resize(entries, 0));
        }
        if self.blocks.len() < rows * blocks {
            self.blocks.resize(rows * blocks, ActiveBlock::default());
        }
    }

    /// Finds the channels of rows of `k` values, for a weight of `n` rows in this format. There is
    /// room, and a tile has less than 4 GiB.
    pub fn find(
        &mut self,
        kernels: &Kernels,
        format: PackFormat,
        n: usize,
        input: Input<'_>,
        k: usize,
    ) -> Active<'_> {
        let per_row = k.div_ceil(QUANT_BLOCK);
        let (entries, tiles) = (entries(per_row), n.div_ceil(format.tile_rows(n)));
        let shapes = [0, tiles - 1].map(|t| ChannelTile::of(format, n, k, t));
        let same = shapes[0].width == shapes[1].width;
        let rows = match input {
            Input::Quantised { blocks, .. } => blocks.len() / per_row,
            Input::Floats(x) => x.len() / k,
        };
        for (tile, at) in shapes.iter().zip(&mut self.at).take(if same { 1 } else { 2 }) {
            let (stride, record) = (tile.channel() as u32, tile.record as u32);
            for row in 0..rows {
                let blocks = &mut self.blocks[row * per_row..][..per_row];
                let at = &mut at[row * entries..][..entries];
                match input {
                    Input::Quantised { q, .. } => {
                        let q = &q[row * per_row * QUANT_BLOCK..][..per_row * QUANT_BLOCK];
                        let values = &mut self.values[row * entries..][..entries];
                        kernels.find_active(&mut FindTask::Quants(FindQuants {
                            q,
                            stride,
                            record,
                            blocks,
                            at,
                            values,
                        }));
                        go_on(blocks, at, tile.bytes);
                    }
                    Input::Floats(x) => {
                        let floats = &mut self.floats[row * entries..][..entries];
                        let x = &x[row * k..][..k];
                        let task = FindFloats { x, stride, record, blocks, at, floats };
                        kernels.find_active(&mut FindTask::Floats(task));
                    }
                }
            }
        }
        let at = [&self.at[0], &self.at[usize::from(!same)]].map(|at| &at[..rows * entries]);
        let blocks = &self.blocks[..rows * per_row];
        let (values, floats) = (&self.values[..rows * entries], &self.floats[..rows * entries]);
        Active { blocks, per_row, values, floats, at }
    }
}

/// The block of channels that the second of two halves begins with.
pub(crate) fn second_half(blocks: usize) -> usize {
    blocks.div_ceil(2)
}

/// After a row's last channel the next tile's first ones are asked for.
fn go_on(blocks: &[ActiveBlock], at: &mut [u32], tile: usize) {
    let end = blocks.last().map_or(0, |b| b.first + 4 * b.quads) as usize;
    for i in 0..4 * QUADS_AHEAD {
        at[end + i] = if end == 0 { 0 } else { at[i].wrapping_add(tile as u32) };
    }
}

/// Entries of a list of a row of some blocks.
fn entries(blocks: usize) -> usize {
    blocks * QUANT_BLOCK + SPARE
}

impl Active<'_> {
    /// The quads of a row's block.
    #[inline(always)]
    pub fn quads(&self, row: usize, block: usize, last: bool) -> Quads {
        let of = &self.blocks[row * self.per_row + block];
        let first = row * entries(self.per_row) + of.first as usize;
        let (at, values) = (&self.at[usize::from(last)][first..], &self.values[first..]);
        Quads { at: at.as_ptr(), values: values.as_ptr(), count: of.quads as usize }
    }

    /// Of a half of a row of floats: how far each channel is from the tile's first, and its value; and whether all
    /// channels of whole blocks are there.
    #[inline(always)]
    pub fn floats(&self, row: usize, last: bool, half: usize) -> (&[u32], &[f32], bool) {
        let blocks = &self.blocks[row * self.per_row..][..self.per_row];
        let second = second_half(self.per_row);
        let of_half = if half == 0 { 0..second } else { second..self.per_row };
        let end_of = |block: usize| match block.checked_sub(1) {
            Some(last) => (blocks[last].first + blocks[last].mask.count_ones()) as usize,
            None => 0,
        };
        let list = end_of(of_half.start)..end_of(of_half.end);
        let all = list.len() == of_half.len() * QUANT_BLOCK;
        let first = row * entries(self.per_row);
        let (at, x) = (&self.at[usize::from(last)][first..], &self.floats[first..]);
        (&at[list.clone()], &x[list], all)
    }
}

/// Finds the channels of a row that are not zero.
pub(crate) fn find_active<S: Simd>(_: S, task: &mut FindTask<'_>) {
    match task {
        FindTask::Quants(task) => find_quants(task),
        FindTask::Floats(task) => {
            (0..task.blocks.len()).fold(0, |first, b| task.block(b, first));
        }
    }
}

fn find_quants(task: &mut FindQuants<'_>) {
    let mut end = 0;
    for (b, q) in task.q.chunks_exact(QUANT_BLOCK).enumerate() {
        let (first, mut mask) = (end, 0);
        for (c, v) in q.iter().enumerate().filter(|(_, v)| **v != 0) {
            task.at[end] = b as u32 * task.record + c as u32 * task.stride;
            task.values[end] = *v;
            mask |= 1 << c;
            end += 1;
        }
        end = task.close(b, mask, first, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::linear::ActBlock;
    use limbeck_plan::{Layout, Values};

    fn channels(values: Values) -> PackFormat {
        PackFormat { values, layout: Layout::Channels }
    }

    #[test]
    fn lists_hold_the_channels_that_are_not_zero() {
        let mut q = [0i8; 96];
        (q[3], q[4], q[9], q[30], q[31]) = (5, -6, 7, -8, 9);
        q[64..].fill(-128);
        let acts = [ActBlock::default(); 3];
        let input = Input::Quantised { q: &q, blocks: &acts };
        for isa in Isa::ALL.iter().filter(|isa| isa.available()) {
            let Ok(kernels) = Kernels::with_isa(isa.name()) else { continue };
            let mut rows = ActiveRows::default();
            rows.reserve(1, 96);
            let active = rows.find(&kernels, channels(Values::Q8), 64, input, 96);
            let masks: Vec<_> = active.blocks.iter().map(|b| (b.first, b.quads, b.mask)).collect();
            assert_eq!(masks, [(0, 2, 0xc000_0218), (8, 0, 0), (8, 8, u32::MAX)], "{isa}");
            // Two tiles of 32 rows: a channel has 32 bytes, a block two more for each row's scale.
            let (stride, record) = (32, 32 * 32 + 64);
            let first = [3, 4, 9, 30, 31, 3, 3, 3].map(|c| c * stride);
            assert_eq!(active.at[0][..8], first, "{isa}");
            assert_eq!(active.values[..8], [5, -6, 7, -8, 9, 0, 0, 0], "{isa}");
            let third: Vec<u32> = (0..32).map(|c| 2 * record + c * stride).collect();
            assert_eq!(active.at[0][8..40], third, "{isa}");
            assert_eq!(active.values[8..40], [-128; 32], "{isa}");
            assert_eq!(active.at[0][40..48], first.map(|at| at + 3 * record), "{isa}");
            let quads = active.quads(0, 2, true);
            assert_eq!((quads.count, quads.at), (8, active.at[0][8..].as_ptr()), "{isa}");
        }
    }

    #[test]
    fn lists_of_floats_have_no_gaps() {
        let mut x = [0.0f32; 72];
        (x[1], x[31], x[32], x[70]) = (1.5, f32::NAN, -2.0, f32::NEG_INFINITY);
        x[40..56].fill(-0.0);
        x[56..64].fill(f32::MIN_POSITIVE / 2.0);
        let kept: Vec<usize> =
            (0..72).filter(|c| [1, 31, 32, 70].contains(c) || (56..64).contains(c)).collect();
        for isa in Isa::ALL.iter().filter(|isa| isa.available()) {
            let Ok(kernels) = Kernels::with_isa(isa.name()) else { continue };
            let mut rows = ActiveRows::default();
            rows.reserve(2, 72);
            let two = [x, x].concat();
            let active = rows.find(&kernels, channels(Values::F16), 32, Input::Floats(&two), 72);
            let blocks: Vec<_> = active.blocks.iter().map(|b| (b.first, b.mask)).collect();
            let row = [(0, 1 << 31 | 2), (2, 0xff00_0001), (11, 1 << 6)];
            assert_eq!(blocks, [row, row].concat(), "{isa}");
            let all = vec![1.0; 96];
            let mut whole = ActiveRows::default();
            whole.reserve(1, 96);
            let whole = whole.find(&kernels, channels(Values::F16), 32, Input::Floats(&all), 96);
            assert!(whole.floats(0, true, 0).2 && whole.floats(0, true, 1).2, "{isa}");
            // Of 72 channels the second half begins with the 65th.
            for (row, half) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let (at, found, all) = active.floats(row, true, half);
                assert!(!all, "{isa}");
                let kept = || kept.iter().filter(|c| usize::from(**c >= 64) == half);
                let places: Vec<u32> = kept().map(|c| *c as u32 * 64).collect();
                assert_eq!(at, places, "{isa}");
                let values: Vec<u32> = kept().map(|c| x[*c].to_bits()).collect();
                assert_eq!(found.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), values, "{isa}");
            }
        }
    }
}
