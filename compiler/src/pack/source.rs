//! Reading weight expressions from a checkpoint, any rows at a time.

use std::ops::Range;

use limbeck_graph::{BatchNorm, TensorExpr};
use limbeck_kernels::QuantRows;
use limbeck_plan::Values;

use crate::error::{Error, Result};
use crate::import::Checkpoint;
use crate::import::tensor::Tensor;

/// Appends the rows as f32, `[range.len(), cols]`.
pub(super) fn read_rows(
    expr: &TensorExpr,
    checkpoint: &dyn Checkpoint,
    range: Range<usize>,
    out: &mut Vec<f32>,
) -> Result<()> {
    match expr {
        TensorExpr::Tensor { name, cols, .. } => {
            let tensor = tensor(checkpoint, name)?;
            let stored = tensor.cols().max(1);
            if stored == *cols {
                return tensor.read_rows(range, out);
            }
            // Its values one after the other, in rows of another length.
            let (from, to) = (range.start * cols, range.end * cols);
            let rows = from / stored..to.div_ceil(stored);
            let (start, skipped) = (out.len(), from - rows.start * stored);
            tensor.read_rows(rows, out)?;
            out.drain(start..start + skipped);
            out.truncate(start + to - from);
            Ok(())
        }
        TensorExpr::ConcatRows(parts) => split_rows(parts, range)
            .into_iter()
            .try_for_each(|(part, rows)| read_rows(part, checkpoint, rows, out)),
        TensorExpr::ConcatCols(parts) => {
            parts.iter().try_for_each(|part| read_rows(part, checkpoint, range.clone(), out))
        }
        TensorExpr::InterleaveRows { first, second, group } => interleaved(range, *group)
            .try_for_each(|(is_second, rows)| {
                let part = if is_second { second } else { first };
                read_rows(part, checkpoint, rows, out)
            }),
        TensorExpr::InterleaveCols { first, second, group } => {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            read_rows(first, checkpoint, range.clone(), &mut a)?;
            read_rows(second, checkpoint, range, &mut b)?;
            for (a, b) in a.chunks(*group).zip(b.chunks(*group)) {
                out.extend_from_slice(a);
                out.extend_from_slice(b);
            }
            Ok(())
        }
        TensorExpr::AddRow { base, row, index } => {
            let mut added = Vec::new();
            read_rows(row, checkpoint, *index..*index + 1, &mut added)?;
            let start = out.len();
            read_rows(base, checkpoint, range, out)?;
            for values in out[start..].chunks_exact_mut(added.len().max(1)) {
                values.iter_mut().zip(&added).for_each(|(v, a)| *v += a);
            }
            Ok(())
        }
        TensorExpr::Transpose(base) => {
            let (rows, start) = (base.rows(), out.len());
            out.resize(start + range.len() * rows, 0.0);
            let mut row = Vec::new();
            for r in 0..rows {
                row.clear();
                read_rows(base, checkpoint, r..r + 1, &mut row)?;
                let column = out[start..].iter_mut().skip(r).step_by(rows.max(1));
                column.zip(row.iter().skip(range.start)).for_each(|(out, v)| *out = *v);
            }
            Ok(())
        }
        TensorExpr::Rows { base, first, .. } => {
            read_rows(base, checkpoint, range.start + first..range.end + first, out)
        }
        TensorExpr::SumRows(base) => {
            let mut sum = vec![0.0; base.cols()];
            let mut row = Vec::new();
            for r in 0..range.end {
                row.clear();
                read_rows(base, checkpoint, r..r + 1, &mut row)?;
                sum.iter_mut().zip(&row).for_each(|(sum, v)| *sum += v);
                if r >= range.start {
                    out.extend_from_slice(&sum);
                }
            }
            Ok(())
        }
        TensorExpr::Folded { layers, bias } => {
            let (weight, sum) = folded(layers, checkpoint)?;
            let cols = expr.cols();
            let values = if *bias { sum } else { weight };
            let found = values.get(range.start * cols..range.end * cols).unwrap_or_default();
            out.extend(found.iter().map(|v| *v as f32));
            Ok(())
        }
        TensorExpr::TransposeEach { base, rows } => {
            let (cols, start) = (base.cols(), out.len());
            read_rows(base, checkpoint, range, out)?;
            let mut before = vec![0.0; cols];
            for row in out[start..].chunks_exact_mut(cols.max(1)) {
                before.copy_from_slice(row);
                let columns = cols / (*rows).max(1);
                for (at, to) in row.iter_mut().enumerate() {
                    *to = before[at % rows * columns + at / rows];
                }
            }
            Ok(())
        }
        TensorExpr::Normalised { base, norm, bias } => {
            let (factors, biases) = affine(norm, checkpoint)?;
            if *bias {
                out.extend(biases.iter().map(|b| *b as f32));
                return Ok(());
            }
            let start = out.len();
            read_rows(base, checkpoint, range.clone(), out)?;
            let rows = out[start..].chunks_exact_mut(base.cols().max(1));
            for (row, factor) in rows.zip(factors.iter().skip(range.start)) {
                row.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
            }
            Ok(())
        }
        TensorExpr::Equalised { base, by, factors } => {
            let found = equalising(by, checkpoint)?;
            if *factors {
                out.extend(found);
                return Ok(());
            }
            let start = out.len();
            read_rows(base, checkpoint, range, out)?;
            for row in out[start..].chunks_exact_mut(found.len().max(1)) {
                row.iter_mut().zip(&found).for_each(|(v, factor)| *v /= factor);
            }
            Ok(())
        }
        TensorExpr::Inline { values, .. } => {
            let cols = expr.cols();
            out.extend(values.get(range.start * cols..range.end * cols).unwrap_or_default());
            Ok(())
        }
    }
}

