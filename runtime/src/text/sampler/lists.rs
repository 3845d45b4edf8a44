//! Choices by the largest logits of a row, with what is known of the others.

use super::candidates::Candidate;
use super::softmax::{check_largest, exp};
use super::{Sampled, Sampler, SamplerOptions};
use crate::Result;
use crate::text::shortlist::{Logit, Need, Shortlist};

impl Sampler {
    pub(super) fn choose_of(&mut self, list: &Shortlist) -> Result<Option<Sampled>> {
        let Some(first) = list.largest.first() else { return Ok(None) };
        let max = first.value;
        check_largest(max)?;
        let need = self.need();
        if !need.met_by(list) {
            return Ok(None);
        }
        let token = match need {
            Need::Logits => None,
            Need::Largest => Some(first.token),
            Need::Top(k) => {
                let top = list.largest.iter().take(k);
                self.candidates.clear();
                self.candidates.extend(top.map(|logit| Candidate::new(logit.value, logit.token)));
                self.narrow(max, self.candidates.len(), None);
                Some(self.draw())
            }
            Need::Draw(_) => self.draw_of(list, max),
        };
        let chosen = list.largest.iter().find(|logit| Some(logit.token) == token);
        Ok(chosen.map(|logit| {
            let logprob = logit.value - max - list.sum.ln();
            Sampled { token: logit.token, logprob }
        }))
    }

    /// Draws one of all tokens by a list with masses, of which `max` is the largest logit: the one that is drawn by
    /// all logits. `None`, and nothing is drawn, where others than those of the list, or an error of the masses within
    /// [`Shortlist::SLACK`], may lead to another one.
    fn draw_of(&mut self, list: &Shortlist, max: f32) -> Option<u32> {
        let SamplerOptions { temperature, top_p, min_p, .. } = self.options;
        let weight = |value: f32| exp((value - max) / temperature);
        let possible = |l: &&Logit| l.value > f32::NEG_INFINITY && weight(l.value) >= min_p;
        let kept = list.largest.iter().take_while(possible);
        self.candidates.clear();
        self.candidates.extend(kept.map(|logit| Candidate::new(logit.value, logit.token)));
        // The mass of the largest alone is 1.
        let total = Some(list.total).filter(|total| *total >= 1.0 - Shortlist::SLACK)?;
        // Whether no token beside them may be drawn.
        let all = self.candidates.len() < list.largest.len();
        let mut random = self.random.clone();
        let share = random.next_f64();
        let token = if top_p == 1.0 && !all {
            // Others lie between those of the list, in the order of ids.
            let (target, slack) = (share * total, Shortlist::SLACK * total);
            let mut logits = list.largest.iter().zip(&list.before).filter(|_| min_p == 0.0);
            let found = logits.find(|(logit, before)| {
                let after = **before + f64::from(weight(logit.value));
                **before <= target - slack && target + slack < after
            });
            found?.0.token
        } else {
            let mut wanted = f64::from(top_p) * total;
            if top_p == 1.0 {
                self.candidates.sort_unstable_by_key(|candidate| candidate.id());
                wanted = f64::INFINITY;
            }
            self.weights.clear();
            self.weights.extend(self.candidates.iter().map(|c| weight(c.score())));
            self.kept_at(share, wanted, all)?
        };
        self.random = random;
        Some(token)
    }

    /// The candidate at this share of the mass of what is kept: of the candidates, and of others behind them where they
    /// are not `all`, as many as have the mass `wanted`. `None` where that is not sure.
    fn kept_at(&self, share: f64, wanted: f64, all: bool) -> Option<u32> {
        let (least, most) = (wanted * (1.0 - Shortlist::SLACK), wanted * (1.0 + Shortlist::SLACK));
        // The mass of what is kept lies between these.
        let (mut low, mut high) = (0.0, 0.0);
        let mut mass = 0.0;
        for weight in self.weights.iter().map(|weight| f64::from(*weight)) {
            if mass < least {
                low = mass + weight;
            }
            if mass < most {
                high = mass + weight;
            }
            mass += weight;
        }
        if mass < most && !all {
            if self.options.min_p > 0.0 {
                return None;
            }
            // The last that is kept is no heavier than the last here.
            low = least.max(low);
            high = most + f64::from(*self.weights.last()?);
        }
        mass = 0.0;
        let mut candidates = self.candidates.iter().zip(&self.weights);
        let found = candidates.find(|(_, weight)| {
            let before = mass;
            mass += f64::from(**weight);
            before <= share * low && share * high < mass
        });
        found.map(|(candidate, _)| candidate.id())
    }
}
