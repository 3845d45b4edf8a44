//! What a call spent.

use serde::Serialize;

use crate::backend::Spent;
use crate::controller::Unmet;

/// Choices that a site made: `histogram[k]` tokens chose `k`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SiteUsage {
    /// The site's name.
    pub name: String,
    /// Tokens per choice.
    pub histogram: Vec<u64>,
}

/// What a call, or several, spent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Tokens computed.
    pub tokens: u64,
    /// Multiply-adds spent.
    pub macs: u64,
    /// Multiply-adds with every site at its largest choice.
    pub full_macs: u64,
    /// Bytes of weights read.
    pub bytes: u64,
    /// `macs / full_macs`.
    pub fraction: f64,
    /// The same over adaptive ops only; `None` where a plan has none.
    pub site_fraction: Option<f64>,
    /// Wall time in milliseconds.
    pub ms: f64,
    /// Per site.
    pub sites: Vec<SiteUsage>,
    /// Why the budget was not kept, as it stood at the end; `None` where it was.
    pub unmet: Option<Unmet>,
}

impl Usage {
    /// Counts a run. A plan states its own costs: absurd ones must not overflow.
    pub(crate) fn count(&mut self, tokens: usize, spent: Spent) {
        self.tokens += tokens as u64;
        self.macs = self.macs.saturating_add(spent.macs);
        self.full_macs = self.full_macs.saturating_add(spent.macs);
        self.bytes = self.bytes.saturating_add(spent.bytes);
    }

    /// Adds a later call's usage.
    pub fn add(&mut self, other: &Usage) {
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.macs = self.macs.saturating_add(other.macs);
        self.full_macs = self.full_macs.saturating_add(other.full_macs);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.ms += other.ms;
        if other.tokens > 0 {
            self.unmet = other.unmet;
        }
        self.fraction = match self.full_macs {
            0 => 1.0,
            full => self.macs as f64 / full as f64,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_keep_the_fraction_of_the_whole() {
        let part = |macs, full_macs| Usage { macs, full_macs, ..Usage::default() };
        let mut total = part(10, 10);
        total.add(&part(10, 30));
        assert_eq!(total.fraction, 0.5);
    }

    #[test]
    fn the_last_call_that_computed_tells_whether_the_budget_is_kept() {
        let part = |tokens, unmet| Usage { tokens, unmet, ..Usage::default() };
        let mut total = part(3, Some(Unmet::Time));
        total.add(&part(0, None));
        assert_eq!(total.unmet, Some(Unmet::Time));
        total.add(&part(1, None));
        assert_eq!(total.unmet, None);
    }
}
