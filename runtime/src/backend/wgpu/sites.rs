//! Sites on the device: what choosing costs goes there with the call, choices are made there, and come back
//! with the results.

use limbeck_plan::{Program, Site};

use super::call::CallLayout;
use crate::backend::lower::{Instruction, Lowered};
use crate::backend::{Call, Choices};

/// How an entry chooses at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chooser {
    /// Not at all.
    None,
    /// By a gate.
    Gate,
    /// By a router of so many experts, of which a token uses so many at most.
    Router { experts: usize, top_k: usize },
}

/// By site.
pub(super) fn choosers(program: &Program, lowered: &Lowered) -> Vec<Chooser> {
    let mut choosers = vec![Chooser::None; program.sites.len()];
    for named in &lowered.instructions {
        let (site, chooser) = match &named.instruction {
            Instruction::Choose { params, .. } => (params.site, Chooser::Gate),
            Instruction::MoeMlp { params, .. } => {
                let (experts, top_k) = (params.experts, params.top_k);
                (params.site, Chooser::Router { experts, top_k })
            }
            _ => continue,
        };
        if let Some(slot) = choosers.get_mut(site) {
            *slot = chooser;
        }
    }
    choosers
}

/// Words of a call that a site's charges take: what the choices cost at its price.
pub(super) fn charge_words(chooser: Chooser, site: &Site) -> usize {
    match chooser {
        Chooser::None => 0,
        Chooser::Gate => site.costs.len(),
        Chooser::Router { .. } => 1,
    }
}

/// Fills in the charges and the forced choices of a call.
pub(super) fn fill(
    layout: &CallLayout,
    choosers: &[Chooser],
    sites: &[Site],
    call: &Call<'_>,
    words: &mut [u32],
) {
    let price = f64::from(call.price);
    for (id, (chooser, site)) in choosers.iter().zip(sites).enumerate() {
        let charges = &mut words[layout.charges[id]..];
        match chooser {
            Chooser::None => {}
            Chooser::Gate => {
                for (word, cost) in charges.iter_mut().zip(&site.costs) {
                    // A price beyond all numbers still leaves what costs nothing free.
                    *word = (((price * site.weight).min(f64::MAX) * cost) as f32).to_bits();
                }
            }
            Chooser::Router { top_k, .. } => {
                charges[0] = ((price * site.weight / *top_k as f64) as f32).to_bits();
            }
        }
    }
    let forced = &mut words[layout.forced..][..sites.len() * call.tokens];
    match call.forced {
        Some(choices) => {
            forced.iter_mut().zip(choices).for_each(|(word, choice)| *word = *choice as u32);
        }
        None => forced.fill(u32::MAX),
    }
}

/// Where choices lie on the device: those of each site, `[sites, tokens]`, then a mark for each expert that
/// some token uses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MadeLayout {
    tokens: usize,
    /// By site.
    marks: Vec<usize>,
    pub words: usize,
}

impl MadeLayout {
    /// Of a call of so many tokens.
    pub fn new(choosers: &[Chooser], tokens: usize) -> MadeLayout {
        let mut words = choosers.len().saturating_mul(tokens);
        let marks = choosers.iter().map(|chooser| {
            let start = words;
            if let Chooser::Router { experts, .. } = chooser {
                words = words.saturating_add(*experts);
            }
            start
        });
        let marks = marks.collect();
        if choosers.iter().all(|chooser| *chooser == Chooser::None) {
            words = 0;
        }
        MadeLayout { tokens, marks, words }
    }

    /// Where a site's choices begin.
    pub fn choices(&self, site: usize) -> usize {
        site * self.tokens
    }

    /// Where a site's marks begin.
    pub fn marks(&self, site: usize) -> usize {
        self.marks.get(site).copied().unwrap_or(0)
    }

    /// Takes the choices that came back.
    pub fn take(&self, choosers: &[Chooser], words: &[f32], choices: &mut Choices) {
        for (site, chooser) in choosers.iter().enumerate() {
            if *chooser == Chooser::None {
                continue;
            }
            let found = words.get(self.choices(site)..).unwrap_or_default();
            let made = choices.of_mut(site).iter_mut().zip(found);
            made.for_each(|(choice, word)| *choice = word.to_bits() as i32);
            if let Chooser::Router { experts, .. } = chooser {
                let marks = words.get(self.marks(site)..).unwrap_or_default();
                let used = marks.iter().take(*experts).filter(|mark| mark.to_bits() != 0);
                choices.set_experts(site, used.count());
            }
        }
    }
}
