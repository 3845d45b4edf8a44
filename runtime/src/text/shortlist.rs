//! What a sampler needs of a row of logits, and what a step finds of it.

/// What of a row of logits is enough to choose a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// All of them.
    Logits,
    /// The largest, of equals that of the lowest id.
    Largest,
    /// So many of the largest and those as large as the last of them.
    Top(usize),
}

impl Need {
    /// Most logits of a [`Shortlist`] that is asked for.
    pub const MOST: usize = 128;

    /// How many logits a [`Shortlist`] is to have; 0 where it would not do.
    pub fn count(self) -> usize {
        match self {
            Need::Logits => 0,
            Need::Largest => 1,
            // The one more shows whether others are as large as the last.
            Need::Top(k) => k + 1,
        }
    }

    /// Whether the list tells all that is needed: for some of the largest, that they are not all that are possible,
    /// and that none is as large as the last of them.
    pub fn met_by(self, list: &Shortlist) -> bool {
        let value = |i: usize| list.largest.get(i).map(|logit| logit.value);
        match self {
            Need::Logits => false,
            Need::Largest => !list.largest.is_empty(),
            Need::Top(k) => match (value(k.saturating_sub(1)), value(k)) {
                (Some(last), Some(next)) => last > next && next > f32::NEG_INFINITY,
                _ => false,
            },
        }
    }
}

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Logit {
    pub token: u32,
    pub value: f32,
}

/// The largest logits of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shortlist {
    /// In turn, of equals the lowest id first; NaN before all others. Empty where they were not found.
    pub largest: Vec<Logit>,
    /// Sum of `exp(logit - largest)` over the row.
    pub sum: f32,
}

/// What a step finds of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'a> {
    /// `[vocab]`.
    Logits(&'a [f32]),
    Shortlist(&'a Shortlist),
}
