//! What a run of an entry costs, from the plan's cost expressions.

use std::collections::HashMap;

use limbeck_kernels::Span;
use limbeck_plan::{Attention, Dim, Entry, Op, OperandKind, Program, Symbol};

use super::{Call, Spent};

/// The cost of one entry as a sum over the sizes of a call.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    per_token: u64,
    per_output: u64,
    per_sequence: u64,
    /// Per position attended to, by window.
    attended: HashMap<(Option<usize>, bool), u64>,
    /// Expressions of another form, with their steps' windows.
    other: Vec<(Dim, Option<usize>, bool)>,
    /// Bytes of all weights that a run reads whole.
    bytes: u64,
}

impl Cost {
    pub fn new(program: &Program, entry: &Entry) -> Cost {
        let mut cost = Cost::default();
        for step in entry.steps() {
            let (window, causal) = match &step.op {
                Op::Attention(Attention { window, causal, .. }) => (*window, *causal),
                _ => (None, false),
            };
            cost.add(&step.macs, window, causal);
            if matches!(step.op, Op::Embedding(_)) {
                continue;
            }
            for &id in &step.inputs {
                if let Some(OperandKind::Weight(w)) = entry.operands.get(id).map(|o| o.kind) {
                    cost.bytes += program.weights.get(w).map_or(0, |w| w.bytes);
                }
            }
        }
        cost
    }

    fn add(&mut self, macs: &Dim, window: Option<usize>, causal: bool) {
        let (symbol, factor) = match macs {
            Dim::Const(0) => return,
            Dim::Symbol(s) => (s, 1),
            Dim::Mul(a, b) => match (&**a, &**b) {
                (Dim::Symbol(s), Dim::Const(c)) | (Dim::Const(c), Dim::Symbol(s)) => (s, *c),
                _ => return self.other.push((macs.clone(), window, causal)),
            },
            _ => return self.other.push((macs.clone(), window, causal)),
        };
        let sum = match symbol.name() {
            Symbol::TOKENS => &mut self.per_token,
            Symbol::OUTPUTS => &mut self.per_output,
            Symbol::SEQUENCES => &mut self.per_sequence,
            Symbol::ATTENDED => self.attended.entry((window, causal)).or_default(),
            _ => return self.other.push((macs.clone(), window, causal)),
        };
        *sum = sum.saturating_add(factor);
    }

    /// The cost of a call.
    pub fn of(&self, call: &Call<'_>) -> Spent {
        let (tokens, outputs) = (call.tokens as u64, call.output_rows.len() as u64);
        let sequences = call.sequences.len() as u64;
        let mut macs = self.per_token.saturating_mul(tokens);
        macs = macs.saturating_add(self.per_output.saturating_mul(outputs));
        macs = macs.saturating_add(self.per_sequence.saturating_mul(sequences));
        for ((window, causal), factor) in &self.attended {
            let attended = attended(call.spans, *window, *causal);
            macs = macs.saturating_add(factor.saturating_mul(attended));
        }
        for (dim, window, causal) in &self.other {
            let bind = |name: &str| match name {
                Symbol::TOKENS => Some(tokens),
                Symbol::OUTPUTS => Some(outputs),
                Symbol::SEQUENCES => Some(sequences),
                Symbol::ATTENDED => Some(attended(call.spans, *window, *causal)),
                _ => None,
            };
            macs = macs.saturating_add(dim.eval(&bind).unwrap_or(0));
        }
        Spent { macs, bytes: self.bytes }
    }
}

/// The sum over all rows of the positions that each attends to.
fn attended(spans: &[Span], window: Option<usize>, causal: bool) -> u64 {
    let sum = |span: &Span| -> u64 {
        let rows = span.rows as u64;
        if !causal {
            return rows * span.keys as u64;
        }
        let first = span.start as u64 + 1;
        let last = span.start as u64 + rows;
        match window.map(|w| w as u64) {
            // Rows whose window is not full yet see as many positions as there are.
            Some(w) => {
                let growing = w.min(last + 1).saturating_sub(first).min(rows);
                (0..growing).map(|i| first + i).sum::<u64>() + (rows - growing) * w
            }
            None => (first + last) * rows / 2,
        }
    };
    spans.iter().map(sum).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: usize, rows: usize) -> Span {
        Span { first_row: 0, rows, sequence: None, start, keys: rows }
    }

    #[test]
    fn attended_positions_match_a_count_of_each_row() {
        for (start, rows, window) in [
            (0, 5, None),
            (3, 4, None),
            (0, 9, Some(4)),
            (2, 7, Some(4)),
            (10, 3, Some(4)),
            (0, 2, Some(8)),
            (0, 1, Some(1)),
        ] {
            let expected: u64 = (start..start + rows)
                .map(|p| (p as u64 + 1).min(window.unwrap_or(usize::MAX) as u64))
                .sum();
            let found = attended(&[span(start, rows)], window, true);
            assert_eq!(found, expected, "{start} {rows} {window:?}");
        }
        assert_eq!(attended(&[span(0, 6)], None, false), 36);
    }
}
