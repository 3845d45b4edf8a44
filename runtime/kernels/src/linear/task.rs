//! One task of a linear: the loops over units and rows, and the epilogue. The products themselves
//! come from a [`Tile`], one implementation per instruction set and kind of weight.

use super::activations::ActBlock;
use crate::elementwise::SharedRows;
use crate::math;
use crate::simd::{LANES, Simd};
use limbeck_plan::{Activation, QUANT_BLOCK};
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

/// What happens to the products of a unit.
pub(crate) struct Epilogue<'a> {
    /// Rows of the input that are added to one row of products: 1, or 2 that are neighbours.
    pub parts: usize,
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
    pub gated: bool,
    pub residual: Option<&'a [f32]>,
    /// Columns of `out` and `residual`.
    pub n_out: usize,
    /// The row of `out` and `residual` for each row of products, if not the same.
    pub to: Option<&'a [usize]>,
    pub out: &'a SharedRows<'a>,
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
    for unit in task.units.clone() {
        let held = unit - task.first_unit;
        let mut row = task.rows.start;
        while row < task.rows.end {
            let left = task.rows.end - row;
            // As few tiles as can be, of nearly the same height.
            let take = left.div_ceil(left.div_ceil(T::UNIT_ROWS));
            let parts = task.epilogue.parts;
            // Tiles have an even number of rows at most, so that this one still fits.
            let take = take.next_multiple_of(parts);
            // SAFETY: the rows and the unit lie within the task's ranges.
            unsafe {
                match take {
                    // Tiles that no kernel has are no code.
                    7.. if T::UNIT_ROWS > 6 => tall(s, tile, task, row, held, take, &mut acc),
                    6 if T::UNIT_ROWS > 5 => tile.one_unit::<6>(s, task, row, held, &mut acc),
                    5 if T::UNIT_ROWS > 4 => tile.one_unit::<5>(s, task, row, held, &mut acc),
                    4 => tile.one_unit::<4>(s, task, row, held, &mut acc),
                    3 => tile.one_unit::<3>(s, task, row, held, &mut acc),
                    2 => tile.one_unit::<2>(s, task, row, held, &mut acc),
                    _ => tile.one_unit::<1>(s, task, row, held, &mut acc),
                }
                for r in (0..take).step_by(parts) {
                    if parts == 2 {
                        let [a, b] = [acc[r], acc[r + 1]];
                        acc[r] = std::array::from_fn(|i| a[i] + b[i]);
                    }
                    finish(s, task, (row + r) / parts, unit, &acc[r]);
                }
            }
            row += take;
        }
    }
}

/// [`Tile::one_unit`] of more than 6 rows.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn tall<S: Simd, T: Tile<S>>(
    s: S,
    tile: T,
    task: &LinearTask<'_>,
    row: usize,
    unit: usize,
    rows: usize,
    acc: &mut Acc,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match rows {
            7 => tile.one_unit::<7>(s, task, row, unit, acc),
            8 => tile.one_unit::<8>(s, task, row, unit, acc),
            9 => tile.one_unit::<9>(s, task, row, unit, acc),
            10 => tile.one_unit::<10>(s, task, row, unit, acc),
            11 => tile.one_unit::<11>(s, task, row, unit, acc),
            _ => tile.one_unit::<12>(s, task, row, unit, acc),
        }
    }
}

/// Bias, activation or gate, residual, and the store, for one row of one unit.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
pub(super) unsafe fn finish<S: Simd>(
    s: S,
    task: &LinearTask<'_>,
    row: usize,
    unit: usize,
    acc: &[f32; UNIT],
) {
    let e = task.epilogue;
    let first = unit * UNIT;
    let mut v = [s.load_some(acc, 0), s.load_some(acc, LANES)];
    if let Some(bias) = e.bias {
        v[0] = s.add(v[0], s.load_some(bias, first));
        v[1] = s.add(v[1], s.load_some(bias, first + LANES));
    }
    v[0] = math::apply(s, e.activation, v[0]);
    let row = e.to.map_or(row, |to| to[row]);
    let (at, count) = if e.gated {
        v[0] = s.mul(v[0], v[1]);
        (row * e.n_out + first / 2, LANES)
    } else {
        v[1] = math::apply(s, e.activation, v[1]);
        (row * e.n_out + first, UNIT.min(task.n - first))
    };
    // SAFETY: outputs of this row and unit, which are this task's alone.
    let out = unsafe { e.out.part(at, count) };
    for (i, v) in v.into_iter().enumerate().take(count.div_ceil(LANES)) {
        let y = match e.residual {
            Some(residual) => s.add(v, s.load_some(&residual[at..at + count], i * LANES)),
            None => v,
        };
        s.store_some(out, i * LANES, y);
    }
}
