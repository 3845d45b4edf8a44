//! Adaptive ops: the choice that a gate makes for each row, an MLP of which each row uses the
//! first learners that its choice says, a mixture of experts, and a weighted sum.
//!
//! Rows are sorted by choice (a stable counting sort). A learner's rows of `w1` then meet a suffix of
//! the rows, and each run of equal choices the first columns of `w2`, so that a row has the bits of
//! the dense MLP of its width and computes no more than that; each weight is read once for all runs
//! (`runs.rs`). Experts are sorted the same way, and each is two plain linears over its own rows of
//! both weights.

mod choose;
mod gains;
mod mix;
mod mlp;
mod moe;
mod route;
mod runs;

pub use choose::{ChooseArgs, choose};
pub(crate) use gains::{Gate, gains_row};
pub use mix::{MixArgs, mix};
pub use mlp::{AdaptiveMlpArgs, adaptive_mlp};
pub use moe::{MoeMlpArgs, MoeScratch, moe_mlp};

use crate::linear::LinearScratch;
use crate::packed::Packed;
use crate::{grow, vec_bytes};

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
    /// Learners that the rows before each one in this order use.
    before: Vec<usize>,
    /// `[T, H]` at most.
    hidden: Vec<f32>,
    /// `[learners + 1, M]`.
    biases: Vec<f32>,
}

impl AdaptiveScratch {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let floats = [&self.gains, &self.charges, &self.hidden, &self.biases];
        let indices = [&self.order, &self.ends, &self.before];
        self.linear.bytes()
            + floats.map(vec_bytes).iter().sum::<usize>()
            + indices.map(vec_bytes).iter().sum::<usize>()
    }

    /// Makes room for choices of up to `rows` rows by this gate, so that they do not allocate.
    pub fn reserve_gate(&mut self, rows: usize, gate: &Packed<'_>) {
        grow(&mut self.gains, rows.saturating_mul(gate.rows()));
        grow(&mut self.charges, gate.rows());
    }

    /// Makes room for MLPs of up to `rows` rows with these weights, so that they do not allocate.
    pub fn reserve_mlp(&mut self, rows: usize, w1: &Packed<'_>, w2: &Packed<'_>, learners: usize) {
        grow(&mut self.order, rows);
        grow(&mut self.ends, learners.saturating_add(1));
        grow(&mut self.hidden, rows.saturating_mul(w2.cols()));
        grow(&mut self.before, rows);
        grow(&mut self.biases, learners.saturating_add(1).saturating_mul(w2.rows()));
        let cols = w1.cols().max(w2.cols());
        if w1.format().values.is_quantised() {
            self.linear.reserve_acts(rows, cols);
        } else {
            self.linear.reserve(rows, cols);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_stably() {
        let (mut order, mut ends) = ([9; 6], [9; 4]);
        sort(&[3, 0, 3, 1, 0, 3], &mut order, &mut ends);
        assert_eq!((order, ends), ([1, 4, 3, 0, 2, 5], [2, 3, 3, 6]));
    }
}
