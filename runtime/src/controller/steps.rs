//! Chooses how many steps a sampler takes.
//!
//! There are few numbers of steps, each of a known share of the compute, so that none has to be found by a
//! price: the budget says which it allows, and of these the most are taken.

use crate::budget::{Budget, Limits};
use crate::control::Settings;

use super::timing::Fit;
use super::{FRACTION_TOLERANCE, Status, TIME_TOLERANCE, Unmet};

/// Sizes of batches whose times are kept apart.
const MAX_BATCHES: usize = 8;
/// What rounding may add to a share.
const SLACK: f64 = 1e-9;

/// A number of steps, and what it is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepCount {
    /// Steps.
    pub steps: usize,
    /// What they gain, in the terms of the price.
    pub gain: f64,
}

/// What is known before a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum StepChoice {
    /// So many steps.
    Known(usize),
    /// The call's time decides, and no step was timed yet: these at least, until the first is.
    AtLeast(usize),
}

/// Seconds per step of a batch.
#[derive(Clone, Debug)]
struct Batch {
    samples: usize,
    /// Only the first step was seen: it finds cold caches, and its time tells less than any other.
    cold: bool,
    fit: Fit,
}

/// Finds the number of steps of each call.
#[derive(Clone, Debug)]
pub(crate) struct StepController {
    /// The fewest first; never empty.
    counts: Vec<StepCount>,
    /// What the price is multiplied with.
    weight: f64,
    batches: Vec<Batch>,
    settings: Settings,
    started: bool,
    /// Steps taken since the budget was set, and those of full compute.
    spent: f64,
    full: f64,
    /// Of the call in progress.
    samples: usize,
    began: f64,
    status: Status,
}

impl StepController {
    /// For these numbers of steps; one step where there are none.
    pub fn new(mut counts: Vec<StepCount>, weight: f64) -> StepController {
        if counts.is_empty() {
            counts.push(StepCount { steps: 1, gain: 0.0 });
        }
        StepController {
            counts,
            weight,
            batches: Vec::new(),
            settings: Settings::default(),
            started: false,
            spent: 0.0,
            full: 0.0,
            samples: 1,
            began: 0.0,
            status: Status::default(),
        }
    }

    /// How the budget fares.
    pub fn status(&self) -> Status {
        self.status
    }

    /// A call of so many samples begins at this time, in seconds from any origin.
    pub fn begin(&mut self, settings: &Settings, samples: usize, now: f64) -> StepChoice {
        if !self.started || self.settings.generation != settings.generation {
            (self.started, self.spent, self.full) = (true, 0.0, 0.0);
        }
        self.settings = *settings;
        (self.samples, self.began) = (samples.max(1), now);
        let reach = Reach::new(&self.counts, settings.limits);
        self.status.price = 0.0;
        let wanted = match settings.budget {
            Budget::Full => reach.high,
            Budget::Price(price) => {
                self.status.price = price.min(f64::from(f32::MAX)) as f32;
                self.best(price, reach)
            }
            Budget::Fraction(fraction) => self.within(fraction, reach),
            Budget::Latency(_) | Budget::Deadline(_) => {
                let Some(steps) = self.in_time(reach, now, 0) else {
                    self.aim(reach.low);
                    return StepChoice::AtLeast(reach.low);
                };
                steps
            }
        };
        self.aim(wanted);
        StepChoice::Known(wanted)
    }

    /// The call's first step has run: of the numbers of steps that begin with it, the one that the time left
    /// allows.
    pub fn after_first(&mut self, shared: &[usize], now: f64) -> usize {
        let counts = self.counts.iter().copied().filter(|c| shared.contains(&c.steps)).collect();
        let reach = Reach::new(&self.counts, self.settings.limits);
        let among = StepController { counts, ..self.clone() };
        let steps = among.in_time(reach, now, 1).unwrap_or(reach.low);
        self.aim(steps);
        steps
    }

