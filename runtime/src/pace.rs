//! The controller with its clock: what a session or an encoder asks before a chunk and tells after.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use crate::backend::Spent;
use crate::budget::Budget;
use crate::control::{Control, Settings};
use crate::controller::{Ahead, Controller, Curve, Observation, Status, Unmet};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Level, Logger};

/// Keeps the budget of one session or encoder.
pub(crate) struct Pace {
    control: Control,
    settings: Settings,
    controller: Controller,
    origin: Instant,
    in_call: bool,
    chunk: Ahead,
    teller: Teller,
}

/// Tells other threads and the logger how a budget fares.
pub(crate) struct Teller {
    logger: Logger,
    /// The status that other threads read.
    published: Option<Status>,
    /// What was last told of the budget.
    told: Option<Unmet>,
}

impl Teller {
    pub fn new(logger: &Logger) -> Teller {
        Teller { logger: logger.clone(), published: None, told: None }
    }

    /// Lets other threads read the status, where it is another one.
    pub fn publish(&mut self, control: &Control, status: Status) {
        if self.published != Some(status) {
            self.published = Some(status);
            control.set_status(status);
        }
    }

    /// Tells the logger when a budget begins or ceases to be kept.
    pub fn tell(&mut self, budget: Budget, unmet: Option<Unmet>) {
        if unmet == self.told {
            return;
        }
        self.told = unmet;
        match unmet {
            Some(reason) => self
                .logger
                .tell(Level::Warn, || format!("the budget {budget} is not met: {reason}")),
            None => self.logger.tell(Level::Info, || format!("the budget {budget} is met")),
        }
    }
}

/// Whether a control lets a call go on.
///
/// # Errors
/// Cancellation.
pub(crate) fn check_cancelled(control: &Control) -> Result<()> {
    if control.is_cancelled() {
        return Err(Error::new(ErrorKind::Cancelled, "the call was cancelled"));
    }
    Ok(())
}

