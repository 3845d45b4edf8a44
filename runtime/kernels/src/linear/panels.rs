//! Products with weights in panels (f32, f16), for every instruction set: each output is one
//! chain of `acc = fma(w, x, acc)` over the columns in order.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes and tiles of fixed size read best by index"
)]

use super::task::{Acc, Input, LinearTask, Tile, UNIT};
use crate::simd::{self, LANES, Simd};
use std::array::from_fn;
use std::hint::black_box;

/// How far one row's products ask for the bytes of a panel ahead of using them: the row's work
/// on a column is too short for the core to see memory's next lines by itself.
pub(super) const AHEAD: usize = 2048;

/// A panel's values: f16 when `HALF`, else f32.
#[derive(Clone, Copy)]
pub(crate) struct Panels<const HALF: bool>;

impl<const HALF: bool> Panels<HALF> {
    const PANEL_COLUMN: usize = UNIT * if HALF { 2 } else { 4 };

    /// Half `i` of a panel's column.
    ///
    /// # Safety
    /// `column` points at a whole column of a panel.
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, column: *const u8, i: usize) -> S::V {
        // SAFETY: each half of a column holds 8 values; loads need no alignment.
        unsafe {
            if HALF {
                s.load_f16(column.cast::<u16>().add(i * LANES))
            } else {
                s.load(column.cast::<f32>().add(i * LANES))
            }
        }
    }

    /// # Safety
    /// The rows and units exist; `ROWS` or `UNITS` is 1.
    #[inline(always)]
    unsafe fn product<S: Simd, const ROWS: usize, const UNITS: usize>(
        s: S,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        let Input::Floats(x) = task.input else { return };
        let k = task.k;
        let panel = task.stored * Self::PANEL_COLUMN;
        let mut sums = [[[s.splat(0.0); 2]; UNITS]; ROWS];
        // SAFETY: the input holds `k` values for each row and the weight at least `k` columns
        // for each unit, as the caller vouches.
        unsafe {
            let w = task.w.as_ptr().add(unit * panel);
            let x = x.as_ptr().add(row * k);
            // Left to itself the compiler computes rows from one another, and `step`, for each column.
            let rows: [_; ROWS] = from_fn(|r| black_box(x.add(r * k)));
            // The next panel comes from memory while this one is used.
            let (asked, step) = task.part_of_next(row, ROWS, Self::PANEL_COLUMN);
            let (mut next, step) = (w.wrapping_add(UNITS * panel + asked), black_box(step));
            for i in 0..k {
                for u in 0..UNITS {
                    let column = w.add(u * panel + i * Self::PANEL_COLUMN);
                    if ROWS == 1 {
                        simd::prefetch(column.wrapping_add(AHEAD));
                    } else {
                        simd::prefetch_far(next);
                    }
                    let (w0, w1) = (Self::load(s, column, 0), Self::load(s, column, 1));
                    for r in 0..ROWS {
                        let x = s.splat(*rows[r].add(i));
                        sums[r][u][0] = s.fma(w0, x, sums[r][u][0]);
                        sums[r][u][1] = s.fma(w1, x, sums[r][u][1]);
                    }
                }
                next = next.wrapping_add(step);
            }
            for (acc, sums) in acc.iter_mut().zip(sums.iter().flatten()) {
                s.store(acc.as_mut_ptr(), sums[0]);
                s.store(acc.as_mut_ptr().add(LANES), sums[1]);
            }
        }
    }
}

impl<S: Simd, const HALF: bool> Tile<S> for Panels<HALF> {
    const ROW_UNITS: usize = 4;
    const UNIT_ROWS: usize = 6;

    #[inline(always)]
    unsafe fn one_row<const UNITS: usize>(
        self,
        s: S,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        // SAFETY: the caller's contract.
        unsafe { Self::product::<S, 1, UNITS>(s, task, row, unit, acc) }
    }

    #[inline(always)]
    unsafe fn one_unit<const ROWS: usize>(
        self,
        s: S,
        task: &LinearTask<'_>,
        row: usize,
        unit: usize,
        acc: &mut Acc,
    ) {
        // SAFETY: the caller's contract.
        unsafe { Self::product::<S, ROWS, 1>(s, task, row, unit, acc) }
    }
}
