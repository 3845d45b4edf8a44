//! The choices that a run makes at the plan's sites.

use limbeck_plan::{Level, Site};

use super::Call;
use crate::error::{Error, ErrorKind, Result};

/// Choices of one run, `[sites, tokens]`; -1 where none was made.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    values: Vec<i32>,
    tokens: usize,
    /// By site: the experts that some token used, where the site chooses experts.
    experts: Vec<usize>,
    /// What steps spent whose cost their values decide: multiply-adds, and bytes of weights.
    spent: (u64, u64),
}

impl Choices {
    /// Makes room for a call's choices, and checks those that it forces.
    ///
    /// # Errors
    /// Forced choices of the wrong number or that a site has not.
    pub fn begin(&mut self, sites: &[Site], call: &Call<'_>) -> Result<()> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidInput, message));
        if !(call.price.is_finite() && call.price >= 0.0) {
            return invalid(format!("the price {} is not a number >= 0", call.price));
        }
        self.tokens = call.tokens;
        self.spent = (0, 0);
        self.values.clear();
        self.values.resize(sites.len().saturating_mul(call.tokens), -1);
        self.experts.clear();
        self.experts.resize(sites.len(), 0);
        let Some(forced) = call.forced else { return Ok(()) };
        if forced.len() != self.values.len() {
            let (sites, tokens) = (sites.len(), call.tokens);
            let found = forced.len();
            return invalid(format!(
                "{found} forced choices are not {sites} sites x {tokens} tokens"
            ));
        }
        for (site, row) in sites.iter().zip(forced.chunks_exact(call.tokens.max(1))) {
            let known = |k: i32| {
                k == -1 || usize::try_from(k).is_ok_and(|k| (site.first..=site.last()).contains(&k))
            };
            if let Some(bad) = row.iter().find(|k| !known(**k)) {
                let (name, first, last) = (&site.name, site.first, site.last());
                return invalid(format!(
                    "forced choices: site {name:?} has no choice {bad}, only {first}..={last}"
                ));
            }
        }
        Ok(())
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<i32>() + self.experts.capacity() * size_of::<usize>()
    }

    /// A site's choices, `[tokens]`.
    pub fn of(&self, site: usize) -> &[i32] {
        let start = site.saturating_mul(self.tokens);
        self.values.get(start..start.saturating_add(self.tokens)).unwrap_or_default()
    }

    /// As [`Choices::of`], to be written.
    pub fn of_mut(&mut self, site: usize) -> &mut [i32] {
        let start = site.saturating_mul(self.tokens);
        self.values.get_mut(start..start.saturating_add(self.tokens)).unwrap_or_default()
    }

    /// Puts the call's forced choices in the place of those that were made at a site.
    pub fn force(&mut self, site: usize, forced: Option<&[i32]>) {
        let start = site.saturating_mul(self.tokens);
        let forced = forced.and_then(|f| f.get(start..)).unwrap_or_default();
        for (made, forced) in self.of_mut(site).iter_mut().zip(forced) {
            if *forced >= 0 {
                *made = *forced;
            }
        }
    }

    /// A site's choices to be written, and those that the call forces there.
    pub fn free_and_forced<'a>(
        &mut self,
        site: usize,
        forced: Option<&'a [i32]>,
    ) -> (&mut [i32], Option<&'a [i32]>) {
        let start = site.saturating_mul(self.tokens);
        let forced = forced.and_then(|f| f.get(start..start.saturating_add(self.tokens)));
        (self.of_mut(site), forced)
    }

    /// The experts that some token used at a site.
    pub fn experts(&self, site: usize) -> usize {
        self.experts.get(site).copied().unwrap_or(0)
    }

    /// Keeps the number of experts that some token used at a site.
    pub fn set_experts(&mut self, site: usize, used: usize) {
        if let Some(experts) = self.experts.get_mut(site) {
            *experts = used;
        }
    }

    /// Makes the choices of a site that the price alone decides.
    ///
    /// # Errors
    /// A site that does not exist.
    pub fn level(&mut self, level: &Level, sites: &[Site], call: &Call<'_>) -> Result<()> {
        let site = sites.get(level.site);
        let site = site.ok_or_else(|| Error::new(ErrorKind::Plan, "its site does not exist"))?;
        let choice = level.choose(&site.costs, site.weight, f64::from(call.price));
        self.of_mut(level.site).fill(choice as i32);
        self.force(level.site, call.forced);
        Ok(())
    }

    /// Counts what a step spent.
    pub fn spend(&mut self, macs: u64, bytes: u64) {
        self.spent.0 = self.spent.0.saturating_add(macs);
        self.spent.1 = self.spent.1.saturating_add(bytes);
    }

    /// Multiply-adds and bytes of weights that were counted.
    pub fn spent(&self) -> (u64, u64) {
        self.spent
    }

    /// All of them, `[sites, tokens]`.
    pub fn all(&self) -> &[i32] {
        &self.values
    }
}
