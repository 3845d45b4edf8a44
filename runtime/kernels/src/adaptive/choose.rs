//! The choice that a gate makes for each row.

use super::AdaptiveScratch;
use super::gains::{Gate, gains};
use crate::error::{Error, ErrorKind, check_len};
use crate::packed::Packed;
use crate::pool::Pool;
use crate::table::Kernels;
use limbeck_plan::{GateTransform, PackFormat};

/// The operands of [`choose`].
#[derive(Debug)]
pub struct ChooseArgs<'a> {
    /// `[T, K]`.
    pub x: &'a [f32],
    /// `[C, K]` in f32 rows.
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
        self.gate().map(|_| ())
    }

    /// The gate, when everything fits.
    fn gate(&self) -> Result<Gate<'_>, Error> {
        let (count, k) = (self.gate.rows(), self.gate.cols());
        check_len("the site's costs", self.costs.len(), count)?;
        check_len("the gate's bias", self.bias.len(), count)?;
        check_len("the gate's input", self.x.len(), self.out.len().saturating_mul(k))?;
        if i32::try_from(self.first.saturating_add(count)).is_err() {
            return Err(Error::range(format!("a first choice of {} is too large", self.first)));
        }
        let gate = Gate::new(self.gate.bytes(), self.bias, k);
        gate.filter(|_| self.gate.format() == PackFormat::F32_ROW).ok_or_else(|| {
            let format = self.gate.format();
            Error::new(ErrorKind::Format, format!("a gate cannot be a weight in {format}"))
        })
    }

    pub(crate) fn charge(&self, cost: f64) -> f32 {
        // A price beyond all numbers still leaves what costs nothing free.
        ((f64::from(self.price) * self.weight).min(f64::MAX) * cost) as f32
    }
}

/// The index of the largest `gain - charge`, the smaller one of equals. NaN never wins; where all
/// are NaN it is the last index.
fn best(gains: &[f32], charges: &[f32], transform: GateTransform) -> usize {
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
/// `Shape` when the operands do not fit each other, `Format` for a gate that is not in f32 rows,
/// `Range` for choices beyond i32.
pub fn choose(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut AdaptiveScratch,
    args: ChooseArgs<'_>,
) -> Result<(), Error> {
    let gate = args.gate()?;
    let (rows, count) = (args.out.len(), args.gate.rows());
    scratch.reserve_gate(rows, &args.gate);
    let found = &mut scratch.gains[..rows * count];
    gains(kernels, pool, args.x, gate, found);
    let charges = &mut scratch.charges[..count];
    for (charge, cost) in charges.iter_mut().zip(args.costs) {
        *charge = args.charge(*cost);
    }
    for (out, gains) in args.out.iter_mut().zip(found.chunks_exact(count)) {
        *out = (args.first + best(gains, charges, args.transform)) as i32;
    }
    Ok(())
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
}
