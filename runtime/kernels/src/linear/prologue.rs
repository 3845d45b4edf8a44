//! What comes before a linear's products: norm, sparsity and quantisation of each row of `x`, in one
//! region.

use super::activations::{ActBlock, QuantActs};
use super::task::Input;
use super::{LinearArgs, Sparsity};
use crate::elementwise::SharedRows;
use crate::pool::Pool;
use crate::table::Kernels;
use limbeck_plan::{QUANT_BLOCK, Values, WIDE_BLOCK};
use std::sync::atomic::{AtomicU64, Ordering};

/// Elements of `x` from which the prologue (norm, quantisation) gets its own parallel region.
const PARALLEL_PROLOGUE: usize = 8 * 1024;

/// The rows of a call and what is done to them.
pub(super) struct Prologue<'a, 'b> {
    pub kernels: &'a Kernels,
    pub pool: &'a Pool,
    pub args: &'a LinearArgs<'b>,
    pub sparsity: Option<&'a Sparsity<'a>>,
    pub rows: usize,
    /// Which rows of `x` these are, if not the first ones in order.
    pub from: Option<&'a [usize]>,
    /// Rows that each row is quantised to: 1, or 2 for precise products.
    pub parts: usize,
}

impl<'b> Prologue<'_, 'b> {
    /// What the products take, and the channels that sparsity kept.
    pub fn run<'s>(&self, normed: &'s mut Vec<f32>, acts: &'s mut QuantActs) -> (Input<'s>, u64)
    where
        'b: 's,
    {
        let Prologue { args, sparsity, rows: m, parts, .. } = *self;
        let (k, values) = (args.w.cols(), args.w.format().values);
        let quantised = values.is_quantised();
        let padded = k.next_multiple_of(values.block());
        // What is not quantised is read where it is, row after row.
        let moved = self.from.is_some() && !quantised;
        let others = args.norm.is_some() || sparsity.is_some() || moved;
        // Factors alone are applied while a row is quantised, if it is so once.
        let factors = args.factors.filter(|_| quantised && parts == 1 && !others);
        let changed = others || args.factors.is_some() && factors.is_none();
        let x: &'b [f32] = args.x;
        if !changed && !quantised {
            return (Input::Floats(x), 0);
        }
        if changed && normed.len() < m * k {
            normed.resize(m * k, 0.0);
        }
        if quantised {
            acts.reserve(m * parts, padded);
        }
        let kept = AtomicU64::new(0);
        let normed_rows = SharedRows::new(if changed { &mut normed[..m * k] } else { &mut [] });
        let quant_rows = quantised.then(|| acts.rows(m * parts, padded));
        self.each_row(k, &|row| {
            let mut x = &x[self.from.map_or(row, |from| from[row]) * k..][..k];
            if changed {
                // SAFETY: each row is one task's alone.
                let out = unsafe { normed_rows.part(row * k, k) };
                kept.fetch_add(self.change(row, x, out), Ordering::Relaxed);
                x = out;
            }
            let Some(rows) = &quant_rows else { return };
            // SAFETY: as above.
            let (q, blocks) = unsafe { rows.row(row * parts) };
            if parts == 1 {
                self.kernels.quantise_row(x, factors, values, q, blocks);
            } else {
                // SAFETY: as above.
                let (rest, rest_blocks) = unsafe { rows.row(row * parts + 1) };
                quantise_in_two(self.kernels, x, values, (q, blocks), (rest, rest_blocks));
            }
        });
        let floats = if changed { &normed[..m * k] } else { x };
        let input = if quantised { acts.input(m * parts, padded) } else { Input::Floats(floats) };
        (input, kept.into_inner())
    }

    /// Norm, factors and sparsity of a row; gives the channels kept.
    fn change(&self, row: usize, x: &[f32], out: &mut [f32]) -> u64 {
        match &self.args.norm {
            Some(norm) => self.kernels.norm_row(norm, x, out),
            None => out.copy_from_slice(x),
        }
        if let Some(factors) = self.args.factors {
            out.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
        }
        self.sparsity.map_or(0, |sparsity| sparsity.apply(self.kernels, row, out) as u64)
    }

    /// Calls `body` with each row, over the pool's threads where there is enough to do.
    fn each_row(&self, k: usize, body: &(dyn Fn(usize) + Sync)) {
        let rows = self.rows;
        if rows * k < PARALLEL_PROLOGUE {
            (0..rows).for_each(body);
            return;
        }
        let chunk = rows.div_ceil(self.pool.threads() * 2);
        self.pool.run(rows.div_ceil(chunk), &|task| {
            (task * chunk..rows.min((task + 1) * chunk)).for_each(body);
        });
    }
}

/// Quantises a row, and what its 8-bit form leaves over as a row of its own.
fn quantise_in_two(
    kernels: &Kernels,
    x: &[f32],
    values: Values,
    first: (&mut [i8], &mut [ActBlock]),
    second: (&mut [i8], &mut [ActBlock]),
) {
    kernels.quantise_row(x, None, values, first.0, first.1);
    let (columns, entries) = (values.block(), values.block() / QUANT_BLOCK);
    let quants = first.0.chunks_exact(columns).zip(second.0.chunks_exact_mut(columns));
    let blocks = first.1.chunks_exact(entries).zip(second.1.chunks_exact_mut(entries));
    for ((x, (q, rest)), (block, rest_block)) in x.chunks(columns).zip(quants).zip(blocks) {
        let mut left = [0.0; WIDE_BLOCK];
        for ((left, x), q) in left.iter_mut().zip(x).zip(q) {
            *left = x - block[0].scale * f32::from(*q);
        }
        kernels.quantise_row(&left[..columns], None, values, rest, rest_block);
    }
}
