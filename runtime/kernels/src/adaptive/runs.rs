//! Linears of rows that are sorted by how many learners they use. Each weight is read once for all
//! rows: a task takes some units of it, and of each run of equal choices what it needs of these.

use super::sort;
use crate::elementwise::SharedRows;
use crate::error::Error;
use crate::linear::{
    Epilogue, LinearArgs, LinearScratch, LinearTask, Size, UNIT, products, row_blocks,
};
use crate::pool::Pool;
use crate::table::Kernels;
use std::ops::Range;

/// Bytes of the second weight that stay in the cache while all runs go over them.
const CACHED_BYTES: usize = 384 * 1024;

/// Rows sorted by their choices: a row that chooses `k` uses the learners `0..k`.
pub(super) struct Runs<'a> {
    /// Rows that use a learner, by rising choice.
    order: &'a [usize],
    /// Where the rows of each choice end in `order`.
    ends: &'a [usize],
    /// The learners that all rows before it in `order` use, added up.
    before: &'a [usize],
    /// Those of all rows.
    used: usize,
}

/// The rows `order[rows]`, at least one, which all choose `choice`.
struct Run {
    choice: usize,
    rows: Range<usize>,
}

impl<'a> Runs<'a> {
    /// Sorts the rows of `choice` (each in `0..ends.len()`) into buffers; gives the rows that use no
    /// learner too.
    pub fn new(
        choice: &[i32],
        order: &'a mut [usize],
        ends: &'a mut [usize],
        before: &'a mut [usize],
    ) -> (Self, &'a [usize]) {
        sort(choice, order, ends);
        let idle = ends[0];
        ends.iter_mut().for_each(|end| *end -= idle);
        let (idle, order) = order.split_at(idle);
        let before = &mut before[..order.len()];
        let mut used = 0;
        for (before, row) in before.iter_mut().zip(order) {
            *before = used;
            used += choice[*row] as usize;
        }
        (Self { order, ends, before, used }, idle)
    }

    /// The learners that the rows use, added up: the rows that [`Runs::up`] writes.
    pub fn used(&self) -> usize {
        self.used
    }

    /// By rising choice.
    pub fn choices(&self) -> impl Iterator<Item = usize> {
        self.each().map(|run| run.choice)
    }

    fn each(&self) -> impl Iterator<Item = Run> {
        let runs = self.ends.windows(2).zip(1..);
        runs.filter(|(ends, _)| ends[0] < ends[1])
            .map(|(ends, choice)| Run { choice, rows: ends[0]..ends[1] })
    }

    /// Whether there are several choices.
    fn mixed(&self) -> bool {
        self.choices().nth(1).is_some()
    }

    /// Learners whose hidden units are quantised in one go: all of a row where all rows choose alike.
    pub fn together(&self) -> usize {
        if self.mixed() { 1 } else { self.choices().next().unwrap_or(1) }
    }

    /// The unit, of `learner` for each learner, that the `i`-th of `n` parts of equal work begins with.
    fn share(&self, learner: usize, i: usize, n: usize) -> usize {
        let (mut first, mut before) = (0, self.used * learner * i / n);
        for run in self.each() {
            let (end, rows) = (run.choice * learner, self.order.len() - run.rows.start);
            if before <= (end - first) * rows {
                // Kernels take units in pairs.
                return first + before / rows / 2 * 2;
            }
            before -= (end - first) * rows;
            first = end;
        }
        first
    }

    fn learners(&self) -> usize {
        self.ends.len() - 1
    }

    /// The learners' hidden units: `args.w` has the rows of all learners, `args.out` a row for each
    /// learner that a row of `args.x` uses, those of one row after another.
    ///
    /// # Errors
    /// As [`linear`](crate::linear()) says, but for the rows of the result.
    pub fn up(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        scratch: &mut LinearScratch,
        args: LinearArgs<'_>,
    ) -> Result<(), Error> {
        let (_, n_out) = args.check_operands()?;
        let (n, k, values) = (args.w.rows(), args.w.cols(), args.w.format().values);
        let input = scratch.input(kernels, pool, &args, Some(self.order));
        let out = SharedRows::new(args.out);
        let epilogue = Epilogue {
            parts: 1,
            bias: args.bias,
            activation: args.activation,
            gated: args.gated,
            residual: None,
            residual_first: false,
            // A row's outputs begin with its first learner's and go on over the others'.
            n_out: n_out / self.learners(),
            to: Some(self.before),
            out: &out,
        };
        let learner = n / UNIT / self.learners();
        let most = self.choices().last().unwrap_or(0);
        let shares = |i: usize, n: usize| self.share(learner, i, n);
        let whole = LinearTask {
            input,
            w: args.w.bytes(),
            k,
            stored: args.w.stored_cols(),
            n,
            rows: 0..self.order.len(),
            units: 0..most * learner,
            first_unit: 0,
            epilogue: &epilogue,
        };
        let size = Size {
            macs: self.used * learner * UNIT * k,
            shares: self.mixed().then_some(&shares),
            ..Size::of(&whole)
        };
        let quantised = size.quantised;
        // SAFETY: `before` gives rows of the result that no other row writes, and the runs' units
        // do not overlap.
        unsafe {
            products(kernels, pool, values, size, &|rows, units, compute| {
                let mut first = 0;
                for run in self.each() {
                    // The learners above the last run's choice, which all rows from here on use.
                    let learners = first..run.choice * learner;
                    first = learners.end;
                    let rows = common(&rows, &(run.rows.start..rows.end));
                    let units = common(&units, &learners);
                    let count = row_blocks(rows.len(), k, quantised);
                    for rows in blocks(rows, count) {
                        compute(&LinearTask { rows, units: units.clone(), ..whole });
                    }
                }
            });
        }
        Ok(())
    }

