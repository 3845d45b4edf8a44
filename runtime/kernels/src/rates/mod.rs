//! Rates of the kernel rows that read a weight, and the ceilings of the machine to hold them against.

mod ceilings;

pub use ceilings::Ceilings;

use crate::{
    Error, KernelOp, KernelRow, Kernels, LinearArgs, LinearScratch, Packed, Pool, kernel_table,
    linear, pack_rows,
};
use limbeck_plan::{Activation, PackFormat};
use std::time::{Duration, Instant};

/// Rows of activations of a measurement that comes to computing.
const MANY: usize = 64;
/// Outputs and inputs of the weights.
const SHAPE: [usize; 2] = [2048, 2048];
/// The same where time goes into computing: the weight stays in a cache.
const SMALL_SHAPE: [usize; 2] = [512, 1024];
/// Bytes that the weights of a measurement from memory take together: more than caches hold.
const SPREAD: usize = 256 << 20;
/// Time of one turn of a row.
const TURN: Duration = Duration::from_millis(15);
/// Turns of each row, and turns after which a row that is far behind has no more.
const TURNS: usize = 9;
const FIRST_TURNS: usize = 2;
/// How many times the least time is far behind.
const FAR: f64 = 1.5;

/// What the rows for one op and one format of weights are compared at.
#[derive(Clone, Copy, Debug)]
pub struct Contest {
    /// The op.
    pub op: KernelOp,
    /// Of the weight.
    pub format: PackFormat,
    /// Rows of activations in a call. One reads its weight from memory; many find it in a cache.
    pub rows: usize,
}

/// One row's part in a [`Contest`].
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The row.
    pub row: &'static KernelRow,
    /// Seconds of a call: the least mean of a turn, turns of all rows alternating.
    pub seconds: f64,
    /// Bytes of weights that it read in a second.
    pub bytes: f64,
    /// Operations in a second, a multiply-add being two.
    pub ops: f64,
}

impl Contest {
    /// One row of activations, and many where the op takes them, for each op and format of weights
    /// of the table.
    pub fn all() -> Vec<Contest> {
        let mut all: Vec<Contest> = Vec::new();
        for row in kernel_table() {
            let rows: &[usize] = match row.op() {
                KernelOp::Linear => &[1, MANY],
                KernelOp::Channels => &[1],
                _ => continue,
            };
            let Some(format) = row.format() else { continue };
            if all.iter().all(|known| (known.op, known.format) != (row.op(), format)) {
                all.extend(rows.iter().map(|&rows| Contest { op: row.op(), format, rows }));
            }
        }
        all
    }

    /// Whether the weight comes from memory.
    pub fn from_memory(&self) -> bool {
        self.rows == 1
    }

    /// Times all available rows; in the table's order.
    ///
    /// # Errors
    /// None that is known: those of packing a weight and of [`linear`] are passed on.
    pub fn run(&self, pool: &Pool) -> Result<Vec<Rate>, Error> {
        let rows = kernel_table().filter(|row| {
            row.op() == self.op && row.format() == Some(self.format) && row.available()
        });
        let rows: Vec<_> = rows.collect();
        let mut bench = Bench::new(self)?;
        let mut least = vec![f64::INFINITY; rows.len()];
        for turn in 0..TURNS {
            let best = least.iter().copied().fold(f64::INFINITY, f64::min);
            for (row, least) in rows.iter().zip(&mut least) {
                if turn < FIRST_TURNS || *least <= FAR * best {
                    *least = least.min(bench.turn(&Kernels::with_isa(row.isa().name())?, pool)?);
                }
            }
        }
        let [n, k] = bench.shape;
        let (bytes, ops) = (bench.bytes as f64, 2.0 * (self.rows * n * k) as f64);
        let rates = rows.iter().zip(least).map(|(row, seconds)| Rate {
            row,
            seconds,
            bytes: bytes / seconds,
            ops: ops / seconds,
        });
        Ok(rates.collect())
    }
}

/// How many times as fast as the selected row another one is, and which: above 1 where the
/// selection is not the fastest. None where no row is selected.
pub fn faster(rates: &[Rate]) -> Option<(f64, &Rate)> {
    let selected = rates.iter().find(|rate| rate.row.selected())?;
    let best = rates.iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds))?;
    Some((selected.seconds / best.seconds, best))
}

