//! One task of a linear: the loops over units and rows, and the epilogue. The products themselves
//! come from a [`Tile`], one implementation per instruction set and kind of weight.

use super::activations::ActBlock;
use crate::elementwise::SharedRows;
use crate::math;
use crate::simd::{LANES, Lanes, Simd, WideV, Work};
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
    /// The activation is of the sum with the residual. Not where there are gates.
    pub residual_first: bool,
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

impl Epilogue<'_> {
    /// Whether products are stored as they are.
    fn is_plain(&self) -> bool {
        let alone = self.parts == 1 && !self.gated && self.to.is_none();
        alone
            && self.bias.is_none()
            && self.residual.is_none()
            && self.activation == Activation::Identity
    }
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
    let plain = task.epilogue.is_plain() && task.units.end * UNIT <= task.n;
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
                if plain {
                    for (u, acc) in acc.iter().enumerate().take(units) {
                        store_whole(task, row, unit + u, &acc[..take]);
                    }
                    row += take;
                    continue;
                }
                for r in (0..take).step_by(parts) {
                    if parts == 2 {
                        acc.iter_mut().take(units).for_each(|acc| add_next(acc, r));
                    }
                    let (row, [first, second]) = ((row + r) / parts, &acc);
                    if units == 2 && task.epilogue.gated {
                        finish_gates(s, task, row, unit, [&first[r], &second[r]]);
                        continue;
                    }
                    finish(s, task, row, unit, &first[r]);
                    if units == 2 {
                        finish(s, task, row, unit + 1, &second[r]);
                    }
                }
            }
            row += take;
        }
        unit += units;
    }
}

/// Stores the products of whole rows from `row` on with a whole unit as they are.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn store_whole(task: &LinearTask<'_>, row: usize, unit: usize, acc: &[[f32; UNIT]]) {
    let e = task.epilogue;
    for (r, acc) in acc.iter().enumerate() {
        // SAFETY: outputs of this row and unit, which are this task's alone.
        unsafe { e.out.part((row + r) * e.n_out + unit * UNIT, UNIT) }.copy_from_slice(acc);
    }
}

/// Adds the sums after those at `r` to them.
#[inline(always)]
fn add_next(acc: &mut Acc, r: usize) {
    let next = acc[r + 1];
    for (sum, next) in acc[r].iter_mut().zip(next) {
        *sum += next;
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
    // SAFETY: the caller's contract.
    unsafe { s.here(Finish { task, row, unit, acc }) };
}

struct Finish<'a, 'b> {
    task: &'a LinearTask<'b>,
    row: usize,
    unit: usize,
    acc: &'a [f32; UNIT],
}

impl<S: Simd> Work<S> for Finish<'_, '_> {
    #[inline(always)]
    unsafe fn run(self, s: S) {
        // SAFETY: the caller's contract.
        unsafe { finish_unit(s, self) }
    }
}

/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn finish_unit<S: Simd>(s: S, work: Finish<'_, '_>) {
    let Finish { task, row, unit, acc } = work;
    let e = task.epilogue;
    let first = unit * UNIT;
    let sums = biased(s, e, first, acc);
    let row = e.to.map_or(row, |to| to[row]);
    // SAFETY: outputs of this row and unit, which are this task's alone.
    unsafe {
        if e.gated {
            let [gate, up] = s.halves(sums);
            let v = s.mul(math::apply(s, e.activation, gate), up);
            put(s, e, row * e.n_out + first / 2, LANES, s.join([v, v]));
        } else {
            let (at, count) = (row * e.n_out + first, UNIT.min(task.n - first));
            if e.residual_first {
                let sums = plus_residual(s, e, at, count, sums);
                store(s, e, at, count, math::apply(s.wide(), e.activation, sums));
            } else {
                put(s, e, at, count, math::apply(s.wide(), e.activation, sums));
            }
        }
    }
}

/// [`finish`] for units `unit` and `unit + 1` of a gated linear.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn finish_gates<S: Simd>(
    s: S,
    task: &LinearTask<'_>,
    row: usize,
    unit: usize,
    acc: [&[f32; UNIT]; 2],
) {
    let e = task.epilogue;
    let first = unit * UNIT;
    let [gate, up] = s.halves(biased(s, e, first, acc[0]));
    let [next_gate, next_up] = s.halves(biased(s, e, first + UNIT, acc[1]));
    let gates = math::apply(s.wide(), e.activation, s.join([gate, next_gate]));
    let row = e.to.map_or(row, |to| to[row]);
    let v = s.wide().mul(gates, s.join([up, next_up]));
    // SAFETY: outputs of this row and these units, which are this task's alone.
    unsafe { put(s, e, row * e.n_out + first / 2, UNIT, v) };
}

/// The sums of a unit whose first row of the weight is `first`, and their bias.
#[inline(always)]
fn biased<S: Simd>(s: S, e: &Epilogue<'_>, first: usize, acc: &[f32; UNIT]) -> WideV<S> {
    // SAFETY: there are 16 sums, one for each lane.
    let sums = unsafe { s.wide().load(acc.as_ptr()) };
    let Some(bias) = e.bias else { return sums };
    let mut padded = [0.0; UNIT];
    let bias = match bias.get(first..first + UNIT) {
        Some(whole) => whole.as_ptr(),
        None => {
            let rest = bias.get(first..).unwrap_or(&[]);
            padded[..rest.len()].copy_from_slice(rest);
            padded.as_ptr()
        }
    };
    // SAFETY: both hold 16 values.
    s.wide().add(sums, unsafe { s.wide().load(bias) })
}

/// Stores the first `count` lanes, with the residual, from output `at` on.
///
/// # Safety
/// As for [`store`].
#[inline(always)]
unsafe fn put<S: Simd>(s: S, e: &Epilogue<'_>, at: usize, count: usize, v: WideV<S>) {
    // SAFETY: the caller's contract.
    unsafe { store(s, e, at, count, plus_residual(s, e, at, count, v)) }
}

/// The first `count` lanes with the residual from `at` on.
#[inline(always)]
fn plus_residual<S: Simd>(
    s: S,
    e: &Epilogue<'_>,
    at: usize,
    count: usize,
    v: WideV<S>,
) -> WideV<S> {
    let Some(residual) = e.residual else { return v };
    let residual = &residual[at..at + count];
    if count == UNIT {
        // SAFETY: it holds 16 values.
        return s.wide().add(v, unsafe { s.wide().load(residual.as_ptr()) });
    }
    let [low, high] = s.halves(v);
    let low = s.add(low, s.load_some(residual, 0));
    let high = if count > LANES { s.add(high, s.load_some(residual, LANES)) } else { high };
    s.join([low, high])
}

/// Stores the first `count` lanes from output `at` on.
///
/// # Safety
/// No other thread touches these outputs meanwhile.
#[inline(always)]
unsafe fn store<S: Simd>(s: S, e: &Epilogue<'_>, at: usize, count: usize, v: WideV<S>) {
    // SAFETY: the caller's contract.
    let out = unsafe { e.out.part(at, count) };
    if count == UNIT {
        // SAFETY: it holds 16 values.
        unsafe { s.wide().store(out.as_mut_ptr(), v) };
        return;
    }
    for (i, v) in s.halves(v).into_iter().enumerate().take(count.div_ceil(LANES)) {
        s.store_some(out, i * LANES, v);
    }
}
