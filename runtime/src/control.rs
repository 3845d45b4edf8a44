//! What another thread may touch while a call runs: the cancel flag and the budget.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::budget::{Budget, Limits};
use crate::error::Result;

/// A handle on a session's or an encoder's cancel flag and budget. Clones share both; any thread
/// may use one at any time, and it may outlive what it controls.
///
/// Nothing here waits: setting a budget is a bounded number of atomic operations, also from a signal
/// handler that has interrupted another setting.
#[derive(Clone, Default)]
pub struct Control(Arc<Shared>);

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    /// Budgets set so far.
    generation: AtomicU64,
    words: Words,
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
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Lets calls run again after [`Control::cancel`].
    pub fn reset(&self) {
        self.0.cancelled.store(false, Ordering::Relaxed);
    }

    /// Whether calls are to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Sets the budget and its limits together, from the next token on. Running means begin anew.
    /// Of settings that overlap in time the one that began last stays.
    ///
    /// # Errors
    /// A value out of range, as [`Budget::check`] and [`Limits::new`] have it; the budget stays as
    /// it was then.
    pub fn set_budget(&self, budget: Budget, limits: Limits) -> Result<()> {
        let budget = budget.check()?;
        let Limits { floor, ceiling } = Limits::new(limits.floor, limits.ceiling)?;
        let generation = self.0.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let (kind, value) = encode(budget);
        self.0.words.store(generation, kind, [value, floor.to_bits(), ceiling.to_bits()]);
        Ok(())
    }

    /// The budget and its limits as last set.
    pub fn settings(&self) -> Settings {
        loop {
            if let Some(settings) = self.0.words.load() {
                return settings;
            }
            std::hint::spin_loop();
        }
    }

    /// Brings `settings` up to date without waiting: one read where nothing was set since. A budget
    /// that is being set at this moment is seen the next time.
    pub(crate) fn refresh(&self, settings: &mut Settings) {
        if self.0.words.newest() != settings.generation
            && let Some(new) = self.0.words.load()
        {
            *settings = new;
        }
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

/// Bits of an atomic word that hold a part of the settings; the others hold their generation.
const PART_BITS: u32 = 16;
const PARTS_OF_VALUE: usize = 64 / PART_BITS as usize;
/// The kind, and three values of 64 bits: the budget's, the floor, the ceiling.
const PARTS: usize = 1 + 3 * PARTS_OF_VALUE;

/// Settings cut into parts, each in one atomic word with the generation it belongs to.
///
/// A word only ever moves to a later generation, so once all settings are done each word is of the
/// latest, however they overlapped. Parts that carry the same generation were written by the same
/// setting: a reader needs no order between words to know that it sees no mix. Generations of 48
/// bits do not run out.
struct Words([AtomicU64; PARTS]);

impl Default for Words {
    fn default() -> Words {
        let words = Words(std::array::from_fn(|_| AtomicU64::new(0)));
        let Limits { floor, ceiling } = Limits::default();
        let (kind, value) = encode(Budget::Full);
        words.store(0, kind, [value, floor.to_bits(), ceiling.to_bits()]);
        words
    }
}

impl Words {
    fn store(&self, generation: u64, kind: u64, values: [u64; 3]) {
        let parts = values.iter().flat_map(|v| (0..PARTS_OF_VALUE).map(move |i| part(*v, i)));
        // The kind's word is read first by `newest`, and so written last.
        let (first, rest) = self.0.split_at(1);
        for (word, part) in rest.iter().zip(parts) {
            word.fetch_max(generation << PART_BITS | part, Ordering::Release);
        }
        for word in first {
            word.fetch_max(generation << PART_BITS | kind, Ordering::Release);
        }
    }

    /// The generation of the first word.
    fn newest(&self) -> u64 {
        let [first, ..] = &self.0;
        first.load(Ordering::Acquire) >> PART_BITS
    }

    /// The settings, unless some are being written.
    fn load(&self) -> Option<Settings> {
        let words = self.0.each_ref().map(|w| w.load(Ordering::Acquire));
        let [first, rest @ ..] = words;
        let generation = first >> PART_BITS;
        if rest.iter().any(|w| w >> PART_BITS != generation) {
            return None;
        }
        let mut values = rest
            .chunks(PARTS_OF_VALUE)
            .map(|parts| parts.iter().rev().fold(0, |value, w| value << PART_BITS | part(*w, 0)));
        let budget = decode(part(first, 0), values.next()?)?;
        let [floor, ceiling] = [f64::from_bits(values.next()?), f64::from_bits(values.next()?)];
        Some(Settings { budget, limits: Limits { floor, ceiling }, generation })
    }
}

fn part(value: u64, index: usize) -> u64 {
    value >> (index as u32 * PART_BITS) & ((1 << PART_BITS) - 1)
}

fn encode(budget: Budget) -> (u64, u64) {
    let nanos = |t: Duration| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX);
    match budget {
        Budget::Full => (0, 0),
        Budget::Fraction(f) => (1, f.to_bits()),
        Budget::Price(p) => (2, p.to_bits()),
        Budget::Latency(t) => (3, nanos(t)),
        Budget::Deadline(t) => (4, nanos(t)),
    }
}

fn decode(kind: u64, value: u64) -> Option<Budget> {
    Some(match kind {
        0 => Budget::Full,
        1 => Budget::Fraction(f64::from_bits(value)),
        2 => Budget::Price(f64::from_bits(value)),
        3 => Budget::Latency(Duration::from_nanos(value)),
        4 => Budget::Deadline(Duration::from_nanos(value)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
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
