//! What another thread may touch while a call runs: the cancel flag, the budget and how it fares.

mod parts;
mod shared;

use std::fmt;
use std::sync::Arc;

use crate::budget::{Budget, Limits};
use crate::controller::Status;
use crate::error::Result;
use parts::{SettingsParts, of_settings, of_status, to_settings, to_status};
use shared::{Flag, Words};

/// A handle on a session's or an encoder's cancel flag and budget. Clones share both; any thread
/// may use one at any time, and it may outlive what it controls.
///
/// Cancelling and setting a budget never wait: they are a bounded number of atomic operations, also
/// from a signal handler that has interrupted another setting. Who sees a flag that was raised or
/// lowered sees also the budget that was set before.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

struct Shared {
    cancelled: Flag,
    settings: Words<13>,
    status: Words<9>,
}

impl Default for Control {
    fn default() -> Control {
        Control(Arc::new(Shared {
            cancelled: Flag::new(),
            settings: Words::new(of_settings(Budget::Full, Limits::default())),
            status: Words::new(of_status(Status::default())),
        }))
    }
}

/// A budget with its limits, as set at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// What compute is allowed.
    pub budget: Budget,
    /// Bounds on the fraction.
    pub limits: Limits,
    /// Grows each time a budget is set, the same one included: running means begin anew then.
    pub generation: u64,
}

impl Control {
    /// Whether both are handles on the same thing.
    pub(crate) fn is(&self, other: &Control) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Asks running calls to stop at the next chunk or token.
    pub fn cancel(&self) {
        self.0.cancelled.set(true);
    }

    /// Lets calls run again after [`Control::cancel`].
    pub fn reset(&self) {
        self.0.cancelled.set(false);
    }

    /// Whether calls are to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.is_up()
    }

    /// Sets the budget and its limits together, from the next token on. Running means begin anew.
    /// Of settings that overlap in time the one that began last stays.
    ///
    /// # Errors
    /// A value out of range, as [`Budget::check`] and [`Limits::new`] have it; the budget stays as
    /// it was then.
    pub fn set_budget(&self, budget: Budget, limits: Limits) -> Result<()> {
        let budget = budget.check()?;
        let limits = Limits::new(limits.floor, limits.ceiling)?;
        self.0.settings.set(of_settings(budget, limits));
        Ok(())
    }

    /// The budget and its limits as last set. Waits while another thread is in the midst of setting one.
    pub fn settings(&self) -> Settings {
        Settings::new(self.0.settings.wait())
    }

    /// Brings `settings` up to date without waiting: one read where nothing was set since. A budget
    /// that is being set at this moment is seen the next time.
    pub(crate) fn refresh(&self, settings: &mut Settings) {
        if self.0.settings.newest() != settings.generation
            && let Some(new) = self.0.settings.get()
        {
            *settings = Settings::new(new);
        }
    }

    /// How the budget fares, as it stood before the chunk in progress or after the last one. Waits
    /// while another thread is in the midst of writing it.
    pub fn status(&self) -> Status {
        let (_, parts) = self.0.status.wait();
        to_status(parts)
    }

    /// What [`Control::status`] gives from now on.
    pub(crate) fn set_status(&self, status: Status) {
        self.0.status.set(of_status(status));
    }
}

impl Settings {
    fn new((generation, parts): (u64, SettingsParts)) -> Settings {
        let (budget, limits) = to_settings(parts);
        Settings { budget, limits, generation }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("cancelled", &self.is_cancelled())
            .field("settings", &self.settings())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn every_budget_reads_back_as_it_was_set() {
        let control = Control::default();
        assert_eq!(control.settings(), Settings::default());
        let limits = Limits { floor: 0.1, ceiling: 0.7 };
        let budgets = [
            Budget::Fraction(0.6),
            Budget::Price(1e300),
            Budget::Latency(Duration::from_micros(8123)),
            Budget::Deadline(Duration::from_secs(86_400)),
            Budget::Full,
        ];
        let mut seen = Settings::default();
        for (budget, generation) in budgets.into_iter().zip(1..) {
            control.set_budget(budget, limits).unwrap();
            assert_eq!(control.settings(), Settings { budget, limits, generation });
            control.clone().refresh(&mut seen);
            assert_eq!(seen, control.settings());
        }
        // A time beyond what the words hold stays a time.
        control.set_budget(Budget::Latency(Duration::MAX), Limits::default()).unwrap();
        let most = Budget::Latency(Duration::from_nanos(u64::MAX));
        assert_eq!(control.settings().budget, most);
    }

    #[test]
    fn values_out_of_range_change_nothing() {
        let control = Control::default();
        control.set_budget(Budget::Fraction(0.5), Limits::default()).unwrap();
        let before = control.settings();
        let crossed = Limits { floor: 0.8, ceiling: 0.2 };
        for (budget, limits) in [
            (Budget::Fraction(f64::NAN), Limits::default()),
            (Budget::Fraction(0.0), Limits::default()),
            (Budget::Price(-1.0), Limits::default()),
            (Budget::Price(f64::INFINITY), Limits::default()),
            (Budget::Latency(Duration::ZERO), Limits::default()),
            (Budget::Full, crossed),
            (Budget::Full, Limits { floor: f64::NAN, ceiling: 1.0 }),
        ] {
            let e = control.set_budget(budget, limits).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput, "{budget} {limits:?}");
        }
        assert_eq!(control.settings(), before);
    }

    #[test]
    fn cancelling_is_seen_by_clones_until_reset() {
        let control = Control::default();
        let other = control.clone();
        other.cancel();
        assert!(control.is_cancelled());
        control.reset();
        assert!(!other.is_cancelled());
    }

    /// Settings of which each part follows from one number.
    fn linked(n: u32) -> (Budget, Limits) {
        let share = f64::from(n % 1000 + 1) / 1024.0;
        let limits = Limits { floor: share / 4.0, ceiling: share };
        match n % 3 {
            0 => (Budget::Fraction(share / 2.0), limits),
            1 => (Budget::Price(share * 3.0), limits),
            _ => (Budget::Latency(Duration::from_nanos((share * 1024.0) as u64)), limits),
        }
    }

    fn is_linked(settings: &Settings) -> bool {
        let n = (settings.limits.ceiling * 1024.0) as u32 - 1;
        (0..3).any(|k| linked(n + 1000 * k) == (settings.budget, settings.limits))
    }

    #[test]
    fn readers_never_see_a_mix_of_two_settings() {
        const WRITES: u32 = 20_000;
        let control = Control::default();
        let (budget, limits) = linked(1);
        control.set_budget(budget, limits).unwrap();
        let running = AtomicU64::new(2);
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let (control, running) = (&control, &running);
                scope.spawn(move || {
                    for i in 0..WRITES {
                        let (budget, limits) = linked(i * 7 + writer * 500);
                        control.set_budget(budget, limits).unwrap();
                    }
                    running.fetch_sub(1, Ordering::Release);
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = Settings::default();
                    while running.load(Ordering::Acquire) > 0 {
                        let last = seen.generation;
                        control.refresh(&mut seen);
                        assert!(seen.generation >= last);
                        assert!(seen.generation == 0 || is_linked(&seen), "{seen:?}");
                        let now = control.settings();
                        assert!(is_linked(&now), "{now:?}");
                    }
                });
            }
        });
        assert_eq!(control.settings().generation, u64::from(2 * WRITES) + 1);
        assert!(!is_linked(&Settings::default()), "the check would see a mix");
    }
}
