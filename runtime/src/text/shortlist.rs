//! What a sampler needs of a row of logits, and what a step finds of it.

/// What of a row of logits is enough to choose a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Need {
    /// All of them.
    Logits,
    /// The largest, of equals that of the lowest id.
    Largest,
    /// So many of the largest and those as large as the last of them.
    Top(usize),
    /// What most often decides a draw from all of them at this temperature.
    Draw(f32),
}

impl Need {
    /// Most logits of a [`Shortlist`] that is asked for.
    pub const MOST: usize = 128;

    /// What is to be found of each row of so many logits.
    pub fn pick(self, vocab: usize) -> Pick {
        let (count, temperature) = match self {
            Need::Logits => (0, 0.0),
            Need::Largest => (1, 0.0),
            // The one more shows whether others are as large as the last.
            Need::Top(k) => (k + 1, 0.0),
            // With its masses a list is shorter than the row.
            Need::Draw(temperature) => (Need::MOST.min(vocab / 4), temperature),
        };
        if count == 0 || count > vocab { Pick::default() } else { Pick { count, temperature } }
    }

    /// Whether the list tells all that is needed: for some of the largest, that they are not all that are possible,
    /// and that none is as large as the last of them. Whether it decides a draw is for the sampler to say.
    pub fn met_by(self, list: &Shortlist) -> bool {
        let value = |i: usize| list.largest.get(i).map(|logit| logit.value);
        match self {
            Need::Logits => false,
            Need::Largest | Need::Draw(_) => !list.largest.is_empty(),
            Need::Top(k) => match (value(k.saturating_sub(1)), value(k)) {
                (Some(last), Some(next)) => last > next && next > f32::NEG_INFINITY,
                _ => false,
            },
        }
    }
}

/// What a run is to find of each row of logits in the place of all; the default asks for all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pick {
    /// How many of the largest, at most [`Need::MOST`]; 0 for all logits.
    pub count: usize,
    /// That of the masses of a [`Shortlist`]; 0 for none of them.
    pub temperature: f32,
}

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Logit {
    pub token: u32,
    pub value: f32,
}

/// The largest logits of a row, and masses of others: sums of `exp((logit - largest) / temperature)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shortlist {
    /// In turn, of equals the lowest id first; NaN before all others. Empty where they were not found.
    pub largest: Vec<Logit>,
    /// Sum of `exp(logit - largest)` over the row.
    pub sum: f32,
    /// The mass of the row; 0 where none was asked for.
    pub total: f64,
    /// By logit of the list, the mass of the lower ids of the row.
    pub before: Vec<f64>,
}

impl Shortlist {
    /// The share of a row's mass by which masses may differ from those that the host would sum.
    pub const SLACK: f64 = 1.0 / 65536.0;
}

/// What a step finds of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'a> {
    /// `[vocab]`.
    Logits(&'a [f32]),
    Shortlist(&'a Shortlist),
}
