//! Adaptive ops: the choice that a gate makes for each row, and an MLP of which each row uses the
//! first learners that its choice says.
//!
//! Rows are sorted by choice (a stable counting sort), and each run of equal choices is two plain
//! linears: over the first rows of `w1` and the first columns of `w2`. So a row has the bits of
//! the dense MLP of its width, and reads no more of the weights than that.

use crate::error::{Error, check_len};
use crate::linear::{LinearArgs, LinearScratch, linear};
use crate::packed::Packed;
use crate::pool::Pool;
use crate::table::Kernels;
use limbeck_plan::{Activation, GateTransform, QUANT_BLOCK};
use std::ops::Range;

/// The operands of [`choose`].
#[derive(Debug)]
pub struct ChooseArgs<'a> {
    /// `[T, K]`.
    pub x: &'a [f32],
    /// `[C, K]` in panels or quads.
    pub gate: Packed<'a>,
    /// `[C]`.
    pub bias: &'a [f32],
    /// Applied to the gate's outputs.
    pub transform: GateTransform,
    /// The choice that the gate's first row stands for.
    pub first: usize,
    /// `[C]`: relative costs.
    pub costs: &'a [f64],
    /// The costs are multiplied by the site's weight and the price of compute, once per call.
    pub weight: f64,
    /// At least 0.
    pub price: f32,
    /// `[T]`.
    pub out: &'a mut [i32],
}

impl ChooseArgs<'_> {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let (count, k) = (self.gate.rows(), self.gate.cols());
        check_len("the site's costs", self.costs.len(), count)?;
        check_len("the gate's input", self.x.len(), self.out.len().saturating_mul(k))?;
        if i32::try_from(self.first.saturating_add(count)).is_err() {
            return Err(Error::range(format!("a first choice of {} is too large", self.first)));
        }
        Ok(())
    }

    /// The linear that gives the gains before their transform.
    pub(crate) fn linear<'a>(&'a self, gains: &'a mut [f32]) -> LinearArgs<'a> {
        LinearArgs {
            x: self.x,
            norm: None,
            w: self.gate,
            bias: Some(self.bias),
            activation: Activation::Identity,
            gated: false,
            precise: false,
            residual: None,
            out: gains,
        }
    }

    pub(crate) fn charge(&self, cost: f64) -> f32 {
        (f64::from(self.price) * self.weight * cost) as f32
    }
}

/// The index of the largest `gain - charge`, the smaller one of equals. NaN never wins; where all
/// are NaN it is the last index.
pub(crate) fn best(gains: &[f32], charges: &[f32], transform: GateTransform) -> usize {
    let mut best: Option<(usize, f32)> = None;
    for (k, (gain, charge)) in gains.iter().zip(charges).enumerate() {
        let gain = match transform {
            GateTransform::Identity => *gain,
            GateTransform::NegExp2 => -(2.0 * gain).exp(),
        };
        let value = gain - charge;
        if !value.is_nan() && best.is_none_or(|(_, most)| value > most) {
            best = Some((k, value));
        }
    }
    best.map_or(gains.len().saturating_sub(1), |(k, _)| k)
}

/// Chooses for each row; see [`limbeck_plan::Choose`] for the rule.
///
/// # Errors
/// `Shape` when the operands do not fit each other, `Format` for a gate in row layout, `Range`
/// for choices beyond i32.
pub fn choose(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut AdaptiveScratch,
    args: ChooseArgs<'_>,
) -> Result<(), Error> {
    args.check()?;
    let (rows, count) = (args.out.len(), args.gate.rows());
    scratch.reserve_gate(rows, &args.gate);
    let AdaptiveScratch { linear: linears, gains, charges, .. } = scratch;
    let gains = &mut gains[..rows * count];
    linear(kernels, pool, linears, args.linear(gains))?;
    let charges = &mut charges[..count];
    for (charge, cost) in charges.iter_mut().zip(args.costs) {
        *charge = args.charge(*cost);
    }
    for (out, gains) in args.out.iter_mut().zip(gains.chunks_exact(count)) {
        *out = (args.first + best(gains, charges, args.transform)) as i32;
    }
    Ok(())
}

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

/// Memory that [`choose`] and [`adaptive_mlp`] work in; grows to the largest call and is then
/// reused.
#[derive(Debug, Default)]
pub struct AdaptiveScratch {
    linear: LinearScratch,
    /// `[T, C]`.
    gains: Vec<f32>,
    /// `[C]`.
    charges: Vec<f32>,
    /// Rows by choice, and where each choice's rows end.
    order: Vec<usize>,
    ends: Vec<usize>,
    /// A run's `[rows, K]`, `[rows, H]` and `[rows, M]`.
    x: Vec<f32>,
    hidden: Vec<f32>,
    y: Vec<f32>,
    /// `[M]`.
    bias: Vec<f32>,
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

impl AdaptiveScratch {
    /// Makes room for choices of up to `rows` rows by this gate, so that they do not allocate.
    pub fn reserve_gate(&mut self, rows: usize, gate: &Packed<'_>) {
        grow(&mut self.gains, rows.saturating_mul(gate.rows()));
        grow(&mut self.charges, gate.rows());
        self.linear.reserve_acts(rows, gate.cols());
    }

