//! An MLP of which each row uses the first learners that its choice says.

use super::AdaptiveScratch;
use super::runs::Runs;
use crate::error::{Error, ErrorKind, check_len};
use crate::linear::LinearArgs;
use crate::packed::Packed;
use crate::pool::Pool;
use crate::table::Kernels;
use limbeck_plan::{Activation, Layout};

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
        let block = self.w2.format().values.block();
        if self.learners == 0 || !hidden.is_multiple_of(self.learners.saturating_mul(block)) {
            let message = format!(
                "{hidden} hidden units are not {} learners of a multiple of {block}",
                self.learners
            );
            return Err(Error::shape(message));
        }
        let (w1, w2) = (self.w1.format(), self.w2.format());
        if [w1, w2].iter().any(|f| f.layout == Layout::Row || f.by_channel()) {
            let message = format!("an adaptive MLP cannot read weights in {w1} and {w2}");
            return Err(Error::new(ErrorKind::Format, message));
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
/// `Shape` when the operands do not fit each other, `Format` for weights in rows or channels,
/// `Range` for a choice outside `0..=learners`.
pub fn adaptive_mlp(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut AdaptiveScratch,
    args: AdaptiveMlpArgs<'_>,
) -> Result<(), Error> {
    args.check()?;
    let (rows, m) = (args.choice.len(), args.w2.rows());
    let learner = args.w2.cols() / args.learners;
    scratch.reserve_mlp(rows, &args.w1, &args.w2, args.learners);
    let AdaptiveScratch { linear: linears, order, ends, before, hidden, biases, .. } = scratch;
    let (order, ends) = (&mut order[..rows], &mut ends[..=args.learners]);
    let (runs, idle) = Runs::new(args.choice, order, ends, before);
    let biases = match &args.out_bias {
        Some(table) => {
            for choice in runs.choices().chain((!idle.is_empty()).then_some(0)) {
                table.unpack_row(choice, &mut biases[choice * m..][..m])?;
            }
            Some(&*biases)
        }
        None => None,
    };
    let hidden = &mut hidden[..runs.used() * learner];
    let up = LinearArgs {
        x: args.x,
        norm: None,
        factors: None,
        w: args.w1,
        bias: args.b1,
        activation: args.activation,
        gated: args.gated,
        precise: false,
        residual: None,
        out: hidden,
    };
    runs.up(kernels, pool, linears, up)?;
    let down = LinearArgs {
        x: hidden,
        norm: None,
        factors: None,
        w: args.w2.first_cols(learner * runs.together())?,
        bias: None,
        activation: Activation::Identity,
        gated: false,
        precise: false,
        residual: args.residual,
        out: &mut *args.out,
    };
    runs.down(kernels, pool, linears, down, biases.map(Vec::as_slice))?;
    for row in idle {
        let at = row * m..(row + 1) * m;
        let out = &mut args.out[at.clone()];
        match biases {
            Some(biases) => out.copy_from_slice(&biases[..m]),
            None => out.fill(0.0),
        }
        if let Some(residual) = args.residual {
            out.iter_mut().zip(&residual[at]).for_each(|(y, r)| *y += r);
        }
    }
    Ok(())
}
