//! The budget controller: finds the price of compute that keeps a budget.
//!
//! A price moves every site of a plan at once. [`Curve`] says what fraction of the full compute a
//! price leads to; a tracker follows a target fraction with it and corrects by what was spent; a
//! budget of time is turned into such a target by a fit of the time to the fraction. The controller
//! is a function of what it is told: it reads no clock.

mod curve;
mod judge;
#[cfg(test)]
mod simulation;
pub(crate) mod steps;
mod timing;
mod tracker;

use std::fmt;

use serde::Serialize;

use crate::budget::{Budget, Limits};
use crate::control::Settings;

pub use curve::Curve;
use timing::Fit;
use tracker::Tracker;

/// Relative tolerance of a mean fraction, once there are tokens enough that it is more than one
/// token's compute.
const FRACTION_TOLERANCE: f64 = 0.02;
/// Relative tolerance of a time.
const TIME_TOLERANCE: f64 = 0.05;
/// A call whose speed is not known yet begins at the lowest fraction where its first chunk is more
/// than this share of it, and a token of that chunk has less time than this many seconds.
const BLIND_SHARE: f64 = 0.125;
const BLIND_SECONDS: f64 = 0.05;

/// Why a budget is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Unmet {
    /// The plan has no site.
    Dense,
    /// The floor is above the target.
    Floor,
    /// The student spends less than the floor even at price 0.
    BelowFloor,
    /// The target is below the lowest fraction that the plan can reach.
    Reach,
    /// Even the cheapest tokens that the limits allow take too long.
    Time,
    /// What was spent of late is off the target.
    OffTarget,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unmet::Dense => "the plan has no place where compute can vary",
            Unmet::Floor => "the floor is above it",
            Unmet::BelowFloor => "the student spends less than the floor even at full compute",
            Unmet::Reach => {
                "it, or the ceiling, is below the lowest fraction that the plan can reach"
            }
            Unmet::Time => "even the cheapest choices take longer",
            Unmet::OffTarget => "what was spent is off the target",
        })
    }
}

/// How a budget fares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status {
    /// Why the budget is not kept; `None` where it is. Judged by running estimates, with a
    /// tolerance of 2 % for fractions (or one token's compute, while that is more) and of 5 % for
    /// times; a time by what the first chunk took, until there are more. Spending less than allowed at
    /// price 0 keeps a budget, unless it is less than the floor, and so does being early. A plan
    /// without sites keeps no fraction below 1 and no time, however fast it is: nothing can be turned.
    pub unmet: Option<Unmet>,
    /// The fraction that is aimed at; under a price that which it is expected to lead to.
    pub target: f64,
    /// The price last given.
    pub price: f32,
}

impl Default for Status {
    /// Of a budget of full compute, before anything ran.
    fn default() -> Status {
        Status { unmet: None, target: 1.0, price: 0.0 }
    }
}

impl Status {
    /// Whether the budget is kept.
    pub fn met(&self) -> bool {
        self.unmet.is_none()
    }
}

/// A chunk about to run.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// The clock in seconds, from any origin.
    pub now: f64,
    /// Rows of the chunk.
    pub tokens: usize,
    /// Tokens by which the chunk advances the sequence that it advances most: `latency` is counted
    /// in these, so that sequences decoded as one batch share a step's time.
    pub steps: usize,
}

/// What a chunk spent.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// As in [`Ahead`].
    pub tokens: usize,
    /// As in [`Ahead`].
    pub steps: usize,
    /// Multiply-adds spent.
    pub macs: u64,
    /// Multiply-adds with every site at its largest choice.
    pub full_macs: u64,
    /// Time that it took.
    pub seconds: f64,
    /// The clock after it.
    pub now: f64,
}

/// Finds the price before each chunk of tokens from what the ones before spent.
#[derive(Clone, Debug)]
pub struct Controller {
    /// `None` for a plan without sites.
    tracker: Option<Tracker>,
    /// Of single tokens and of longer chunks, whose tokens cost less time.
    fits: [Fit; 2],
    /// No single token was seen yet: the first finds cold caches, and its time tells little.
    cold: bool,
    settings: Settings,
    started: bool,
    since: Since,
    call: Call,
    /// Rows and steps of the chunk last asked about.
    chunk: (f64, f64),
    now: f64,
    status: Status,
}

/// Sums since the budget was set.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    time: f64,
    all: Sum,
    /// Of what ran at price 0.
    unpriced: Sum,
    /// The last chunk's fraction.
    last: Option<f64>,
    /// Seconds per step of the last chunk.
    seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    tokens: f64,
    macs: f64,
    full_macs: f64,
}

impl Sum {
    fn add(&mut self, tokens: f64, macs: f64, full_macs: f64) {
        self.tokens += tokens;
        self.macs += macs;
        self.full_macs += full_macs;
    }

    /// The mean fraction with its relative tolerance, once something was spent.
    fn fraction(&self) -> Option<(f64, f64)> {
        let tolerance = FRACTION_TOLERANCE.max(1.0 / self.tokens);
        (self.full_macs > 0.0).then(|| (self.macs / self.full_macs, tolerance))
    }
}

/// The call in progress.
#[derive(Clone, Copy, Debug, Default)]
struct Call {
    expected: f64,
    done: f64,
    began: f64,
}

/// Fractions between which a target must lie.
#[derive(Clone, Copy, Debug)]
struct Reach {
    low: f64,
    high: f64,
    /// The fraction at price 0.
    highest: f64,
    /// What the lower end is due to.
    limit: Unmet,
}

