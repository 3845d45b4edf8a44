//! What a run of an entry costs, from the plan's cost expressions.

use std::collections::HashMap;

use limbeck_kernels::Span;
use limbeck_plan::{
    Attention, Dim, Entry, Op, OperandId, OperandKind, Program, SparseLinear, Step, Symbol,
};

use super::{Call, Choices, Spent};

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
    adaptive: Vec<Adaptive>,
    sparse: Vec<Sparse>,
}

/// A linear that leaves out input channels: what it spends is counted as it runs.
#[derive(Debug)]
struct Sparse {
    site: usize,
    /// Per token, with every channel.
    macs: u64,
}

/// An op that spends the share of its learners, or experts of a token, that a site chose.
#[derive(Debug)]
struct Adaptive {
    site: usize,
    /// The largest choice.
    learners: u64,
    /// At the largest choice.
    macs: Dim,
    /// Of all its weights.
    bytes: u64,
    /// Weights are read of the experts that some token uses, of so many; otherwise as far as the
    /// largest choice says.
    experts: Option<u64>,
}

impl Cost {
    pub fn new(program: &Program, entry: &Entry) -> Cost {
        let mut cost = Cost::default();
        let sites = choice_sites(entry);
        for step in entry.steps() {
            let (window, causal) = match &step.op {
                Op::Attention(Attention { window, causal, .. }) => (*window, *causal),
                _ => (None, false),
            };
            let follows = || Some(*sites.get(step.inputs.get(1)?)?);
            let adaptive = match &step.op {
                Op::AdaptiveMlp(p) => follows().map(|site| (site, p.learners, None)),
                Op::MoeMlp(p) => Some((p.site, p.top_k, Some(p.experts as u64))),
                _ => None,
            };
            if let Some((site, learners, experts)) = adaptive {
                let adaptive = Adaptive::new(program, entry, step, site, learners, experts);
                cost.adaptive.push(adaptive);
                continue;
            }
            if let Op::SparseLinear(p) = &step.op {
                cost.add_sparse(program, entry, step, p, &sites);
                continue;
            }
            cost.add(&step.macs, window, causal);
            if let Op::Onnx(p) = &step.op {
                cost.bytes = cost.bytes.saturating_add(p.weight_bytes);
            }
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

    fn add_sparse(
        &mut self,
        program: &Program,
        entry: &Entry,
        step: &Step,
        params: &SparseLinear,
        sites: &HashMap<OperandId, usize>,
    ) {
        let weight = |index: usize| match entry.operands.get(*step.inputs.get(index)?)?.kind {
            OperandKind::Weight(w) => program.weights.get(w),
            _ => None,
        };
        let site = (0..step.inputs.len()).find_map(|i| sites.get(step.inputs.get(i)?));
        let (Some(w), Some(&site)) = (weight(1), site) else { return };
        let macs = (w.rows as u64).saturating_mul(w.cols as u64);
        // A norm in front is spent whatever the choice.
        let bind = |name: &str| (name == Symbol::TOKENS).then_some(1);
        let rest = step.macs.eval(&bind).unwrap_or(0).saturating_sub(macs);
        self.per_token = self.per_token.saturating_add(rest);
        self.sparse.push(Sparse { site, macs });
        let bias = if params.linear.bias { weight(2).map_or(0, |w| w.bytes) } else { 0 };
        let channels = weight(step.inputs.len() - 1).map_or(0, |w| w.bytes);
        self.bytes = self.bytes.saturating_add(bias).saturating_add(channels);
    }

    fn add(&mut self, macs: &Dim, window: Option<usize>, causal: bool) {
        let (symbol, factor) = match macs {
            Dim::Const(0) => return,
            Dim::Symbol(s) => (s, 1),
            Dim::Add(a, b) => {
                self.add(a, window, causal);
                return self.add(b, window, causal);
            }
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

    /// The least share of a token's full compute that the sites leave, what it attends to not
    /// counted; 1 without sites.
    pub fn lowest_fraction(&self, program: &Program) -> f64 {
        let (mut least, mut full) = (self.per_token as f64, self.per_token as f64);
        for adaptive in &self.adaptive {
            let bind = |name: &str| (name == Symbol::TOKENS).then_some(1);
            let macs = adaptive.macs.eval(&bind).unwrap_or(0) as f64;
            let first = program.sites.get(adaptive.site).map_or(0, |site| site.first);
            least += macs * first as f64 / adaptive.learners.max(1) as f64;
            full += macs;
        }
        for sparse in &self.sparse {
            let costs = program.sites.get(sparse.site).map(|site| site.costs.as_slice());
            least += sparse.macs as f64 * costs.and_then(|c| c.first()).unwrap_or(&1.0);
            full += sparse.macs as f64;
        }
        if full > 0.0 { (least / full).clamp(0.0, 1.0) } else { 1.0 }
    }

    /// Prices and the fractions that they lead to where the price alone makes every choice: a point amid the prices of
    /// each level that some price takes. `None` where choices are a token's own.
    pub fn level_fractions(&self, program: &Program, entry: &Entry) -> Option<Vec<(f64, f64)>> {
        let level = entry.steps().find_map(|step| match &step.op {
            Op::Level(level) => Some(level),
            _ => None,
        })?;
        let own = !self.adaptive.is_empty() || self.sparse.iter().any(|s| s.site != level.site);
        let site = program.sites.get(level.site).filter(|_| !own)?;
        let sparse = self.sparse.iter().map(|s| s.macs as f64).sum::<f64>();
        let full = self.per_token as f64 + sparse;
        let fraction = |cost: f64| ((self.per_token as f64 + sparse * cost) / full).clamp(0.0, 1.0);
        let taken = level.taken(&site.costs, site.weight);
        let ends = taken.iter().skip(1).map(|(from, _)| *from);
        // The last one has no end; a factor of 2 is about as wide as others are.
        let ends = ends.chain(taken.last().map(|(from, _)| 4.0 * from));
        let points = taken
            .iter()
            .zip(ends)
            .map(|((from, cost), end)| ((from * end).sqrt(), fraction(*cost)));
        (taken.len() > 1 && full > 0.0).then(|| points.collect())
    }

    /// The cost of a call that made these choices.
    pub fn of(&self, call: &Call<'_>, choices: &Choices) -> Spent {
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
                Symbol::ATTENDED => Some(attended(call.spans, *window, *causal)),
                name => call.symbol(name),
            };
            macs = macs.saturating_add(dim.eval(&bind).unwrap_or(0));
        }
        let mut spent = Spent { macs, full_macs: macs, bytes: self.bytes, ..Spent::default() };
        for adaptive in &self.adaptive {
            let site = adaptive.site;
            adaptive.add(tokens, choices.of(site), choices.experts(site), &mut spent);
        }
        let full = self.sparse.iter().fold(0u64, |sum, s| sum.saturating_add(s.macs));
        let full = full.saturating_mul(tokens);
        let (macs, bytes) = choices.spent();
        spent.add([macs, full, macs, full, bytes]);
        spent
    }
}

impl Spent {
    /// Adds multiply-adds, those at full compute, both for sites alone, and bytes.
    fn add(&mut self, [macs, full, site_macs, site_full, bytes]: [u64; 5]) {
        for (sum, add) in [
            (&mut self.macs, macs),
            (&mut self.full_macs, full),
            (&mut self.site_macs, site_macs),
            (&mut self.site_full_macs, site_full),
            (&mut self.bytes, bytes),
        ] {
            *sum = sum.saturating_add(add);
        }
    }
}

/// By operand: the site whose choices it holds.
pub(super) fn choice_sites(entry: &Entry) -> HashMap<OperandId, usize> {
    let chosen = entry.steps().filter_map(|step| match &step.op {
        Op::Choose(p) => Some((*step.outputs.first()?, p.site)),
        Op::Level(p) => Some((*step.outputs.first()?, p.site)),
        _ => None,
    });
    chosen.collect()
}

impl Adaptive {
    fn new(
        program: &Program,
        entry: &Entry,
        step: &Step,
        site: usize,
        learners: usize,
        experts: Option<u64>,
    ) -> Adaptive {
        let weights = step.inputs.iter().filter_map(|id| match entry.operands.get(*id)?.kind {
            OperandKind::Weight(w) => program.weights.get(w),
            _ => None,
        });
        let bytes = weights.map(|w| w.bytes).sum();
        Adaptive { site, learners: learners as u64, macs: step.macs.clone(), bytes, experts }
    }

    /// `used` experts' weights were read.
    fn add(&self, tokens: u64, choices: &[i32], used: usize, spent: &mut Spent) {
        let bind = |name: &str| (name == Symbol::TOKENS).then_some(tokens);
        let full = self.macs.eval(&bind).unwrap_or(0);
        // The share of all learners, in whole numbers.
        let share = |of: u64, chosen: u64, all: u64| {
            (u128::from(of) * u128::from(chosen) / u128::from(all.max(1))) as u64
        };
        let chosen = choices.iter().map(|k| u64::try_from(*k).unwrap_or(0));
        let all = tokens.saturating_mul(self.learners);
        let macs = share(full, chosen.clone().sum::<u64>().min(all), all);
        let most = chosen.max().unwrap_or(0).min(self.learners);
        let bytes = match self.experts {
            Some(experts) => share(self.bytes, (used as u64).min(experts), experts),
            None => share(self.bytes, most, self.learners),
        };
        spent.add([macs, full, macs, full, bytes]);
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

    #[test]
    fn an_adaptive_op_spends_the_share_of_its_learners() {
        let macs = Dim::symbol(Symbol::TOKENS).times(1000u64);
        let op = Adaptive { site: 0, learners: 4, macs, bytes: 800, experts: None };
        let mut spent = Spent { macs: 5, full_macs: 5, bytes: 7, ..Spent::default() };
        op.add(4, &[0, 1, 3, 1], 0, &mut spent);
        // 5 of 16 learners over 4 rows; the widest row reads 3 of 4 learners' weights.
        let found = (spent.macs, spent.full_macs, spent.site_macs, spent.site_full_macs);
        assert_eq!(found, (5 + 1250, 5 + 4000, 1250, 4000));
        assert_eq!(spent.bytes, 7 + 600);
        let mut none = Spent::default();
        op.add(2, &[0, 0], 0, &mut none);
        assert_eq!((none.macs, none.full_macs, none.bytes), (0, 2000, 0));
    }

    #[test]
    fn experts_spend_what_tokens_keep_and_read_what_any_token_uses() {
        let macs = Dim::symbol(Symbol::TOKENS).times(1000u64);
        let op = Adaptive { site: 0, learners: 2, macs, bytes: 800, experts: Some(8) };
        let mut spent = Spent::default();
        op.add(3, &[1, 2, 1], 3, &mut spent);
        assert_eq!((spent.macs, spent.full_macs, spent.bytes), (2000, 3000, 300));
    }
}
