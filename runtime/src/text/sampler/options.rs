//! How a sampler chooses.

use crate::{Error, ErrorKind, Result};

/// How the next token is chosen. The default is greedy, without penalties.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Logits are divided by it; 0 takes the most likely token and ignores the filters. At
    /// least 0 and finite.
    pub temperature: f32,
    /// Keeps the k most likely tokens and those as likely as the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens that has this probability; 1 keeps all.
    /// In (0, 1].
    pub top_p: f32,
    /// Keeps tokens that are at least this much as likely as the most likely one; 0 keeps all.
    /// In [0, 1].
    pub min_p: f32,
    /// Positive logits of tokens in the history are divided by it, the others multiplied; 1 is
    /// neutral. Above 0 and finite.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens in the history. Finite.
    pub presence_penalty: f32,
    /// Subtracted from a logit once for each time that the token is in the history. Finite.
    pub frequency_penalty: f32,
    /// How many of the last tokens of the history the penalties see; `None` for all.
    pub penalty_window: Option<usize>,
    /// Seed of the draws; the same seed gives the same tokens on every platform.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> SamplerOptions {
        SamplerOptions {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: None,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Checks every value; the error's place is the name of the field.
    pub fn validate(&self) -> Result<()> {
        let finite = f32::MIN..=f32::MAX;
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0, "at least 0"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "in (0, 1]"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "in [0, 1]"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0,
                "above 0",
            ),
            ("presence_penalty", self.presence_penalty, true, "finite"),
            ("frequency_penalty", self.frequency_penalty, true, "finite"),
        ];
        for (field, value, in_range, wanted) in checks {
            if !in_range || !finite.contains(&value) {
                let message = format!("is {value}; it must be {wanted}");
                return Err(Error::new(ErrorKind::InvalidInput, message).at(field));
            }
        }
        Ok(())
    }

    pub(super) fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}
