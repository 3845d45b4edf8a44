//! What a budget asks for, and whether it is kept.

use super::timing::Fit;
use super::{
    BLIND_SECONDS, BLIND_SHARE, Controller, FRACTION_TOLERANCE, Reach, TIME_TOLERANCE, Unmet,
};
use crate::budget::Budget;

impl Controller {
    /// The fraction to aim at for the next chunk.
    pub(super) fn target(&self, reach: Reach) -> f64 {
        let wanted = match self.settings.budget {
            Budget::Full | Budget::Price(_) => reach.high,
            Budget::Fraction(f) => f,
            Budget::Latency(t) => self.fit().fraction(t.as_secs_f64()).unwrap_or(reach.high),
            Budget::Deadline(t) => {
                let (tokens, steps) = self.chunk;
                let left = (self.call.expected - self.call.done).max(tokens);
                let share = tokens / left;
                let seconds = (t.as_secs_f64() - self.elapsed()) * share / steps;
                let tight = share > BLIND_SHARE && seconds * steps < tokens * BLIND_SECONDS;
                let blind = if tight { reach.low } else { reach.high };
                self.fit().fraction(seconds).unwrap_or(blind)
            }
        };
        if wanted.is_nan() { reach.low } else { wanted.clamp(reach.low, reach.high) }
    }

    /// Why the budget is not kept, by what is known now. What was judged unmet becomes met again
    /// only within half of the tolerance of times, so that noise at its edge changes nothing.
    pub(super) fn judge(&self, reach: Reach) -> Option<Unmet> {
        // The lower end can be above the ceiling only where the plan cannot go lower.
        if reach.low > self.settings.limits.ceiling * (1.0 + FRACTION_TOLERANCE) {
            return Some(Unmet::Reach);
        }
        if self.below_floor(reach) {
            return Some(Unmet::BelowFloor);
        }
        let before = self.status.unmet.is_some();
        let tolerance = 1.0 + if before { TIME_TOLERANCE / 2.0 } else { TIME_TOLERANCE };
        let too_slow = |seconds: f64, allowed: f64| {
            let feasible = seconds <= allowed * (1.0 + TIME_TOLERANCE);
            if feasible { Unmet::OffTarget } else { Unmet::Time }
        };
        match self.settings.budget {
            Budget::Full if self.status.price == 0.0 => None,
            Budget::Price(_) => None,
            Budget::Fraction(f) if f * (1.0 + FRACTION_TOLERANCE) < reach.low => Some(reach.limit),
            Budget::Full | Budget::Fraction(_) => self.judge_fraction(),
            Budget::Latency(t) => {
                let pace = self.fit().pace().or(self.since.seconds)?;
                let allowed = t.as_secs_f64();
                (pace > allowed * tolerance).then(|| too_slow(self.cheapest(reach), allowed))
            }
            Budget::Deadline(t) => {
                let (allowed, elapsed) = (t.as_secs_f64(), self.elapsed());
                let (tokens, steps) = self.chunk;
                let left = (self.call.expected - self.call.done).max(0.0) * steps / tokens;
                let expected = elapsed + left * self.cheapest(reach);
                (expected > allowed * tolerance).then_some(Unmet::Time)
            }
        }
    }

    /// Whether price 0 spends less than the floor: by what it has spent, before that by the curve.
    fn below_floor(&self, reach: Reach) -> bool {
        let known = (reach.highest, FRACTION_TOLERANCE);
        let (spent, tolerance) = self.since.unpriced.fraction().unwrap_or(known);
        self.status.price == 0.0 && spent < self.settings.limits.floor * (1.0 - tolerance)
    }

    fn judge_fraction(&self) -> Option<Unmet> {
        let (spent, tolerance) = self.since.all.fraction()?;
        let off = spent / self.status.target - 1.0;
        let spares = off < 0.0 && self.status.price == 0.0;
        let why = if off > 0.0 && self.exhausted() { Unmet::Reach } else { Unmet::OffTarget };
        (off.abs() > tolerance && !spares).then_some(why)
    }

    /// Whether the highest price was given and led to more than the target: the plan's data does not reach
    /// what its curve says.
    fn exhausted(&self) -> bool {
        let highest = self.tracker.as_ref().map(|tracker| tracker.curve().max_price());
        let given = highest.is_some_and(|price| self.status.price >= price as f32);
        let above = |fraction: f64| fraction > self.status.target * (1.0 + FRACTION_TOLERANCE);
        given && self.since.last.is_some_and(above)
    }

    /// Seconds since the call began, or since the deadline was set where that was later.
    fn elapsed(&self) -> f64 {
        self.now - self.call.began.max(self.since.time)
    }

    /// Seconds of a token at the lowest fraction allowed.
    fn cheapest(&self, reach: Reach) -> f64 {
        self.fit().seconds(reach.low).unwrap_or(0.0)
    }

    /// The fit for chunks like the one last asked about.
    fn fit(&self) -> &Fit {
        let [single, chunk] = &self.fits;
        if self.chunk.1 > 1.0 { chunk } else { single }
    }
}