    /// Makes room for MLPs of up to `rows` rows with these weights, so that they do not allocate.
    pub fn reserve_mlp(&mut self, rows: usize, w1: &Packed<'_>, w2: &Packed<'_>, learners: usize) {
        grow(&mut self.order, rows);
        grow(&mut self.ends, learners.saturating_add(1));
        grow(&mut self.hidden, rows.saturating_mul(w2.cols()));
        grow(&mut self.bias, w2.rows());
        // One row is read and written where it is.
        if rows > 1 {
            grow(&mut self.x, rows.saturating_mul(w1.cols()));
            grow(&mut self.y, rows.saturating_mul(w2.rows()));
        }
        self.linear.reserve_acts(rows, w1.cols().max(w2.cols()));
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

/// Writes the rows in the order of their choices, equal ones as they come, and where the rows of
/// each choice end. The choices are within `0..ends.len()`.
fn sort(choice: &[i32], order: &mut [usize], ends: &mut [usize]) {
    ends.fill(0);
    choice.iter().for_each(|k| ends[*k as usize] += 1);
    let mut start = 0;
    for end in ends.iter_mut() {
        (*end, start) = (start, start + *end);
    }
    for (row, k) in choice.iter().enumerate() {
        order[ends[*k as usize]] = row;
        ends[*k as usize] += 1;
    }
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
        let AdaptiveScratch { linear: linears, order, x, hidden, y, bias, .. } = &mut **scratch;
        let (order, count) = (&order[range.clone()], range.len());
        let (cols, m) = (args.w1.cols(), args.w2.rows());
        let bias = match &args.out_bias {
            Some(table) => {
                table.unpack_row(choice, &mut bias[..m])?;
                Some(&bias[..m])
            }
            None => None,
        };
        let first = order.first().copied().unwrap_or_default();
        let together = order.last().is_none_or(|last| last - first + 1 == count);
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
        let x = if together {
            &args.x[first * cols..][..count * cols]
        } else {
            let x = &mut x[..count * cols];
            for (x, row) in x.chunks_exact_mut(cols).zip(order) {
                x.copy_from_slice(&args.x[row * cols..][..cols]);
            }
            x
        };
        let width = args.w2.cols() / args.learners * choice;
        let w1 = args.w1.first_rows(width * args.row_factor())?;
        let hidden = &mut hidden[..count * width];
        let up = LinearArgs {
            x,
            norm: None,
            w: w1,
            bias: args.b1.map(|b1| &b1[..w1.rows()]),
            activation: args.activation,
            gated: args.gated,
            precise: false,
            residual: None,
            out: hidden,
        };
        linear(kernels, pool, linears, up)?;
        let down = LinearArgs {
            x: hidden,
            norm: None,
            w: args.w2.first_cols(width)?,
            bias,
            activation: Activation::Identity,
            gated: false,
            precise: false,
            residual: None,
            out: &mut [],
        };
        if together {
            let at = first * m..(first + count) * m;
            let residual = args.residual.map(|r| &r[at.clone()]);
            let down = LinearArgs { residual, out: &mut args.out[at.clone()], ..down };
            return linear(kernels, pool, linears, down);
        }
        let y = &mut y[..count * m];
        linear(kernels, pool, linears, LinearArgs { out: y, ..down })?;
        for (y, row) in y.chunks_exact(m).zip(order) {
            let at = row * m..(row + 1) * m;
            let out = &mut args.out[at.clone()];
            match args.residual {
                Some(residual) => {
                    let sums = out.iter_mut().zip(y).zip(&residual[at]);
                    sums.for_each(|((out, y), r)| *out = y + r);
                }
                None => out.copy_from_slice(y),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_gain_less_its_charge_wins() {
        let identity =
            |gains: &[f32], charges: &[f32]| best(gains, charges, GateTransform::Identity);
        assert_eq!(identity(&[1.0, 3.0, 2.0], &[0.0; 3]), 1);
        assert_eq!(identity(&[1.0, 3.0, 2.0], &[0.0, 2.5, 0.5]), 2);
        // Ties go to the smaller one, NaN never wins, and without any number it is the largest.
        assert_eq!(identity(&[2.0, 2.0, 2.0], &[0.0; 3]), 0);
        assert_eq!(identity(&[f32::NAN, 1.0, f32::NAN], &[0.0; 3]), 1);
        assert_eq!(identity(&[f32::NEG_INFINITY, f32::NAN, f32::NAN], &[0.0; 3]), 0);
        assert_eq!(identity(&[f32::NAN; 3], &[0.0; 3]), 2);
        // exp(0) = 1, exp(-2) = 0.135: a step of -1 gains 0.865.
        let falling = |price: f32| best(&[0.0, -1.0], &[0.0, price], GateTransform::NegExp2);
        assert_eq!((falling(0.86), falling(0.87)), (1, 0));
    }

    #[test]
    fn rows_are_sorted_stably() {
        let (mut order, mut ends) = ([9; 6], [9; 4]);
        sort(&[3, 0, 3, 1, 0, 3], &mut order, &mut ends);
        assert_eq!((order, ends), ([1, 4, 3, 0, 2, 5], [2, 3, 3, 6]));
    }
}
