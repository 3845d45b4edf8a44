//! One task of a linear: the loops over units and rows. The products come from a [`Tile`], one
//! implementation per instruction set and kind of weight, and go to the [`Epilogue`].

use super::activations::ActBlock;
use super::epilogue::{Epilogue, finish, finish_tile};
use crate::simd::Simd;
use limbeck_plan::QUANT_BLOCK;
use std::ops::Range;

/// Rows of a weight in one unit.
pub(crate) const UNIT: usize = 16;
/// The most rows of one unit that a tile takes, and the most units of one row.
pub(crate) const MAX_TILE: usize = 12;

/// `[row or unit of the tile][output of the unit]`.
pub(crate) type Acc = [[f32; UNIT]; MAX_TILE];

/// The left operand.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// `[T, K]`.
    Floats(&'a [f32]),
    /// `[T, blocks * 32]` and `[T, blocks]`.
    Quantised { q: &'a [i8], blocks: &'a [ActBlock] },
}

impl<'a> Input<'a> {
    /// The values from `first` on, a multiple of 32 in whole blocks.
    pub fn after(self, first: usize) -> Input<'a> {
        match self {
            Input::Floats(x) => Input::Floats(&x[first..]),
            Input::Quantised { q, blocks } => {
                Input::Quantised { q: &q[first..], blocks: &blocks[first / QUANT_BLOCK..] }
            }
        }
    }
}

/// A range of rows and units of one linear, whose shapes `linear` has checked.
pub(crate) struct LinearTask<'a> {
    pub input: Input<'a>,
    /// The whole weight `[n, stored]`, of which the first `k` columns are used.
    pub w: &'a [u8],
    pub k: usize,
    pub stored: usize,
    pub n: usize,
    /// Of the input; whole rows of products.
    pub rows: Range<usize>,
    pub units: Range<usize>,
    /// The unit that `w` begins with.
    pub first_unit: usize,
    pub epilogue: &'a Epilogue<'a>,
}

impl LinearTask<'_> {
    /// Which part of the next panels the tile of `rows` rows from `row` on asks for, so that requests are spread
    /// over the time of all tiles: where it begins in a panel whose columns have `column` bytes, and bytes a column.
    #[inline(always)]
    pub fn part_of_next(&self, row: usize, rows: usize, column: usize) -> (usize, usize) {
        let all = self.rows.len();
        ((row - self.rows.start) * self.k * column / all, (rows * column).div_ceil(all))
    }

    /// Rows of the weight from its first unit here on.
    pub fn held(&self) -> usize {
        self.n - self.first_unit * UNIT
    }
}

/// Computes the products of a few rows with a few units.
pub(crate) trait Tile<S: Simd>: Copy {
    /// Units that one row takes at once, at most [`MAX_TILE`].
    const ROW_UNITS: usize;
    /// Rows that one unit takes at once, at most [`MAX_TILE`].
    const UNIT_ROWS: usize;
    /// Rows that two units take at once, at most [`MAX_TILE`]; 0 where units come one by one.
    const PAIR_ROWS: usize = 0;

    /// Writes `acc[u]`, the products of `row` with unit `unit + u` of `w`, for `u < UNITS`.
    ///
    /// # Safety
    /// The row and the units exist in the task's input and weight.
    unsafe fn one_row<const UNITS: usize>(
        self,
        s: S,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    );

    /// Writes `acc[r]`, the products of row `row + r` with unit `unit` of `w`, for `r < ROWS`.
    ///
    /// # Safety
    /// The rows and the unit exist in the task's input and weight.
    unsafe fn one_unit<const ROWS: usize>(
        self,
        s: S,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    );

    /// [`Tile::one_unit`] of units `unit` and `unit + 1`; rows are loaded once for both where there
    /// are registers for it.
    ///
    /// # Safety
    /// As there, of both units.
    #[inline(always)]
    unsafe fn two_units<const ROWS: usize>(
        self,
        s: S,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut [Acc; 2],
    ) {
        let [first, second] = acc;
        // SAFETY: the caller's contract.
        unsafe {
            self.one_unit::<ROWS>(s, task, row, unit, first);
            self.one_unit::<ROWS>(s, task, row, unit + 1, second);
        }
    }
}

