//! What a call spent.

use serde::Serialize;

use limbeck_plan::Site;

use crate::backend::Spent;
use crate::controller::Unmet;

/// Choices that a site made: `histogram[k]` tokens chose `k`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SiteUsage {
    /// The site's name.
    pub name: String,
    /// Tokens per choice, from the choice 0 on.
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
    /// `macs / full_macs`; the share of the steps where a sampler's entry has no multiply-adds that are known.
    pub fraction: f64,
    /// Multiply-adds of the ops that follow a site's choices.
    pub site_macs: u64,
    /// The same with every site at its largest choice.
    pub site_full_macs: u64,
    /// `site_macs / site_full_macs`; `None` where nothing adaptive ran.
    pub site_fraction: Option<f64>,
    /// Wall time in milliseconds.
    pub ms: f64,
    /// Per site.
    pub sites: Vec<SiteUsage>,
    /// Why the budget was not kept, as it stood at the end; `None` where it was.
    pub unmet: Option<Unmet>,
}

impl Usage {
    /// Counts a run that made the choices `[sites, tokens]`. A plan states its own costs: absurd
    /// ones must not overflow.
    pub(crate) fn count(&mut self, tokens: usize, spent: Spent, sites: &[Site], choices: &[i32]) {
        self.tokens += tokens as u64;
        self.macs = self.macs.saturating_add(spent.macs);
        self.full_macs = self.full_macs.saturating_add(spent.full_macs);
        self.site_macs = self.site_macs.saturating_add(spent.site_macs);
        self.site_full_macs = self.site_full_macs.saturating_add(spent.site_full_macs);
        self.bytes = self.bytes.saturating_add(spent.bytes);
        if self.sites.is_empty() {
            self.sites.extend(sites.iter().map(|site| SiteUsage {
                name: site.name.clone(),
                histogram: vec![0; site.last() + 1],
            }));
        }
        for (site, choices) in self.sites.iter_mut().zip(choices.chunks_exact(tokens.max(1))) {
            for choice in choices {
                let count = usize::try_from(*choice).ok().and_then(|k| site.histogram.get_mut(k));
                if let Some(count) = count {
                    *count += 1;
                }
            }
        }
        self.set_fractions();
    }

    fn set_fractions(&mut self) {
        let share = |of: u64, full: u64| (full > 0).then(|| of as f64 / full as f64);
        let steps = if self.full_macs == 0 { self.choice_share() } else { None };
        self.fraction = share(self.macs, self.full_macs).or(steps).unwrap_or(1.0);
        self.site_fraction = share(self.site_macs, self.site_full_macs).or(steps);
    }

    /// The mean choice as a share of the largest; `None` where nothing was chosen.
    fn choice_share(&self) -> Option<f64> {
        let (mut chosen, mut most) = (0.0, 0.0);
        for SiteUsage { histogram, .. } in &self.sites {
            let last = histogram.len().saturating_sub(1);
            for (choice, count) in histogram.iter().enumerate() {
                chosen += choice as f64 * *count as f64;
                most += last as f64 * *count as f64;
            }
        }
        (most > 0.0).then(|| chosen / most)
    }

    /// Adds a later call's usage.
    pub fn add(&mut self, other: &Usage) {
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.macs = self.macs.saturating_add(other.macs);
        self.full_macs = self.full_macs.saturating_add(other.full_macs);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.site_macs = self.site_macs.saturating_add(other.site_macs);
        self.site_full_macs = self.site_full_macs.saturating_add(other.site_full_macs);
        self.ms += other.ms;
        if other.tokens > 0 {
            self.unmet = other.unmet;
        }
        if self.sites.is_empty() {
            self.sites.clone_from(&other.sites);
        } else {
            for (site, other) in self.sites.iter_mut().zip(&other.sites) {
                let counts = site.histogram.iter_mut().zip(&other.histogram);
                counts.for_each(|(sum, add)| *sum = sum.saturating_add(*add));
            }
        }
        self.set_fractions();
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
        assert_eq!((total.fraction, total.site_fraction), (0.5, None));
    }

    #[test]
    fn without_multiply_adds_the_share_is_that_of_the_choices() {
        let costs = vec![0.25, 0.5, 0.75, 1.0];
        let (name, kind) = ("steps".to_owned(), limbeck_plan::SiteKind::Steps);
        let sites = [Site { name, kind, first: 1, costs, weight: 1.0 }];
        let mut total = Usage::default();
        for (steps, mean) in [(1, 0.25), (4, 0.625), (4, 0.75)] {
            let mut call = Usage::default();
            call.count(2, Spent::default(), &sites, &[steps, steps]);
            assert_eq!(call.fraction, f64::from(steps) / 4.0);
            total.add(&call);
            assert_eq!((total.fraction, total.site_fraction), (mean, Some(mean)));
        }
    }

    #[test]
    fn choices_are_counted_by_site() {
        let site = |name: &str, first| Site {
            name: name.into(),
            kind: limbeck_plan::SiteKind::Acm,
            first,
            costs: vec![0.0, 1.0],
            weight: 1.0,
        };
        let sites = [site("a", 0), site("b", 1)];
        let spent = Spent { site_macs: 1, site_full_macs: 4, ..Spent::default() };
        let mut total = Usage::default();
        for choices in [[0, 1, 1, 2, 2, 1], [-1, -1, -1, 2, 2, 2]] {
            let mut call = Usage::default();
            call.count(3, spent, &sites, &choices);
            total.add(&call);
        }
        let found: Vec<_> = total.sites.iter().map(|s| (&*s.name, &s.histogram[..])).collect();
        assert_eq!(found, [("a", &[1, 2][..]), ("b", &[0, 1, 5][..])]);
        assert_eq!(total.site_fraction, Some(0.25));
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
