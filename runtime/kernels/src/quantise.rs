//! Quantising weights: the values of the 8-bit and 4-bit formats, chosen to keep the squared
//! error of each block of 32 small, and rows of such values as they come from a checkpoint.

use crate::error::{Error, ErrorKind};
use half::f16;
use limbeck_plan::{QUANT_BLOCK, Values, WIDE_BLOCK};

/// Quantised rows in row-major order, in blocks of columns, the last block of a row padded.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantRows {
    /// One of the quantised formats.
    pub values: Values,
    /// Columns of a row.
    pub cols: usize,
    /// One value per element, `[rows, cols rounded up to whole blocks]`: 0..16 for `Q4` and `Q4m`.
    pub q: Vec<i8>,
    /// `[rows, blocks]`.
    pub scales: Vec<f16>,
    /// `[rows, blocks]` for `Q4m`, else empty.
    pub mins: Vec<f16>,
}

impl QuantRows {
    /// Number of rows; checks that the parts fit each other.
    pub(crate) fn check(&self) -> Result<usize, Error> {
        let stride = self.cols.next_multiple_of(self.values.block());
        let blocks = self.q.len() / self.values.block();
        let mins = if self.values == Values::Q4m { blocks } else { 0 };
        if !self.values.is_quantised()
            || self.cols == 0
            || !self.q.len().is_multiple_of(stride)
            || self.scales.len() != blocks
            || self.mins.len() != mins
        {
            return Err(Error::shape(format!(
                "{} values, {} scales and {} minima are not {} rows of {} columns",
                self.q.len(),
                self.scales.len(),
                self.mins.len(),
                self.values.name(),
                self.cols
            )));
        }
        if matches!(self.values, Values::Q4 | Values::Q4m)
            && self.q.iter().any(|q| !(0..16).contains(q))
        {
            return Err(Error::range("a 4-bit value is outside 0..16"));
        }
        Ok(self.q.len() / stride)
    }

    /// The value at row `row`, column `col`, both in range.
    ///
    /// # Panics
    /// When there is no such element.
    pub fn value(&self, row: usize, col: usize) -> f32 {
        let size = self.values.block();
        let block = row * self.cols.div_ceil(size) + col / size;
        let q = f32::from(self.q[block * size + col % size]);
        let scale = self.scales[block].to_f32();
        match self.values {
            Values::Q4 => scale * (q - 8.0),
            Values::Q4m => scale * q + self.mins[block].to_f32(),
            _ => scale * q,
        }
    }
}

/// Quantises `rows [n, cols]` to one of the quantised formats.
///
/// # Errors
/// `Shape` when `rows` is not whole rows, `Format` when `values` is not quantised, `Range` when a
/// value is not finite or too large for an f16 scale.
pub fn quantise_rows(values: Values, cols: usize, rows: &[f32]) -> Result<QuantRows, Error> {
    if cols == 0 || !rows.len().is_multiple_of(cols) {
        return Err(Error::shape(format!("{} values are not rows of {cols}", rows.len())));
    }
    match values {
        Values::Q8 => quantise_blocks(values, cols, rows, q8_block::<QUANT_BLOCK>),
        Values::Q8w => quantise_blocks(values, cols, rows, q8_block::<WIDE_BLOCK>),
        Values::Q4 => quantise_blocks(values, cols, rows, q4_block),
        Values::Q4m => quantise_blocks(values, cols, rows, q4m_block),
        _ => Err(Error::new(
            ErrorKind::Format,
            format!("{} is not a quantised format", values.name()),
        )),
    }
}