impl Reach {
    fn new(curve: &Curve, limits: Limits) -> Reach {
        let (lowest, highest) = (curve.lowest(), curve.highest());
        let low = lowest.max(limits.floor).min(highest);
        let high = highest.min(limits.ceiling).max(low);
        let limit = if limits.floor > lowest { Unmet::Floor } else { Unmet::Reach };
        Reach { low, high, highest, limit }
    }
}

impl Controller {
    /// A controller for a plan with this curve; without one for a plan that has no site.
    pub fn new(curve: Option<Curve>) -> Controller {
        Controller::with(curve.map(Tracker::new))
    }

    /// The same for students whose calls stand by themselves, encoders and classifiers: a fraction is
    /// the mean of all calls, but no call departs far from it to make up for others.
    pub fn per_call(curve: Option<Curve>) -> Controller {
        Controller::with(curve.map(Tracker::per_call))
    }

    fn with(tracker: Option<Tracker>) -> Controller {
        Controller {
            tracker,
            fits: [Fit::default(), Fit::default()],
            cold: true,
            settings: Settings::default(),
            started: false,
            since: Since::default(),
            call: Call::default(),
            chunk: (1.0, 1.0),
            now: f64::MIN,
            status: Status::default(),
        }
    }

    /// How the budget fares.
    pub fn status(&self) -> Status {
        self.status
    }

    /// A call begins that will run this many rows, as far as is known: `deadline` spends its time
    /// evenly over them.
    pub fn begin_call(&mut self, expected_tokens: usize, now: f64) {
        self.tick(now);
        self.call = Call { expected: expected_tokens as f64, done: 0.0, began: self.now };
    }

    /// The price for the next chunk: in 0..=[`Curve::max_price`], or exactly that of
    /// [`Budget::Price`] where no limit binds it.
    pub fn next_price(&mut self, settings: &Settings, ahead: Ahead) -> f32 {
        self.tick(ahead.now);
        if !self.started || self.settings.generation != settings.generation {
            self.started = true;
            self.since = Since { time: self.now, ..Since::default() };
            self.status.unmet = None;
            self.tracker.iter_mut().for_each(Tracker::restart);
            self.fits.iter_mut().for_each(Fit::restart);
        }
        self.settings = *settings;
        let Some(tracker) = &self.tracker else {
            self.status = dense(settings);
            return self.status.price;
        };
        self.chunk = (ahead.tokens.max(1) as f64, ahead.steps.max(1) as f64);
        let curve = tracker.curve();
        let reach = Reach::new(curve, settings.limits);
        if let Budget::Price(price) = settings.budget {
            let bounded = bounded_price(curve, reach, price);
            self.status.target = curve.fraction(bounded);
            self.status.price = bounded.min(f64::from(f32::MAX)) as f32;
        } else {
            let target = self.target(reach);
            let all = settings.budget == Budget::Full && reach.high >= curve.highest()
                || settings.limits.floor > curve.highest();
            let price = if all { 0.0 } else { tracker.price(target, self.chunk.0) };
            self.status.target = target;
            self.status.price = price.min(f64::from(f32::MAX)) as f32;
        }
        self.status.unmet = self.judge(reach);
        self.status.price
    }

    /// Takes note of what a chunk spent at the price last given.
    pub fn observe(&mut self, seen: Observation) {
        self.tick(seen.now);
        let Some(tracker) = &mut self.tracker else { return };
        if seen.tokens == 0 {
            return;
        }
        let tokens = seen.tokens as f64;
        self.call.done += tokens;
        if seen.full_macs > 0 {
            let full = seen.full_macs as f64;
            let macs = (seen.macs as f64).min(full);
            let budget = self.settings.budget;
            let target = (!matches!(budget, Budget::Price(_))).then_some(self.status.target);
            let leaky = matches!(budget, Budget::Latency(_) | Budget::Deadline(_));
            tracker.observe(f64::from(self.status.price), tokens, macs, full, target, leaky);
            self.since.all.add(tokens, macs, full);
            self.since.last = Some(macs / full);
            if self.status.price == 0.0 {
                self.since.unpriced.add(tokens, macs, full);
            }
            let [single, chunk] = &mut self.fits;
            let seconds = seen.seconds / seen.steps.max(1) as f64;
            self.since.seconds = Some(seconds);
            if seen.steps > 1 {
                chunk.observe(macs / full, seconds);
            } else if !std::mem::take(&mut self.cold) {
                single.observe(macs / full, seconds);
            }
        }
        let reach = Reach::new(tracker.curve(), self.settings.limits);
        self.status.unmet = self.judge(reach);
    }

    /// A clock that stands still, runs backwards or is no number gives no time.
    fn tick(&mut self, now: f64) {
        if now.is_finite() {
            self.now = self.now.max(now);
        }
    }
}

/// A raw price, bound only by limits that are tighter than what the plan reaches anyway. It reads
/// the curve as it was given, so that the same price always means the same.
fn bounded_price(curve: &Curve, reach: Reach, price: f64) -> f64 {
    let most = if reach.low > curve.lowest() { curve.price(reach.low) } else { f64::INFINITY };
    let least = if reach.high < curve.highest() { curve.price(reach.high) } else { 0.0 };
    price.min(most).max(least)
}

/// What a plan without sites does with a budget.
fn dense(settings: &Settings) -> Status {
    let (price, met) = match settings.budget {
        Budget::Full => (0.0, true),
        Budget::Price(p) => (p.min(f64::from(f32::MAX)) as f32, true),
        Budget::Fraction(f) => (0.0, f >= 1.0),
        Budget::Latency(_) | Budget::Deadline(_) => (0.0, false),
    };
    let met = met && settings.limits.ceiling >= 1.0;
    Status { unmet: (!met).then_some(Unmet::Dense), target: 1.0, price }
}