/// Weights, activations and results of a contest.
struct Bench {
    format: PackFormat,
    rows: usize,
    shape: [usize; 2],
    weights: Vec<u8>,
    /// Of one of the weights.
    bytes: usize,
    /// The weight of the next call: turns go on where the one before left off, so that none finds
    /// in a cache what the row before it read.
    next: usize,
    x: Vec<f32>,
    out: Vec<f32>,
    scratch: LinearScratch,
}

impl Bench {
    fn new(contest: &Contest) -> Result<Bench, Error> {
        let Contest { format, rows, .. } = *contest;
        let shape = if contest.from_memory() { SHAPE } else { SMALL_SHAPE };
        let [n, k] = shape;
        let values: Vec<f32> = (0..n * k).map(|i| ((i * 7919) % 255) as f32 - 127.0).collect();
        let mut weights = Vec::new();
        pack_rows(format, k, &values, &mut weights)?;
        let bytes = weights.len();
        if contest.from_memory() {
            weights = weights.repeat((SPREAD / bytes).max(1));
        }
        let x = (0..rows * k).map(|i| ((i * 31) % 17) as f32 / 8.0 - 1.06).collect();
        let mut scratch = LinearScratch::default();
        scratch.reserve(rows, k);
        let out = vec![0.0; rows * n];
        Ok(Bench { format, rows, shape, weights, bytes, next: 0, x, out, scratch })
    }

    /// The mean time of a call, in seconds.
    fn turn(&mut self, kernels: &Kernels, pool: &Pool) -> Result<f64, Error> {
        let (start, mut calls) = (Instant::now(), 0);
        loop {
            self.call(kernels, pool)?;
            calls += 1;
            let spent = start.elapsed();
            if spent >= TURN {
                return Ok(spent.as_secs_f64() / f64::from(calls));
            }
        }
    }

    fn call(&mut self, kernels: &Kernels, pool: &Pool) -> Result<(), Error> {
        let [n, k] = self.shape;
        debug_assert_eq!((self.x.len(), self.out.len()), (self.rows * k, self.rows * n));
        let copies = self.weights.len() / self.bytes.max(1);
        let copy = self.next % copies.max(1);
        self.next = copy + 1;
        let bytes = self.weights.chunks_exact(self.bytes).nth(copy).unwrap_or_default();
        let args = LinearArgs {
            x: &self.x,
            norm: None,
            w: Packed::new(self.format, n, k, bytes)?,
            bias: None,
            activation: Activation::Identity,
            gated: false,
            residual: None,
            precise: false,
            out: &mut self.out,
        };
        linear(kernels, pool, &mut self.scratch, args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contests_cover_every_row_that_reads_a_weight() {
        let all = Contest::all();
        for row in kernel_table() {
            let weighs = [KernelOp::Linear, KernelOp::Channels].contains(&row.op());
            let met = all.iter().filter(|c| c.op == row.op() && Some(c.format) == row.format());
            let expected = if row.op() == KernelOp::Linear { 2 } else { usize::from(weighs) };
            assert_eq!(met.count(), expected, "{row:?}");
        }
    }

    #[test]
    fn the_fastest_row_is_held_against_the_selected_one() {
        let format = PackFormat::linear(limbeck_plan::Values::Q4);
        let rows = kernel_table().filter(|row| {
            row.op() == KernelOp::Linear && row.format() == Some(format) && row.available()
        });
        let rate = |row, seconds| Rate { row, seconds, bytes: 0.0, ops: 0.0 };
        let mut rates: Vec<Rate> = rows.map(|row| rate(row, 2.0)).collect();
        assert_eq!(faster(&rates).map(|(times, _)| times), Some(1.0));
        if let Some(other) = rates.iter_mut().find(|rate| !rate.row.selected()) {
            other.seconds = 1.0;
            let name = other.row.name();
            let (times, best) = faster(&rates).unwrap();
            assert_eq!((times, best.row.name()), (2.0, name));
        }
        rates.retain(|rate| !rate.row.selected());
        assert!(faster(&rates).is_none());
    }
}