/// Quantises whole rows with the integers, scale and minimum that `choose` gives to a block.
fn quantise_blocks<const BLOCK: usize>(
    values: Values,
    cols: usize,
    rows: &[f32],
    choose: fn(&[f32; BLOCK], &mut [i8; BLOCK]) -> (f16, f16),
) -> Result<QuantRows, Error> {
    let blocks = rows.len() / cols * cols.div_ceil(BLOCK);
    let mut out = QuantRows {
        values,
        cols,
        q: Vec::with_capacity(blocks * BLOCK),
        scales: Vec::with_capacity(blocks),
        mins: Vec::new(),
    };
    for (r, row) in rows.chunks_exact(cols).enumerate() {
        for block in row.chunks(BLOCK) {
            let mut x = [0.0; BLOCK];
            // Padding repeats a value of the block so that it cannot widen the block's range.
            x.fill(block.first().copied().unwrap_or(0.0));
            x[..block.len()].copy_from_slice(block);
            let mut q = [0; BLOCK];
            let (scale, min) = choose(&x, &mut q);
            if !scale.is_finite() || !min.is_finite() || x.iter().any(|v| !v.is_finite()) {
                return Err(Error::range(format!(
                    "row {r} holds a value that {} cannot hold",
                    values.name()
                )));
            }
            out.q.extend_from_slice(&q);
            out.scales.push(scale);
            if values == Values::Q4m {
                out.mins.push(min);
            }
        }
    }
    Ok(out)
}

/// `round(x * inverse) + offset`, held within `low..=high`.
fn levels<const BLOCK: usize>(
    x: &[f32; BLOCK],
    inverse: f32,
    offset: f32,
    low: f32,
    high: f32,
) -> [f32; BLOCK] {
    x.map(|v| ((v * inverse).round_ties_even() + offset).max(low).min(high))
}

fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

fn q8_block<const BLOCK: usize>(x: &[f32; BLOCK], q: &mut [i8; BLOCK]) -> (f16, f16) {
    let largest = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let chosen = levels(x, inverse(scale.to_f32()), 0.0, -127.0, 127.0);
    *q = chosen.map(|v| v as i8);
    (scale, f16::ZERO)
}

/// Starts at the scale that maps the element of largest magnitude to -8 and tries scales around
/// it; each candidate's scale is refitted by least squares to the levels that it chose.
fn q4_block(x: &[f32; 32], q: &mut [i8; 32]) -> (f16, f16) {
    let extreme = x.iter().fold(0.0f32, |a, v| if v.abs() > a.abs() { *v } else { a });
    let (mut best, mut best_gain) = (extreme / -8.0, f32::NEG_INFINITY);
    for step in -10..=10 {
        let start = extreme / -(8.0 + 0.1 * step as f32);
        let chosen = levels(x, inverse(start), 0.0, -8.0, 7.0);
        let (mut xq, mut qq) = (0.0, 0.0);
        for (x, q) in x.iter().zip(chosen) {
            xq += x * q;
            qq += q * q;
        }
        // The squared error of the refitted scale xq / qq is sum(x^2) - xq^2 / qq.
        if qq > 0.0 && xq * xq / qq > best_gain {
            best_gain = xq * xq / qq;
            best = xq / qq;
        }
    }
    let scale = f16::from_f32(best);
    let chosen = levels(x, inverse(scale.to_f32()), 8.0, 0.0, 15.0);
    *q = chosen.map(|v| v as i8);
    (scale, f16::ZERO)
}

