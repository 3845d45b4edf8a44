//! An MLP of which each row uses the first learners that its choice says.

use super::{AdaptiveScratch, sort};
use crate::error::{Error, check_len};
use crate::linear::{LinearArgs, Places, linear_of_rows};
use crate::packed::Packed;
use crate::pool::Pool;
use crate::table::Kernels;
use limbeck_plan::{Activation, QUANT_BLOCK};
use std::ops::Range;

/// The operands of [`adaptive_mlp`]. With `k` a row's choice and `B = H / learners`:
/// `y = act(x w1[:k B]^T + b1[:k B]) w2[:, :k B]^T + out_bias[k] + residual`.
#[derive(Debug)]
pub struct AdaptiveMlpArgs<'a> {
    /// `[T, K]`.
    pub x: &'a [f32],
    /// `[T]`, each in `0..=learners`.
    pub choice: &'a [i32],
    /// `[H, K]`, or `[2 H, K]` when `gated`.
    pub w1: Packed<'a>,
    /// As many as `w1` has rows.
    pub b1: Option<&'a [f32]>,
    /// `[M, H]`.
    pub w2: Packed<'a>,
    /// `[learners + 1, M]`.
    pub out_bias: Option<Packed<'a>>,
    /// `[T, M]`.
    pub residual: Option<&'a [f32]>,
    /// `H` is a multiple of 32 of these.
    pub learners: usize,
    /// Of the hidden units.
    pub activation: Activation,
    /// `w1` alternates 8 gate rows, 8 up rows.
    pub gated: bool,
    /// `[T, M]`.
    pub out: &'a mut [f32],
}

impl AdaptiveMlpArgs<'_> {
    /// Checks what the linears will not.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let (hidden, m) = (self.w2.cols(), self.w2.rows());
        if self.w1.rows() != hidden.saturating_mul(self.row_factor()) {
            let rows = self.w1.rows();
            return Err(Error::shape(format!("w1 has {rows} rows for {hidden} hidden units")));
        }
        if self.learners == 0 || !hidden.is_multiple_of(self.learners.saturating_mul(QUANT_BLOCK)) {
            let message = format!(
                "{hidden} hidden units are not {} learners of a multiple of {QUANT_BLOCK}",
                self.learners
            );
            return Err(Error::shape(message));
        }
        let rows = self.choice.len();
        check_len("the MLP's input", self.x.len(), rows.saturating_mul(self.w1.cols()))?;
        check_len("the MLP's result", self.out.len(), rows.saturating_mul(m))?;
        if let Some(b1) = self.b1 {
            check_len("b1", b1.len(), self.w1.rows())?;
        }
        if let Some(residual) = self.residual {
            check_len("the residual", residual.len(), self.out.len())?;
        }
        if let Some(bias) = &self.out_bias
            && (bias.rows(), bias.cols()) != (self.learners + 1, m)
        {
            let message = format!("out_bias is {} x {}", bias.rows(), bias.cols());
            return Err(Error::shape(message));
        }
        let known = |k: &i32| usize::try_from(*k).is_ok_and(|k| k <= self.learners);
        match self.choice.iter().position(|k| !known(k)) {
            None => Ok(()),
            Some(row) => {
                let (k, most) = (self.choice[row], self.learners);
                Err(Error::range(format!("row {row} chooses {k} of {most} learners")))
            }
        }
    }

    /// Rows of `w1` for a hidden unit.
    pub(crate) fn row_factor(&self) -> usize {
        if self.gated { 2 } else { 1 }
    }
}

/// Computes `out`; see [`AdaptiveMlpArgs`].
///
/// A row's bits are those of the dense MLP of its first `k B` units, whatever the other rows
/// choose.
///
/// # Errors
/// `Shape` when the operands do not fit each other, `Format` for weights in row layout, `Range`
/// for a choice outside `0..=learners`.
pub fn adaptive_mlp(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut AdaptiveScratch,
    args: AdaptiveMlpArgs<'_>,
) -> Result<(), Error> {
    args.check()?;
    let rows = args.choice.len();
    scratch.reserve_mlp(rows, &args.w1, &args.w2, args.learners);
    sort(args.choice, &mut scratch.order[..rows], &mut scratch.ends[..=args.learners]);
    let mut run = Run { kernels, pool, args, scratch };
    let mut start = 0;
    for choice in 0..=run.args.learners {
        let end = run.scratch.ends[choice];
        if start < end {
            run.compute(choice, start..end)?;
        }
        start = end;
    }
    Ok(())
}

struct Run<'a, 'b> {
    kernels: &'a Kernels,
    pool: &'a Pool,
    args: AdaptiveMlpArgs<'b>,
    scratch: &'a mut AdaptiveScratch,
}

impl Run<'_, '_> {
    /// The rows `order[range]`, which all chose `choice`.
    fn compute(&mut self, choice: usize, range: Range<usize>) -> Result<(), Error> {
        let Run { kernels, pool, args, scratch } = self;
        let AdaptiveScratch { linear: linears, order, hidden, bias, .. } = &mut **scratch;
        let (order, count) = (&order[range.clone()], range.len());
        let m = args.w2.rows();
        let bias = match &args.out_bias {
            Some(table) => {
                table.unpack_row(choice, &mut bias[..m])?;
                Some(&bias[..m])
            }
            None => None,
        };
        if choice == 0 {
            for row in order {
                let at = row * m..(row + 1) * m;
                let out = &mut args.out[at.clone()];
                match bias {
                    Some(bias) => out.copy_from_slice(bias),
                    None => out.fill(0.0),
                }
                if let Some(residual) = args.residual {
                    out.iter_mut().zip(&residual[at]).for_each(|(y, r)| *y += r);
                }
            }
            return Ok(());
        }
        let width = args.w2.cols() / args.learners * choice;
        let w1 = args.w1.first_rows(width * args.row_factor())?;
        let hidden = &mut hidden[..count * width];
        let up = LinearArgs {
            x: args.x,
            norm: None,
            w: w1,
            bias: args.b1.map(|b1| &b1[..w1.rows()]),
            activation: args.activation,
            gated: args.gated,
            precise: false,
            residual: None,
            out: hidden,
        };
        // SAFETY: rows are written in order.
        unsafe {
            let places = Places { from: Some(order), to: None };
            linear_of_rows(kernels, pool, linears, up, places)?;
        }
        let down = LinearArgs {
            x: hidden,
            norm: None,
            w: args.w2.first_cols(width)?,
            bias,
            activation: Activation::Identity,
            gated: false,
            precise: false,
            residual: args.residual,
            out: &mut *args.out,
        };
        // SAFETY: `order` is sorted from all rows, each of which it has once.
        unsafe {
            let places = Places { from: None, to: Some(order) };
            linear_of_rows(kernels, pool, linears, down, places)
        }
    }
}