/// Runs a task.
///
/// # Safety
/// The task's ranges lie within its input, weight and output, and no other thread touches the
/// outputs of its rows and units meanwhile.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd, T: Tile<S>>(s: S, tile: T, task: &LinearTask<'_>) {
    let mut acc: Acc = [[0.0; UNIT]; MAX_TILE];
    if task.rows.len() == 1 {
        let row = task.rows.start;
        let mut unit = task.units.start;
        while unit < task.units.end {
            let take = if task.units.end - unit >= T::ROW_UNITS { T::ROW_UNITS } else { 1 };
            let held = unit - task.first_unit;
            // SAFETY: the row and units lie within the task's ranges.
            unsafe {
                match take {
                    4 => tile.one_row::<4>(s, task, row, held, &mut acc),
                    2 => tile.one_row::<2>(s, task, row, held, &mut acc),
                    _ => tile.one_row::<1>(s, task, row, held, &mut acc),
                }
                for (u, acc) in acc.iter().enumerate().take(take) {
                    finish(s, task, row, unit + u, acc);
                }
            }
            unit += take;
        }
        return;
    }
    let mut acc = [acc; 2];
    let count = task.rows.len();
    let tiles = count.div_ceil(T::UNIT_ROWS);
    // Two units share the loads of rows, but have fewer rows to share their own among.
    let pairs = T::PAIR_ROWS > 0 && (tiles > 2 || count <= tiles * T::PAIR_ROWS);
    let mut unit = task.units.start;
    while unit < task.units.end {
        let units = if pairs { 2.min(task.units.end - unit) } else { 1 };
        let most = if units == 2 { T::PAIR_ROWS } else { T::UNIT_ROWS };
        let held = unit - task.first_unit;
        let mut row = task.rows.start;
        while row < task.rows.end {
            let left = task.rows.end - row;
            // As few tiles as can be, of nearly the same height.
            let take = left.div_ceil(left.div_ceil(most));
            let parts = task.epilogue.parts;
            // Tiles have an even number of rows at most, so that this one still fits.
            let take = take.next_multiple_of(parts);
            // SAFETY: the rows and the units lie within the task's ranges.
            unsafe {
                if units == 2 {
                    pair(s, tile, task, (row, take), held, &mut acc);
                } else {
                    single(s, tile, task, (row, take), held, &mut acc[0]);
                }
                finish_tile(s, task, (row, take), unit, &mut acc[..units]);
            }
            row += take;
        }
        unit += units;
    }
}

/// Calls a tile's function for as many rows as `$rows` says, up to `$most`: heights that the tile
/// does not have are no code.
macro_rules! by_rows {
    ($most:expr, $rows:expr, $tile:ident.$function:ident$arguments:tt) => {
        match $rows {
            12 if $most > 11 => $tile.$function::<12>$arguments,
            11 if $most > 10 => $tile.$function::<11>$arguments,
            10 if $most > 9 => $tile.$function::<10>$arguments,
            9 if $most > 8 => $tile.$function::<9>$arguments,
            8 if $most > 7 => $tile.$function::<8>$arguments,
            7 if $most > 6 => $tile.$function::<7>$arguments,
            6 if $most > 5 => $tile.$function::<6>$arguments,
            5 if $most > 4 => $tile.$function::<5>$arguments,
            4 => $tile.$function::<4>$arguments,
            3 => $tile.$function::<3>$arguments,
            2 => $tile.$function::<2>$arguments,
            _ => $tile.$function::<1>$arguments,
        }
    };
}

/// [`Tile::one_unit`] of up to [`Tile::UNIT_ROWS`] rows: `rows` says the first and how many.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn single<S: Simd, T: Tile<S>>(
    s: S,
    tile: T,
    task: &LinearTask<'_>,
    (row, rows): (usize, usize),
    unit: usize,
    acc: &mut Acc,
) {
    // SAFETY: the caller's contract.
    unsafe { by_rows!(T::UNIT_ROWS, rows, tile.one_unit(s, task, row, unit, acc)) }
}

/// [`Tile::two_units`] of up to [`Tile::PAIR_ROWS`] rows: `rows` says the first and how many.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn pair<S: Simd, T: Tile<S>>(
    s: S,
    tile: T,
    task: &LinearTask<'_>,
    (row, rows): (usize, usize),
    unit: usize,
    acc: &mut [Acc; 2],
) {
    // SAFETY: the caller's contract.
    unsafe { by_rows!(T::PAIR_ROWS, rows, tile.two_units(s, task, row, unit, acc)) }
}