    /// Takes note of a step's time.
    pub fn observe(&mut self, seconds: f64) {
        let samples = self.samples;
        let known = self.batches.iter().position(|batch| batch.samples == samples);
        let at = known.unwrap_or_else(|| {
            if self.batches.len() == MAX_BATCHES {
                self.batches.remove(0);
            }
            self.batches.push(Batch { samples, cold: true, fit: Fit::default() });
            self.batches.len() - 1
        });
        let Some(batch) = self.batches.get_mut(at) else { return };
        if known.is_some() && std::mem::take(&mut batch.cold) {
            batch.fit = Fit::default();
        }
        batch.fit.observe(1.0, seconds);
    }

    /// The call has ended after so many steps. Where their number was forced, the budget had no part in it, and is
    /// kept or not all the same.
    pub fn end(&mut self, steps: usize, forced: bool, now: f64) {
        let most = self.most() as f64;
        self.spent += steps as f64 * self.samples as f64;
        self.full += most * self.samples as f64;
        self.status.target = steps as f64 / most;
        let unmet = self.judge(steps, now - self.began);
        let short = steps as f64 / most < self.settings.limits.floor - SLACK;
        self.status.unmet = match forced {
            true => (unmet.is_some() || short).then_some(Unmet::OffTarget),
            false => unmet,
        };
    }

    fn aim(&mut self, steps: usize) {
        self.status.target = steps as f64 / self.most() as f64;
    }

    fn most(&self) -> usize {
        self.counts.last().map_or(1, |count| count.steps)
    }

    fn allowed(&self, reach: Reach) -> impl DoubleEndedIterator<Item = StepCount> {
        let inside = move |count: &StepCount| (reach.low..=reach.high).contains(&count.steps);
        self.counts.iter().copied().filter(inside)
    }

    /// The best gain less its price; the fewest of equals.
    fn best(&self, price: f64, reach: Reach) -> usize {
        let most = self.most() as f64;
        let worth = |c: StepCount| c.gain - price * self.weight * c.steps as f64 / most;
        let better = |best: Option<StepCount>, count: StepCount| match best {
            Some(best) if worth(best) >= worth(count) => Some(best),
            _ => Some(count),
        };
        self.allowed(reach).fold(None, better).map_or(reach.low, |count| count.steps)
    }

    /// The most steps with which the mean since the budget was set stays within a fraction.
    fn within(&self, fraction: f64, reach: Reach) -> usize {
        let (samples, most) = (self.samples as f64, self.most() as f64);
        let allowed = fraction * (1.0 + SLACK) * (self.full + most * samples);
        let fits = |count: &StepCount| self.spent + count.steps as f64 * samples <= allowed;
        self.allowed(reach).rev().find(fits).map_or(reach.low, |count| count.steps)
    }

    /// The most steps that end in time, `done` of which are; none where no step was timed.
    fn in_time(&self, reach: Reach, now: f64, done: usize) -> Option<usize> {
        let step = self.seconds_per_step()?;
        let left = self.seconds_allowed()? - (now - self.began);
        let fits = |c: &StepCount| c.steps.saturating_sub(done) as f64 * step <= left;
        Some(self.allowed(reach).rev().find(fits).map_or(reach.low, |count| count.steps))
    }

    /// Time for the call. Samples are made side by side, so that a latency is that of each.
    fn seconds_allowed(&self) -> Option<f64> {
        match self.settings.budget {
            Budget::Latency(t) => Some(t.as_secs_f64() * self.samples as f64),
            Budget::Deadline(t) => Some(t.as_secs_f64()),
            _ => None,
        }
    }

    /// Of this batch; of another scaled by its size, where this one was not seen.
    fn seconds_per_step(&self) -> Option<f64> {
        let samples = self.samples as f64;
        let mean = |batch: &Batch| Some(batch.fit.mean()? * samples / batch.samples as f64);
        let own = self.batches.iter().find(|batch| batch.samples == self.samples);
        own.or(self.batches.last()).and_then(mean)
    }

    fn judge(&self, steps: usize, seconds: f64) -> Option<Unmet> {
        let (least, most) = (self.counts.first().map_or(1, |c| c.steps) as f64, self.most() as f64);
        let Limits { floor, ceiling } = self.settings.limits;
        let above = |fraction: f64, limit: f64| fraction > limit * (1.0 + FRACTION_TOLERANCE);
        if above(steps as f64 / most, ceiling) {
            return Some(Unmet::Reach);
        }
        let raised = if above(floor, least / most) { Unmet::Floor } else { Unmet::Reach };
        match self.settings.budget {
            Budget::Fraction(fraction) if above(self.spent / self.full, fraction) => Some(raised),
            Budget::Latency(_) | Budget::Deadline(_) => {
                let allowed = self.seconds_allowed()? * (1.0 + TIME_TOLERANCE);
                (seconds > allowed).then_some(Unmet::Time)
            }
            _ => None,
        }
    }
}