    /// What the learners add up to: `args.x` is what [`Runs::up`] wrote, `args.w` the columns of
    /// as many learners as go together, the bytes those of all; `args.out` has all rows, of which
    /// those that use no learner are not touched. `biases` are `[learners + 1, N]`.
    ///
    /// # Errors
    /// As [`linear`](crate::linear()) says.
    pub fn down(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        scratch: &mut LinearScratch,
        args: LinearArgs<'_>,
        biases: Option<&[f32]>,
    ) -> Result<(), Error> {
        args.check_operands()?;
        let (n, values) = (args.w.rows(), args.w.format().values);
        let learner = args.w.cols() / self.together();
        let input = scratch.input(kernels, pool, &args, None);
        let out = SharedRows::new(args.out);
        let epilogue = |run: &Run| Epilogue {
            parts: 1,
            bias: biases.map(|biases| &biases[run.choice * n..][..n]),
            activation: args.activation,
            gated: false,
            residual: args.residual,
            residual_first: false,
            n_out: n,
            to: Some(&self.order[run.rows.clone()]),
            out: &out,
        };
        let units = n.div_ceil(UNIT);
        let shares = |i: usize, n: usize| units * i / n;
        let size = Size {
            rows: self.order.len(),
            units: 0..units,
            // In the mean.
            k: self.used * learner / self.order.len().max(1),
            macs: self.used * learner * n,
            quantised: values.is_quantised(),
            shares: self.mixed().then_some(&shares),
        };
        // Kernels take units in pairs.
        let pair_bytes = (2 * args.w.bytes().len() / units.max(1)).max(1);
        let cached = 2 * (CACHED_BYTES / pair_bytes).max(1);
        // SAFETY: `order` has each row once.
        unsafe {
            products(kernels, pool, values, size, &|rows, units, compute| {
                let step = if self.mixed() { cached } else { units.len() };
                for first in units.clone().step_by(step) {
                    for run in self.each() {
                        let rows = common(&rows, &run.rows);
                        let from = run.rows.start;
                        compute(&LinearTask {
                            input: input.after(self.before[from] * learner),
                            w: args.w.bytes(),
                            k: run.choice * learner,
                            stored: args.w.stored_cols(),
                            n,
                            rows: rows.start - from..rows.end - from,
                            units: first..units.end.min(first + step),
                            first_unit: 0,
                            epilogue: &epilogue(&run),
                        });
                    }
                }
            });
        }
        Ok(())
    }
}

/// So many parts of a range, of nearly the same length.
fn blocks(range: Range<usize>, count: usize) -> impl Iterator<Item = Range<usize>> {
    let at = move |i: usize| range.start + range.len() * i / count;
    (0..count).map(move |i| at(i)..at(i + 1))
}

/// What is in both; empty at the second's start where nothing is.
fn common(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    match a.end.min(b.end) {
        end if start < end => start..end,
        _ => b.start..b.start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_mixed_choices_are_of_equal_work() {
        let (learner, parts) = (48, 4);
        for cycle in [&[2, 0, 4, 1, 3][..], &[1, 0, 2, 1], &[4, 4, 4, 3], &[1, 4]] {
            let choice: Vec<i32> = (0..128).map(|i| cycle[i % cycle.len()]).collect();
            let (mut order, mut ends, mut before) = ([0; 128], [0; 5], [0; 128]);
            let (runs, idle) = Runs::new(&choice, &mut order, &mut ends, &mut before);
            let rows =
                |unit: usize| choice.iter().filter(|k| **k as usize * learner > unit).count();
            let ends: Vec<usize> = (0..=parts).map(|i| runs.share(learner, i, parts)).collect();
            let last = choice.iter().max().map_or(0, |k| *k as usize * learner);
            assert_eq!((ends[0], ends[parts]), (0, last), "{cycle:?}");
            let equal = runs.used() * learner / parts;
            for part in ends.windows(2) {
                let work: usize = (part[0]..part[1]).map(rows).sum();
                assert!(
                    work.abs_diff(equal) <= 2 * (128 - idle.len()),
                    "{cycle:?}: {work} of {equal}"
                );
            }
        }
    }

    #[test]
    fn blocks_cover_a_range_evenly() {
        let of = |range, count| blocks(range, count).collect::<Vec<_>>();
        assert_eq!(of(2..12, 3), [2..5, 5..8, 8..12]);
        assert_eq!(of(0..9, 2), [0..4, 4..9]);
    }
}