/// The factors of [`TensorExpr::Equalised`], by the columns of `by`.
fn equalising(by: &TensorExpr, checkpoint: &dyn Checkpoint) -> Result<Vec<f32>> {
    let mut squares = vec![0.0f64; by.cols()];
    let mut row = Vec::new();
    for r in 0..by.rows() {
        row.clear();
        read_rows(by, checkpoint, r..r + 1, &mut row)?;
        squares.iter_mut().zip(&row).for_each(|(sum, v)| *sum += f64::from(*v).powi(2));
    }
    let factor = |sum: &f64| (sum / by.rows() as f64).sqrt().powf(0.75) as f32;
    let factors = squares.iter().map(factor);
    Ok(factors.map(|f| if f.is_normal() { f } else { 1.0 }).collect())
}

/// A batch norm as a factor and a term of each channel.
fn affine(norm: &BatchNorm, checkpoint: &dyn Checkpoint) -> Result<(Vec<f64>, Vec<f64>)> {
    let read = |expr: &TensorExpr| -> Result<Vec<f32>> {
        let mut values = Vec::new();
        read_rows(expr, checkpoint, 0..1, &mut values)?;
        Ok(values)
    };
    let (gamma, beta) = (read(&norm.gamma)?, read(&norm.beta)?);
    let (mean, variance) = (read(&norm.mean)?, read(&norm.variance)?);
    let factors: Vec<f64> = gamma
        .iter()
        .zip(&variance)
        .map(|(g, v)| f64::from(*g) / (f64::from(*v) + norm.eps).sqrt())
        .collect();
    let moved = beta.iter().zip(mean.iter().zip(&factors));
    let biases = moved.map(|(b, (m, f))| f64::from(*b) - f64::from(*m) * f).collect();
    Ok((factors, biases))
}

/// The weight and the bias of affine maps that apply one on the other, computed in f64.
fn folded(
    layers: &[(TensorExpr, TensorExpr)],
    checkpoint: &dyn Checkpoint,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let read = |expr: &TensorExpr| -> Result<Vec<f64>> {
        let mut values = Vec::new();
        read_rows(expr, checkpoint, 0..expr.rows(), &mut values)?;
        Ok(values.into_iter().map(f64::from).collect())
    };
    let Some(((weight, bias), rest)) = layers.split_first() else {
        return Err(Error::mismatch("nothing to fold"));
    };
    let cols = weight.cols();
    let (mut product, mut sum) = (read(weight)?, read(bias)?);
    for (weight, bias) in rest {
        let (rows, inner) = (read(weight)?, weight.cols().max(1));
        let mut next = vec![0.0; weight.rows() * cols];
        let mut next_sum = read(bias)?;
        for (r, row) in rows.chunks_exact(inner).enumerate() {
            for ((factor, from), added) in row.iter().zip(product.chunks_exact(cols)).zip(&sum) {
                let to = next.iter_mut().skip(r * cols).take(cols);
                to.zip(from).for_each(|(to, v)| *to += factor * v);
                next_sum.iter_mut().skip(r).take(1).for_each(|s| *s += factor * added);
            }
        }
        (product, sum) = (next, next_sum);
    }
    Ok((product, sum))
}

