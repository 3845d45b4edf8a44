//! A weighted sum of values, whose weights each row computes for itself.

use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::pool::Pool;
use limbeck_plan::{Mix, MixRule};

/// Most parts of a sum.
const MAX_PARTS: usize = 16;

/// The operands of [`mix`]; see [`limbeck_plan::Mix`] for the formula.
#[derive(Debug)]
pub struct MixArgs<'a> {
    /// What the op's step says.
    pub params: &'a Mix,
    /// `[T, parts]`.
    pub logits: &'a [f32],
    /// As many as the parameters say, each `[T, H]`.
    pub parts: &'a [&'a [f32]],
    /// `[T, H]`.
    pub residual: Option<&'a [f32]>,
    /// `[T, H]`.
    pub out: &'a mut [f32],
}

impl MixArgs<'_> {
    /// Checks the shapes; gives the columns, 0 when there are no rows.
    pub(crate) fn check(&self) -> Result<usize, Error> {
        let count = self.params.parts;
        if !(1..=MAX_PARTS).contains(&count) || self.parts.len() != count {
            return Err(Error::shape(format!("{count} weights for {} parts", self.parts.len())));
        }
        let rows = self.logits.len() / count;
        let cols = self.out.len().checked_div(rows).unwrap_or(0);
        check_len("the weights' logits", self.logits.len(), rows * count)?;
        check_len("the weighted sum", self.out.len(), rows.saturating_mul(cols))?;
        for part in self.parts.iter().copied().chain(self.residual) {
            check_len("a part of the sum", part.len(), self.out.len())?;
        }
        Ok(cols)
    }
}

/// Computes `out`; see [`MixArgs`].
///
/// # Errors
/// `Shape` when the operands do not fit each other.
pub fn mix(pool: &Pool, args: MixArgs<'_>) -> Result<(), Error> {
    let cols = args.check()?;
    if cols == 0 {
        return Ok(());
    }
    let (count, rule) = (args.params.parts, args.params.rule);
    let (logits, parts, residual) = (args.logits, args.parts, args.residual);
    SharedRows::new(args.out).for_each_chunk(pool, cols, |first, chunk| {
        for (row, out) in chunk.chunks_exact_mut(cols).enumerate() {
            let row = first / cols + row;
            let weights = weights(rule, &logits[row * count..][..count]);
            out.fill(0.0);
            for (weight, part) in weights.iter().zip(parts) {
                let part = &part[row * cols..][..cols];
                out.iter_mut().zip(part).for_each(|(out, v)| *out += weight * v);
            }
            if let Some(residual) = residual {
                out.iter_mut().zip(&residual[row * cols..]).for_each(|(out, r)| *out += r);
            }
        }
    });
    Ok(())
}

fn weights(rule: MixRule, logits: &[f32]) -> [f32; MAX_PARTS] {
    let mut weights = [0.0; MAX_PARTS];
    match rule {
        MixRule::Sigmoid => {
            weights.iter_mut().zip(logits).for_each(|(w, x)| *w = 1.0 / (1.0 + (-x).exp()));
        }
        MixRule::Softmax => {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            weights.iter_mut().zip(logits).for_each(|(w, x)| *w = (x - most).exp());
            let sum: f32 = weights[..logits.len()].iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
        }
    }
    weights
}
