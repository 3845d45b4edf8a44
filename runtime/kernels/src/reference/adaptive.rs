//! The adaptive ops, row by row.

use super::linear::{Products, linear};
use crate::adaptive::{AdaptiveMlpArgs, ChooseArgs};
use crate::error::Error;
use crate::linear::LinearArgs;
use limbeck_plan::{Activation, GateTransform};

/// See [`crate::choose`].
///
/// # Errors
/// As there.
pub fn choose(args: ChooseArgs<'_>) -> Result<(), Error> {
    args.check()?;
    let count = args.gate.rows();
    let (cols, mut weight) = (args.gate.cols(), vec![0.0; args.gate.cols()]);
    let mut gains = vec![0.0; args.out.len() * count];
    for k in 0..count {
        args.gate.unpack_row(k, &mut weight)?;
        for (gains, x) in gains.chunks_exact_mut(count).zip(args.x.chunks_exact(cols)) {
            let dot: f64 = x.iter().zip(&weight).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            gains[k] = (dot + f64::from(args.bias[k])) as f32;
        }
    }
    for (row, gains) in gains.chunks_exact(count).enumerate() {
        let values = gains.iter().zip(args.costs).map(|(gain, cost)| {
            let gain = match args.transform {
                GateTransform::Identity => *gain,
                GateTransform::NegExp2 => -(2.0 * f64::from(*gain)).exp() as f32,
            };
            gain - args.charge(*cost)
        });
        let values: Vec<f32> = values.collect();
        let largest = values.iter().copied().fold(f32::NAN, f32::max);
        let found = values.iter().position(|v| *v == largest).unwrap_or(count - 1);
        args.out[row] = (args.first + found) as i32;
    }
    Ok(())
}

/// See [`crate::adaptive_mlp`].
///
/// # Errors
/// As there.
pub fn adaptive_mlp(args: AdaptiveMlpArgs<'_>, products: Products) -> Result<(), Error> {
    args.check()?;
    let (cols, m) = (args.w1.cols(), args.w2.rows());
    for (row, choice) in args.choice.iter().enumerate() {
        let choice = *choice as usize;
        let at = row * m..(row + 1) * m;
        let mut y = vec![0.0f64; m];
        if let Some(table) = &args.out_bias {
            let mut bias = vec![0.0; m];
            table.unpack_row(choice, &mut bias)?;
            y = bias.into_iter().map(f64::from).collect();
        }
        if choice > 0 {
            let units = args.w2.cols() / args.learners * choice;
            let mut hidden = vec![0.0; units];
            let w1 = args.w1.first_rows(units * args.row_factor())?;
            let up = LinearArgs {
                x: &args.x[row * cols..][..cols],
                norm: None,
                factors: None,
                w: w1,
                bias: args.b1.map(|b1| &b1[..w1.rows()]),
                activation: args.activation,
                gated: args.gated,
                precise: false,
                residual: None,
                out: &mut hidden,
            };
            linear(up, products)?;
            let mut down = vec![0.0; m];
            let args = LinearArgs {
                x: &hidden,
                norm: None,
                factors: None,
                w: args.w2.first_cols(units)?,
                bias: None,
                activation: Activation::Identity,
                gated: false,
                precise: false,
                residual: None,
                out: &mut down,
            };
            linear(args, products)?;
            y.iter_mut().zip(down).for_each(|(y, v)| *y += f64::from(v));
        }
        if let Some(residual) = args.residual {
            y.iter_mut().zip(&residual[at.clone()]).for_each(|(y, r)| *y += f64::from(*r));
        }
        args.out[at].iter_mut().zip(y).for_each(|(out, y)| *out = y as f32);
    }
    Ok(())
}
