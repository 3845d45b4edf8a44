//! Sites on the device: what choosing costs goes there with the call, choices are made there, and come back
//! with the results, and with them what else the host is told.

use limbeck_plan::{Level, Op, Program, QUANT_BLOCK, Site, Weight};

use super::call::CallLayout;
use super::shaders::{FEW_ROWS, skips_zeros};
use crate::backend::lower::{Ids, Instruction, Lowered};
use crate::backend::{Call, Choices};
use crate::error::{Error, ErrorKind, Result};

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
fn choosers(program: &Program, lowered: &Lowered) -> Vec<Chooser> {
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

/// A linear that leaves out channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sparse {
    /// Of its weight.
    pub rows: usize,
    pub bytes: usize,
    /// Of a channel, where calls of few rows read no others than those they kept.
    pub channel: Option<usize>,
}

impl Sparse {
    fn new(weight: &Weight) -> Sparse {
        let bytes = weight.bytes as usize;
        let channels =
            skips_zeros(weight.format).then(|| weight.cols.next_multiple_of(QUANT_BLOCK));
        let channel = channels.and_then(|count| bytes.checked_div(count));
        Sparse { rows: weight.rows, bytes, channel }
    }

    /// Bytes that a call reads whose `tokens` kept so many channels together: at most these, where they did
    /// not keep the same.
    fn read(&self, kept: u64, tokens: usize) -> u64 {
        let whole = self.bytes as u64;
        match self.channel {
            Some(channel) if tokens <= FEW_ROWS => kept.saturating_mul(channel as u64).min(whole),
            _ => whole,
        }
    }
}

/// What an entry's steps tell beside their results.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By site.
    pub choosers: Vec<Chooser>,
    /// Choices that the price alone makes.
    pub levels: Vec<Level>,
    /// In the order of the steps.
    pub sparse: Vec<Sparse>,
    /// Whether some step has indices that the device computes.
    pub indexes: bool,
}

impl Told {
    pub fn new(program: &Program, lowered: &Lowered) -> Told {
        let mut told = Told { choosers: choosers(program, lowered), ..Told::default() };
        for named in &lowered.instructions {
            match &named.instruction {
                Instruction::Level { params } => told.levels.push(params.clone()),
                Instruction::SparseLinear { weight, .. } => {
                    told.sparse.extend(program.weights.get(*weight).map(Sparse::new));
                }
                Instruction::Embedding { ids: Ids::Value(_), .. }
                | Instruction::Tensor { op: Op::Gather(_) | Op::GatherElements(_), .. } => {
                    told.indexes = true;
                }
                _ => {}
            }
        }
        told
    }

    /// The choices that the price alone makes, which the call then forces.
    pub fn level(
        &self,
        layout: &CallLayout,
        sites: &[Site],
        call: &Call<'_>,
        choices: &mut Choices,
        words: &mut [u32],
    ) -> Result<()> {
        for level in &self.levels {
            choices.level(level, sites, call)?;
            let forced = &mut words[layout.forced + level.site * call.tokens..];
            let made = choices.of(level.site);
            forced.iter_mut().zip(made).for_each(|(word, choice)| *word = *choice as u32);
        }
        Ok(())
    }
}

/// Where choices lie on the device: those of each site, `[sites, tokens]`, then a mark for each expert that
/// some token uses, the channels that linears kept, and an index that does not exist with its step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MadeLayout {
    tokens: usize,
    /// By site.
    marks: Vec<usize>,
    kept: usize,
    fault: Option<usize>,
    pub words: usize,
}

impl MadeLayout {
    /// Of a call of so many tokens.
    pub fn new(told: &Told, tokens: usize) -> MadeLayout {
        let choosers = &told.choosers;
        let chosen = choosers.iter().any(|chooser| *chooser != Chooser::None);
        let mut words = if chosen { choosers.len().saturating_mul(tokens) } else { 0 };
        let mut take = |count: usize| {
            let start = words;
            words = words.saturating_add(count);
            start
        };
        let marks = choosers.iter().map(|chooser| match chooser {
            Chooser::Router { experts, .. } => take(*experts),
            _ => take(0),
        });
        let marks = marks.collect();
        let kept = take(told.sparse.len());
        let fault = told.indexes.then(|| take(2));
        MadeLayout { tokens, marks, kept, fault, words }
    }

    /// Where a site's choices begin.
    pub fn choices(&self, site: usize) -> usize {
        site * self.tokens
    }

    /// Where a site's marks begin.
    pub fn marks(&self, site: usize) -> usize {
        self.marks.get(site).copied().unwrap_or(0)
    }

    /// Where the channels are counted that a linear kept, by their order.
    pub fn kept(&self, index: usize) -> usize {
        self.kept + index
    }

    /// Where the number of a step comes whose index does not exist, and then the index.
    pub fn fault(&self) -> usize {
        self.fault.unwrap_or(0)
    }

    /// Takes what came back: choices, and what linears kept.
    ///
    /// # Errors
    /// `InvalidInput` for an index that does not exist, with its step.
    pub fn take(
        &self,
        told: &Told,
        lowered: &Lowered,
        words: &[f32],
        choices: &mut Choices,
    ) -> Result<()> {
        let word = |at: usize| words.get(at).map_or(0, |word| word.to_bits());
        if let Some(at) = self.fault.filter(|at| word(*at) != 0) {
            let step = lowered.instructions.get(word(at) as usize - 1);
            let step = step.map_or("", |named| &named.step);
            let message = format!("index {} is outside of what it is of", word(at + 1) as i32);
            return Err(Error::new(ErrorKind::InvalidInput, message).at(lowered.place(step)));
        }
        for (site, chooser) in told.choosers.iter().enumerate() {
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
        for (i, sparse) in told.sparse.iter().enumerate() {
            let kept = u64::from(word(self.kept(i)));
            let macs = kept.saturating_mul(sparse.rows as u64);
            choices.spend(macs, sparse.read(kept, self.tokens));
        }
        Ok(())
    }
}