/// Runs `body` as a call of `runner` with this many rows expected, or as a part of the call that it lies in. It
/// ends also where a sink of the caller's panics.
pub(crate) fn call<R, T>(
    runner: &mut R,
    pace: impl Fn(&mut R) -> &mut Pace,
    expected_tokens: usize,
    body: impl FnOnce(&mut R) -> T,
) -> T {
    let outermost = pace(runner).begin_call(expected_tokens);
    let result = catch_unwind(AssertUnwindSafe(|| body(runner)));
    if outermost {
        pace(runner).end_call();
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

impl Pace {
    /// With the curve of the plan; `None` for a plan without sites.
    pub fn new(curve: Option<Curve>, logger: &Logger) -> Pace {
        Pace::with(Controller::new(curve), logger)
    }

    /// The same for calls that stand by themselves.
    pub fn per_call(curve: Option<Curve>, logger: &Logger) -> Pace {
        Pace::with(Controller::per_call(curve), logger)
    }

    fn with(controller: Controller, logger: &Logger) -> Pace {
        Pace {
            control: Control::default(),
            settings: Settings::default(),
            controller,
            origin: Instant::now(),
            in_call: false,
            chunk: Ahead { now: 0.0, tokens: 1, steps: 1 },
            teller: Teller::new(logger),
        }
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    pub fn status(&self) -> Status {
        self.control.status()
    }

    /// Begins a call of this many rows, unless it is a part of one: whether it began one.
    fn begin_call(&mut self, expected_tokens: usize) -> bool {
        if self.in_call {
            return false;
        }
        self.in_call = true;
        let now = self.now();
        self.controller.begin_call(expected_tokens, now);
        true
    }

    /// Ends the call.
    fn end_call(&mut self) {
        self.in_call = false;
    }

    /// Before a chunk of `tokens` rows that advances a sequence by up to `steps`: its price.
    ///
    /// # Errors
    /// Cancellation.
    pub fn next(&mut self, tokens: usize, steps: usize) -> Result<f32> {
        check_cancelled(&self.control)?;
        self.control.refresh(&mut self.settings);
        self.chunk = Ahead { now: self.now(), tokens, steps };
        let price = self.controller.next_price(&self.settings, self.chunk);
        self.teller.publish(&self.control, self.controller.status());
        Ok(price)
    }

    /// After that chunk.
    pub fn observe(&mut self, spent: Spent) {
        let Ahead { now: before, tokens, steps } = self.chunk;
        let now = self.now();
        let (macs, full_macs) = (spent.macs, spent.full_macs);
        let seconds = now - before;
        self.controller.observe(Observation { tokens, steps, macs, full_macs, seconds, now });
        let status = self.controller.status();
        self.teller.publish(&self.control, status);
        self.teller.tell(self.settings.budget, status.unmet);
    }

    /// Seconds since the pace was made.
    fn now(&self) -> f64 {
        self.origin.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Limits;
    use crate::controller::Unmet;

    fn adaptive() -> Pace {
        Pace::new(Some(Curve::new(&[(2.0, 0.5)]).unwrap()), &Logger::default())
    }

    #[test]
    fn a_budget_set_elsewhere_reaches_the_next_price() {
        let mut pace = adaptive();
        assert_eq!(pace.next(4, 4).unwrap(), 0.0);
        pace.observe(Spent { macs: 10, full_macs: 10, ..Spent::default() });
        let control = pace.control().clone();
        std::thread::spawn(move || control.set_budget(Budget::Price(0.75), Limits::default()))
            .join()
            .unwrap()
            .unwrap();
        assert_eq!(pace.next(1, 1).unwrap(), 0.75);
        pace.control().set_budget(Budget::Fraction(0.75), Limits::default()).unwrap();
        assert_eq!(pace.next(1, 1).unwrap(), 1.0);
        assert_eq!(pace.status().target, 0.75);
        // A backend that spends everything whatever the price is found out.
        for _ in 0..100 {
            pace.observe(Spent { macs: 10, full_macs: 10, ..Spent::default() });
            pace.next(1, 1).unwrap();
        }
        assert_eq!(pace.status().unmet, Some(Unmet::Reach));
        assert_eq!(pace.status().price, 2.0);
    }

    #[test]
    fn a_first_call_saves_compute_only_where_its_time_is_short() {
        for (deadline, price) in [(100_000, 0.0), (10, 2.0)] {
            let mut pace = adaptive();
            let budget = Budget::Deadline(std::time::Duration::from_millis(deadline));
            pace.control().set_budget(budget, Limits::default()).unwrap();
            pace.begin_call(8);
            assert_eq!(pace.next(8, 8).unwrap(), price, "{deadline} ms");
        }
    }

    #[test]
    fn an_unmet_budget_is_told_once() {
        let heard: std::sync::Arc<std::sync::Mutex<Vec<String>>> = Default::default();
        let sink = heard.clone();
        let logger = Logger::new(Level::Info, move |_, m| sink.lock().unwrap().push(m.to_owned()));
        let mut pace = Pace::new(None, &logger);
        let mut run = |budget| {
            pace.control().set_budget(budget, Limits::default()).unwrap();
            for _ in 0..3 {
                pace.next(1, 1).unwrap();
                pace.observe(Spent { macs: 10, full_macs: 10, ..Spent::default() });
            }
        };
        run(Budget::Fraction(0.5));
        run(Budget::Full);
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), 2, "{heard:?}");
        assert!(heard[0].starts_with("the budget 0.5 is not met: "), "{heard:?}");
        assert_eq!(heard[1], "the budget full is met");
    }

    #[test]
    fn a_cancelled_pace_gives_no_price_until_reset() {
        let mut pace = adaptive();
        pace.control().cancel();
        assert_eq!(pace.next(1, 1).unwrap_err().kind(), ErrorKind::Cancelled);
        pace.control().reset();
        assert!(pace.next(1, 1).is_ok());
    }

    #[test]
    fn a_call_within_a_call_is_a_part_of_it() {
        let mut pace = adaptive();
        assert!(pace.begin_call(10));
        assert!(!pace.begin_call(1));
        pace.end_call();
        assert!(pace.begin_call(1));
    }

    #[test]
    fn a_call_that_panics_ends() {
        let mut pace = adaptive();
        let panics = || call(&mut pace, |pace| pace, 10, |_| panic!("of a sink"));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert!(call(&mut pace, |pace| pace, 1, |pace| pace.in_call && !pace.begin_call(1)));
        assert!(!pace.in_call);
    }
}
