//! Rates of the kernel rows that read a weight, and the ceilings of the machine to hold them against.

mod ceilings;

pub use ceilings::Ceilings;

use crate::packed::byte_len;
use crate::{
    Error, KernelOp, KernelRow, Kernels, LinearArgs, LinearScratch, Packed, Pool, kernel_table,
    linear, pack_rows,
};
use limbeck_plan::{Activation, PackFormat};
use std::time::{Duration, Instant};

/// Rows of activations of a measurement that comes to computing.
const MANY: usize = 64;
/// Outputs and inputs of the weights of a call that reads memory: wide and narrow MLPs as decoders of
/// 135M and 500M parameters have them, since the rates of a kernel differ by shape.
const SHAPES: &[[usize; 2]] = &[[3072, 576], [576, 1536], [9728, 896], [896, 4864]];
/// The same where time goes into computing: the weight stays in a cache.
const SMALL_SHAPES: &[[usize; 2]] = &[[512, 1024]];
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
    /// Seconds of a call, over weights of several shapes at one row: the least mean of a turn, turns of all rows alternating.
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
        let macs: usize = bench.shapes.iter().map(|[n, k]| self.rows * n * k).sum();
        let (bytes, ops) = (bench.bytes as f64, 2.0 * macs as f64);
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
    /// Of the weights of a call, one after another.
    shapes: &'static [[usize; 2]],
    weights: Vec<u8>,
    /// Of the weights of a call.
    bytes: usize,
    /// Where the weights of the next call begin: turns go on where the one before left off, so
    /// that none finds in a cache what the row before it read.
    next: usize,
    x: Vec<f32>,
    out: Vec<f32>,
    scratch: LinearScratch,
}

impl Bench {
    fn new(contest: &Contest) -> Result<Bench, Error> {
        let Contest { format, rows, .. } = *contest;
        let shapes = if contest.from_memory() { SHAPES } else { SMALL_SHAPES };
        let mut weights = Vec::new();
        for [n, k] in shapes {
            let values: Vec<f32> = (0..n * k).map(|i| ((i * 7919) % 255) as f32 - 127.0).collect();
            pack_rows(format, *k, &values, &mut weights)?;
        }
        let bytes = weights.len();
        if contest.from_memory() {
            weights = weights.repeat((SPREAD / bytes).max(1));
        }
        let most = |i: usize| shapes.iter().map(|shape| shape[i]).max().unwrap_or(0);
        let x = (0..rows * most(1)).map(|i| ((i * 31) % 17) as f32 / 8.0 - 1.06).collect();
        let mut scratch = LinearScratch::default();
        scratch.reserve(rows, most(1));
        let out = vec![0.0; rows * most(0)];
        Ok(Bench { format, rows, shapes, weights, bytes, next: 0, x, out, scratch })
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
        if self.next + self.bytes > self.weights.len() {
            self.next = 0;
        }
        for &[n, k] in self.shapes {
            let len = byte_len(self.format, n, k)?;
            let args = LinearArgs {
                x: &self.x[..self.rows * k],
                norm: None,
                factors: None,
                w: Packed::new(self.format, n, k, &self.weights[self.next..][..len])?,
                bias: None,
                activation: Activation::Identity,
                gated: false,
                residual: None,
                precise: false,
                out: &mut self.out[..self.rows * n],
            };
            linear(kernels, pool, &mut self.scratch, args)?;
            self.next += len;
        }
        Ok(())
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