/// The quantised values that every part of the expression is stored in, if they are the same.
pub(super) fn quant_values(expr: &TensorExpr, checkpoint: &dyn Checkpoint) -> Option<Values> {
    match expr {
        TensorExpr::Tensor { name, cols, .. } => {
            let tensor = checkpoint.tensor(name)?;
            if tensor.cols() == *cols { tensor.quant_values() } else { None }
        }
        TensorExpr::ConcatRows(parts) => {
            let mut values = parts.iter().map(|p| quant_values(p, checkpoint));
            let first = values.next()??;
            values.all(|v| v == Some(first)).then_some(first)
        }
        TensorExpr::InterleaveRows { first, second, .. } => {
            let values = quant_values(first, checkpoint)?;
            (quant_values(second, checkpoint) == Some(values)).then_some(values)
        }
        TensorExpr::Rows { base, .. } => quant_values(base, checkpoint),
        _ => None,
    }
}

/// The rows as the checkpoint's own quantised values; see [`quant_values`].
pub(super) fn read_quant_rows(
    expr: &TensorExpr,
    checkpoint: &dyn Checkpoint,
    range: Range<usize>,
) -> Result<QuantRows> {
    let parts: Vec<QuantRows> = match expr {
        TensorExpr::Tensor { name, .. } => {
            let rows = tensor(checkpoint, name)?.quant_rows(range);
            return rows.ok_or_else(|| Error::mismatch(format!("tensor {name} is not quantised")));
        }
        TensorExpr::Rows { base, first, .. } => {
            let range = first + range.start..first + range.end;
            return read_quant_rows(base, checkpoint, range);
        }
        TensorExpr::ConcatRows(parts) => split_rows(parts, range)
            .into_iter()
            .map(|(part, rows)| read_quant_rows(part, checkpoint, rows))
            .collect::<Result<_>>()?,
        TensorExpr::InterleaveRows { first, second, group } => interleaved(range, *group)
            .map(|(is_second, rows)| {
                let part = if is_second { second } else { first };
                read_quant_rows(part, checkpoint, rows)
            })
            .collect::<Result<_>>()?,
        _ => return Err(Error::mismatch(format!("{} is not quantised", expr.name()))),
    };
    let mut parts = parts.into_iter();
    let mut all =
        parts.next().ok_or_else(|| Error::mismatch(format!("{} has no rows", expr.name())))?;
    for part in parts {
        all.q.extend(part.q);
        all.scales.extend(part.scales);
        all.mins.extend(part.mins);
    }
    Ok(all)
}

fn tensor<'a>(checkpoint: &'a dyn Checkpoint, name: &str) -> Result<Tensor<'a>> {
    checkpoint.tensor(name).ok_or_else(|| Error::missing(format!("tensor {name} is missing")))
}

/// The parts that a range of the concatenation touches, each with its own rows.
fn split_rows(parts: &[TensorExpr], range: Range<usize>) -> Vec<(&TensorExpr, Range<usize>)> {
    let mut start = 0;
    let mut found = Vec::new();
    for part in parts {
        let end = start + part.rows();
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to {
            found.push((part, from - start..to - start));
        }
        start = end;
    }
    found
}

/// The runs of an interleaving that a range touches: whether they are the second part's, and that
/// part's rows.
fn interleaved(range: Range<usize>, group: usize) -> impl Iterator<Item = (bool, Range<usize>)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let number = at / group;
        let end = ((number + 1) * group).min(range.end);
        let base = (number / 2) * group;
        let rows = base + at % group..base + at % group + (end - at);
        at = end;
        Some((number % 2 == 1, rows))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interleaving_alternates_whole_groups() {
        let runs: Vec<_> = interleaved(4..28, 8).collect();
        let expected = [(false, 4..8), (true, 0..8), (false, 8..16), (true, 8..12)];
        assert_eq!(runs, expected);
    }
}
