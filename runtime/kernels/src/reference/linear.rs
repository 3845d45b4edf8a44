//! The linear op.

use super::math;
use crate::error::Error;
use crate::isa::Portable;
use crate::linear::{ActBlock, LinearArgs, Sparsity, SparsityRead, quantise_row};
use limbeck_plan::{GATE_GROUP, QUANT_BLOCK, Values};

/// What the activations are when they meet a quantised weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// As given.
    Exact,
    /// Quantised to 8 bits per row and block of columns, as the kernels do.
    Quantised,
}

/// See [`crate::linear`].
///
/// # Errors
/// As there.
pub fn linear(args: LinearArgs<'_>, products: Products) -> Result<(), Error> {
    let (m, n_out) = args.check()?;
    let (n, k) = (args.w.rows(), args.w.cols());
    let mut x = changed(&args)?;
    let values = args.w.format().values;
    if products == Products::Quantised && values.is_quantised() {
        for x in x.chunks_exact_mut(k) {
            let mut rest = x.to_vec();
            round_to_8_bits(values, x);
            if args.precise {
                rest.iter_mut().zip(&*x).for_each(|(rest, x)| *rest -= x);
                round_to_8_bits(values, &mut rest);
                x.iter_mut().zip(rest).for_each(|(x, rest)| *x += rest);
            }
        }
    }
    let mut y = vec![0.0f64; m * n];
    let mut w = vec![0.0; k];
    for j in 0..n {
        args.w.unpack_row(j, &mut w)?;
        for i in 0..m {
            let x = &x[i * k..][..k];
            let dot: f64 = x.iter().zip(&w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            y[i * n + j] = dot + args.bias.map_or(0.0, |b| f64::from(b[j]));
        }
    }
    for i in 0..m {
        for j in 0..n_out {
            let value = if args.gated {
                let gate = i * n + j / GATE_GROUP * 2 * GATE_GROUP + j % GATE_GROUP;
                math::apply(args.activation, y[gate]) * y[gate + GATE_GROUP]
            } else {
                math::apply(args.activation, y[i * n + j])
            };
            let at = i * n_out + j;
            args.out[at] = (value + args.residual.map_or(0.0, |r| f64::from(r[at]))) as f32;
        }
    }
    Ok(())
}

/// See [`crate::sparse_linear`]: the channels left out are zeroed, then it is [`linear`].
///
/// # Errors
/// As there.
pub fn sparse_linear(
    args: LinearArgs<'_>,
    products: Products,
    sparsity: &Sparsity<'_>,
) -> Result<SparsityRead, Error> {
    let (m, _) = args.check()?;
    let k = args.w.cols();
    sparsity.check(m, k)?;
    let mut x = changed(&args)?;
    let mut read = SparsityRead { channels: 0, bytes: args.w.bytes().len() as u64 };
    for (x, choice) in x.chunks_exact_mut(k).zip(sparsity.choice) {
        let threshold = sparsity.thresholds[*choice as usize];
        for (x, weight) in x.iter_mut().zip(sparsity.weights) {
            if threshold > 0.0 && x.abs() * weight < threshold {
                *x = 0.0;
            } else {
                read.channels += 1;
            }
        }
    }
    linear(LinearArgs { x: &x, norm: None, factors: None, ..args }, products)?;
    Ok(read)
}

/// The rows after their norm and factors.
fn changed(args: &LinearArgs<'_>) -> Result<Vec<f32>, Error> {
    let mut x = args.x.to_vec();
    if let Some(norm) = &args.norm {
        super::norm(args.x, norm, &mut x)?;
    }
    if let Some(factors) = args.factors {
        for x in x.chunks_exact_mut(args.w.cols()) {
            x.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
        }
    }
    Ok(x)
}

/// Replaces a row by what its 8-bit form beside a weight of these values stands for.
pub(super) fn round_to_8_bits(values: Values, x: &mut [f32]) {
    let padded = x.len().next_multiple_of(values.block());
    let mut q = vec![0; padded];
    let mut blocks = vec![ActBlock::default(); padded / QUANT_BLOCK];
    quantise_row(Portable::TOKEN, x, None, values, &mut q, &mut blocks);
    for (i, x) in x.iter_mut().enumerate() {
        let block = i / values.block() * values.block() / QUANT_BLOCK;
        *x = blocks[block].scale * f32::from(q[i]);
    }
}