/// Starts at the full range of the block and tries narrower and wider ones; each candidate's
/// scale and minimum are refitted by least squares to the levels that it chose.
fn q4m_block(x: &[f32; 32], q: &mut [i8; 32]) -> (f16, f16) {
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mean = x.iter().sum::<f32>() / 32.0;
    let error = |scale: f32, min: f32| {
        let chosen = levels(&x.map(|v| v - min), inverse(scale), 0.0, 0.0, 15.0);
        let error: f32 = x.iter().zip(chosen).map(|(x, q)| (scale * q + min - x).powi(2)).sum();
        (error, chosen)
    };
    let (mut best, mut best_error) = (((high - low) / 15.0, low), f32::INFINITY);
    for step in -8..=8 {
        let start = (high - low) / (15.0 + 0.2 * step as f32);
        let base = (high + low) * 0.5 - start * 7.5;
        for base in [low, base] {
            let chosen = levels(&x.map(|v| v - base), inverse(start), 0.0, 0.0, 15.0);
            let q_mean = chosen.iter().sum::<f32>() / 32.0;
            let (mut xq, mut qq) = (0.0, 0.0);
            for (x, q) in x.iter().zip(chosen) {
                xq += (x - mean) * (q - q_mean);
                qq += (q - q_mean) * (q - q_mean);
            }
            if qq > 0.0 {
                let scale = f16::from_f32(xq / qq).to_f32();
                let min = f16::from_f32(mean - xq / qq * q_mean).to_f32();
                let (error, _) = error(scale, min);
                if error < best_error {
                    (best, best_error) = ((scale, min), error);
                }
            }
        }
    }
    let (scale, min) = (f16::from_f32(best.0), f16::from_f32(best.1));
    *q = error(scale.to_f32(), min.to_f32()).1.map(|v| v as i8);
    (scale, min)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Roughly normal values from a fixed linear congruential sequence.
    fn noise(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        (0..n)
            .map(|_| {
                (0..6)
                    .map(|_| {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
                    })
                    .sum()
            })
            .collect()
    }

    fn error(rows: &QuantRows, x: &[f32]) -> f64 {
        let (mut e, mut s) = (0.0, 0.0);
        for (i, x) in x.iter().enumerate() {
            e += (f64::from(*x) - f64::from(rows.value(i / rows.cols, i % rows.cols))).powi(2);
            s += f64::from(*x).powi(2);
        }
        (e / s).sqrt()
    }

    /// The scale alone, without a search: `extreme / -8`.
    fn plain_q4(x: &[f32]) -> f64 {
        let (mut e, mut s) = (0.0, 0.0);
        for block in x.chunks(32) {
            let extreme = block.iter().fold(0.0f32, |a, v| if v.abs() > a.abs() { *v } else { a });
            let d = extreme / -8.0;
            for v in block {
                let q = (v / d).round().clamp(-8.0, 7.0);
                e += f64::from(v - d * q).powi(2);
                s += f64::from(*v).powi(2);
            }
        }
        (e / s).sqrt()
    }

    #[test]
    fn errors_are_small_and_the_search_helps() {
        let x = noise(64 * 96);
        let q8 = error(&quantise_rows(Values::Q8, 96, &x).unwrap(), &x);
        let q8w = error(&quantise_rows(Values::Q8w, 96, &x).unwrap(), &x);
        let q4 = error(&quantise_rows(Values::Q4, 96, &x).unwrap(), &x);
        let q4m = error(&quantise_rows(Values::Q4m, 96, &x).unwrap(), &x);
        assert!(q8 < 0.008, "{q8}");
        assert!(q8 < q8w && q8w < 0.01, "{q8w}");
        assert!(q4 < 0.97 * plain_q4(&x), "{q4} against {}", plain_q4(&x));
        assert!(q4m < q4, "{q4m} against {q4}");
    }

    #[test]
    fn values_on_the_grid_are_kept() {
        let q4: Vec<f32> = (0..64).map(|i| 0.25 * ((i * 5 % 16) as f32 - 8.0)).collect();
        let q4m: Vec<f32> = (0..64).map(|i| 0.25 * (i * 5 % 16) as f32 + 3.0).collect();
        assert!(error(&quantise_rows(Values::Q4, 64, &q4).unwrap(), &q4) < 1e-3);
        assert!(error(&quantise_rows(Values::Q4m, 64, &q4m).unwrap(), &q4m) < 1e-3);
    }

    #[test]
    fn constant_and_zero_blocks() {
        for values in [Values::Q8, Values::Q8w, Values::Q4, Values::Q4m] {
            for v in [0.0, 1.5, -2.0, 1e-30] {
                let rows = quantise_rows(values, 40, &[v; 80]).unwrap();
                for c in 0..40 {
                    assert!(
                        (rows.value(1, c) - v).abs() <= 2e-3 * v.abs().max(1e-7),
                        "{values:?} {v}"
                    );
                }
            }
        }
        assert_eq!(quantise_rows(Values::F16, 1, &[0.0]).unwrap_err().kind(), ErrorKind::Format);
    }
}