/// Between which numbers of steps the limits let one choose.
#[derive(Clone, Copy, Debug)]
struct Reach {
    low: usize,
    high: usize,
}

impl Reach {
    /// No number of steps may lie between a floor and a ceiling: then the floor counts.
    fn new(counts: &[StepCount], limits: Limits) -> Reach {
        let most = counts.last().map_or(1, |count| count.steps);
        let share = |count: &StepCount| count.steps as f64 / most as f64;
        let low = counts.iter().find(|count| share(count) >= limits.floor - SLACK);
        let low = low.map_or(most, |count| count.steps);
        let high = counts.iter().rev().find(|count| share(count) <= limits.ceiling + SLACK);
        Reach { low, high: high.map_or(low, |count| count.steps).max(low) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn controller() -> StepController {
        let count = |steps: usize| StepCount { steps, gain: 1.0 - 1.0 / steps as f64 };
        StepController::new(vec![count(1), count(2), count(4)], 1.0)
    }

    fn settings(budget: Budget, limits: Limits) -> Settings {
        Settings { budget, limits, generation: 1 }
    }

    /// A machine on which a step takes so long, and its clock.
    struct Machine {
        controller: StepController,
        now: f64,
    }

    impl Machine {
        fn new() -> Machine {
            Machine { controller: controller(), now: 5.0 }
        }

        /// A call whose tables share their first step.
        fn call(&mut self, settings: &Settings, samples: usize, step: f64) -> usize {
            let choice = self.controller.begin(settings, samples, self.now);
            let mut steps = match choice {
                StepChoice::Known(steps) | StepChoice::AtLeast(steps) => steps,
            };
            let mut done = 0;
            while done < steps {
                self.now += step;
                self.controller.observe(step);
                done += 1;
                if done == 1 && matches!(choice, StepChoice::AtLeast(_)) {
                    steps = self.controller.after_first(&[1, 2, 4], self.now);
                }
            }
            self.controller.end(steps, false, self.now);
            steps
        }
    }

    #[test]
    fn full_and_prices_choose_by_what_steps_gain() {
        let mut machine = Machine::new();
        assert_eq!(machine.call(&settings(Budget::Full, Limits::default()), 1, 0.1), 4);
        // 4 to 2 steps lose 0.25 for half of the cost, 2 to 1 lose 0.5 for a quarter.
        for (price, steps) in [(0.0, 4), (0.49, 4), (0.51, 2), (1.99, 2), (2.01, 1), (1e300, 1)] {
            let settings = settings(Budget::Price(price), Limits::default());
            assert_eq!(machine.call(&settings, 1, 0.1), steps, "price {price}");
            assert!(machine.controller.status().met());
        }
    }

    #[test]
    fn limits_hold_with_any_budget() {
        let cases = [
            ((0.0, 0.6), Budget::Full, 2, None),
            ((0.0, 0.25), Budget::Full, 1, None),
            ((0.0, 0.1), Budget::Full, 1, Some(Unmet::Reach)),
            ((0.5, 1.0), Budget::Price(9.0), 2, None),
            ((0.6, 0.7), Budget::Full, 4, Some(Unmet::Reach)),
            ((0.5, 1.0), Budget::Fraction(0.25), 2, Some(Unmet::Floor)),
            ((0.0, 1.0), Budget::Fraction(0.1), 1, Some(Unmet::Reach)),
            ((0.0, 1.0), Budget::Fraction(1.0), 4, None),
        ];
        for ((floor, ceiling), budget, steps, unmet) in cases {
            let mut machine = Machine::new();
            let settings = settings(budget, Limits { floor, ceiling });
            assert_eq!(machine.call(&settings, 1, 0.1), steps, "{budget} {floor} {ceiling}");
            assert_eq!(machine.controller.status().unmet, unmet, "{budget} {floor} {ceiling}");
        }
    }

    #[test]
    fn a_forced_number_of_steps_keeps_a_budget_or_not() {
        let limited = |floor, ceiling| Limits { floor, ceiling };
        let time = Duration::from_millis(250);
        let cases = [
            (Budget::Full, Limits::default(), 4, None),
            (Budget::Fraction(0.5), Limits::default(), 2, None),
            (Budget::Fraction(0.25), Limits::default(), 4, Some(Unmet::OffTarget)),
            (Budget::Full, limited(0.0, 0.3), 4, Some(Unmet::OffTarget)),
            (Budget::Full, limited(0.5, 1.0), 1, Some(Unmet::OffTarget)),
            (Budget::Deadline(time), Limits::default(), 2, None),
            (Budget::Deadline(time), Limits::default(), 4, Some(Unmet::OffTarget)),
        ];
        for (budget, limits, steps, unmet) in cases {
            let mut controller = controller();
            controller.begin(&settings(budget, limits), 1, 5.0);
            controller.end(steps, true, 5.0 + 0.1 * steps as f64);
            assert_eq!(controller.status().unmet, unmet, "{budget} {limits:?} {steps}");
        }
    }

    #[test]
    fn a_fraction_is_kept_in_the_mean_of_all_calls() {
        for fraction in [0.25, 0.3, 0.4, 0.6, 0.8, 1.0] {
            let mut machine = Machine::new();
            let settings = settings(Budget::Fraction(fraction), Limits::default());
            let steps: usize = (0..100).map(|_| machine.call(&settings, 1, 0.1)).sum();
            let mean = steps as f64 / 400.0;
            assert!((fraction - 0.01..=fraction + 1e-6).contains(&mean), "{fraction}: {mean}");
            assert!(machine.controller.status().met(), "{fraction}");
        }
    }

    #[test]
    fn a_deadline_takes_the_steps_that_end_in_time_from_the_first_call_on() {
        for (deadline, steps, met) in
            [(450, 4, true), (390, 2, true), (150, 1, true), (50, 1, false)]
        {
            let mut machine = Machine::new();
            let budget = Budget::Deadline(Duration::from_millis(deadline));
            let settings = settings(budget, Limits::default());
            for call in 0..3 {
                assert_eq!(machine.call(&settings, 1, 0.1), steps, "{deadline} ms, call {call}");
                let unmet = (!met).then_some(Unmet::Time);
                assert_eq!(machine.controller.status().unmet, unmet, "{deadline} ms");
            }
        }
    }

    #[test]
    fn a_machine_that_slows_down_takes_fewer_steps() {
        let mut machine = Machine::new();
        let budget = Budget::Deadline(Duration::from_millis(450));
        let settings = settings(budget, Limits::default());
        assert_eq!(machine.call(&settings, 1, 0.1), 4);
        let last = (0..6).map(|_| machine.call(&settings, 1, 0.2)).last();
        assert_eq!(last, Some(2));
        assert!(machine.controller.status().met());
    }

    #[test]
    fn a_latency_is_that_of_each_sample_and_batches_are_timed_apart() {
        let mut machine = Machine::new();
        let latency = Budget::Latency(Duration::from_millis(250));
        let settings = settings(latency, Limits::default());
        // A step of one sample takes 100 ms, one of four 240: 60 for each.
        assert_eq!(machine.call(&settings, 1, 0.1), 2);
        assert_eq!(machine.call(&settings, 4, 0.24), 2);
        assert_eq!(machine.call(&settings, 4, 0.24), 4);
        assert_eq!(machine.call(&settings, 1, 0.1), 2);
        assert!(machine.controller.status().met());
    }

    #[test]
    fn only_tables_that_begin_alike_are_taken_up_after_the_first_step() {
        let mut controller = controller();
        let budget = Budget::Deadline(Duration::from_secs(10));
        let settings = settings(budget, Limits::default());
        assert_eq!(controller.begin(&settings, 1, 0.0), StepChoice::AtLeast(1));
        controller.observe(0.1);
        assert_eq!(controller.after_first(&[1, 2], 0.1), 2);
        // Timed, the most are known to fit.
        controller.end(2, false, 0.2);
        assert_eq!(controller.begin(&settings, 1, 0.3), StepChoice::Known(4));
    }
}
