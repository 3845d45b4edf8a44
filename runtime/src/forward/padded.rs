//! Batches of sequences of one length with a mask. Rows may be masked anywhere; a row's valid tokens
//! are computed first, its padding after them, each with its own position.

use super::tensor::{Tensor, TensorView};
use crate::embed::{Encoder, EncoderInput};
use crate::error::Result;
use crate::usage::Usage;

/// A batch `[batch, tokens]`.
pub(super) struct Padded {
    batch: usize,
    tokens: usize,
    rows: Vec<Row>,
}

/// One sequence, its valid tokens first.
struct Row {
    /// Where each token was.
    order: Vec<usize>,
    ids: Vec<u32>,
    positions: Vec<u32>,
    /// How many are valid.
    keys: usize,
}

impl Padded {
    /// From `input_ids` and `attention_mask`, both `[batch, tokens]`; without a mask all are valid.
    pub fn new(given: &TensorView<'_>, mask: Option<&TensorView<'_>>) -> Result<Padded> {
        let &[batch, tokens] = given.shape else {
            return Err(given.wrong(format!("its shape {:?} is not [batch, tokens]", given.shape)));
        };
        if batch == 0 || tokens == 0 {
            let what = if batch == 0 { "sequence" } else { "tokens" };
            return Err(given.wrong(format!("it holds no {what}")));
        }
        let ids = given.as_ids()?;
        let mask = match mask {
            None => vec![1; ids.len()],
            Some(mask) if mask.shape == given.shape => mask.as_integers()?,
            Some(mask) => {
                let (found, shape) = (mask.shape, given.shape);
                return Err(mask.wrong(format!("its shape {found:?} is not {shape:?}")));
            }
        };
        let rows = ids.chunks_exact(tokens).zip(mask.chunks_exact(tokens));
        let rows = rows.map(|(ids, mask)| Row::new(ids, mask)).collect();
        Ok(Padded { batch, tokens, rows })
    }

    /// Tokens of all sequences, padding included.
    pub fn total(&self) -> usize {
        self.batch * self.tokens
    }

    /// Where each computed row lies among the caller's tokens; none for padding.
    fn places(&self) -> impl Iterator<Item = Option<usize>> {
        self.rows.iter().enumerate().flat_map(move |(b, row)| {
            let places = row.order.iter().enumerate();
            places.map(move |(i, t)| (i < row.keys).then_some(b * self.tokens + t))
        })
    }

    /// A caller's choices in the order of computation; those of padding are left free.
    pub fn sorted_route(&self, route: &[i32]) -> Vec<i32> {
        let sites = route.chunks_exact(self.total());
        let sorted = |site: &[i32]| -> Vec<i32> {
            let choice = |at| site.get(at).copied().unwrap_or(-1);
            self.places().map(|place| place.map_or(-1, choice)).collect()
        };
        sites.flat_map(sorted).collect()
    }

    /// Choices as they were made in the caller's order; -1 for padding.
    pub fn callers_route(&self, route: &[i32]) -> Vec<i32> {
        let mut made = vec![-1; route.len()];
        let sites = made.chunks_exact_mut(self.total()).zip(route.chunks_exact(self.total()));
        for (made, route) in sites {
            for (place, choice) in self.places().zip(route) {
                if let Some(made) = place.and_then(|at| made.get_mut(at)) {
                    *made = *choice;
                }
            }
        }
        made
    }

    /// `last_hidden_state` `[batch, tokens, hidden]` and `embedding` `[batch, embedding]`.
    pub fn encode(&self, encoder: &mut Encoder) -> Result<(Vec<Tensor>, Usage)> {
        let inputs: Vec<EncoderInput<'_>> = self.rows.iter().map(Row::input).collect();
        let mut hidden = Vec::new();
        let mut embeddings = Vec::new();
        let usage = encoder.encode(&inputs, |b, encoded| {
            // Sequences come in turn.
            let cols = encoded.last_hidden_state.len() / self.tokens;
            let start = hidden.len();
            hidden.resize(start + self.tokens * cols, 0.0);
            let Some(row) = self.rows.get(b) else { return };
            let computed = encoded.last_hidden_state.chunks_exact(cols.max(1));
            for (values, t) in computed.zip(&row.order) {
                let at = start + t * cols;
                if let Some(target) = hidden.get_mut(at..at + cols) {
                    target.copy_from_slice(values);
                }
            }
            embeddings.extend_from_slice(encoded.embedding);
        })?;
        let (cols, size) = (hidden.len() / self.total(), embeddings.len() / self.batch);
        let shape = vec![self.batch, self.tokens, cols];
        let outputs = vec![
            Tensor::floats("last_hidden_state", shape, hidden),
            Tensor::floats("embedding", vec![self.batch, size], embeddings),
        ];
        Ok((outputs, usage))
    }
}

impl Row {
    fn input(&self) -> EncoderInput<'_> {
        EncoderInput { ids: &self.ids, positions: &self.positions, keys: self.keys }
    }

    fn new(ids: &[u32], mask: &[i64]) -> Row {
        let valid = |keep: bool| {
            mask.iter().enumerate().filter(move |(_, m)| (**m != 0) == keep).map(|(t, _)| t)
        };
        let keys = valid(true).count();
        let order: Vec<usize> = valid(true).chain(valid(false)).collect();
        Row {
            ids: order.iter().filter_map(|t| ids.get(*t).copied()).collect(),
            positions: order.iter().map(|t| *t as u32).collect(),
            keys,
            order,
        }
    }
}
