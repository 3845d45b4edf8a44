//! Decides how many workers to leave out of regions.
//!
//! Where another process wants a core, the system takes it from a thread of the pool every few
//! milliseconds, for a few milliseconds: far longer than a region, and all others wait. With one
//! thread less each has a core of its own again, and the speed is the same all the time. So where
//! waiting takes up more than a share of the time, late workers are left out for a pause. Then all
//! are tried again: where that goes wrong before long, the next pause is twice as long.

use std::time::{Duration, Instant};

/// Somebody is late where others, done with their own part of a region, wait longer than this, and
/// longer than this many times their part: a slower core or an uneven split is not lateness.
const LATE: Duration = Duration::from_micros(200);
const LATE_PARTS: u32 = 3;
/// Workers that do not come at all for so long, while there are regions, are late too.
const ABSENT: Duration = Duration::from_millis(1);
/// One in so many parts of the time may be lost. More adds up, and at the limit workers are left
/// out: that takes two time slices of a usual scheduler, or one in a trial.
const TOLERATED: u32 = 8;
const LIMIT: Duration = Duration::from_millis(5);
const TRIAL_LIMIT: Duration = Duration::from_micros(2500);
/// Most that one delay counts: a thread that sleeps through a page fault, say, does so once.
const MOST: Duration = Duration::from_millis(4);
/// The first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(40);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A wait of those that were done with a region for those that were not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// The part of the region that those waiting did themselves.
    pub part: Duration,
    /// How long they waited after that.
    pub wait: Duration,
    /// Threads waited for.
    pub threads: usize,
}

/// What is known of late threads. It reads no clock.
#[derive(Debug)]
pub(super) struct Lateness {
    workers: usize,
    left_out: usize,
    /// When the pause of those left out ends or, with none left out, the trial after it.
    turn: Option<Instant>,
    /// Length of the next pause, and of a trial: once all kept up for so long, the next pause is a
    /// first one again.
    pause: Duration,
    /// Time lost beyond what is tolerated, and when it was reckoned.
    lost: Duration,
    reckoned: Option<Instant>,
    /// Time in regions since a worker came.
    alone: Duration,
}

impl Lateness {
    pub fn new(workers: usize) -> Lateness {
        Lateness {
            workers,
            left_out: 0,
            turn: None,
            pause: FIRST_PAUSE,
            lost: Duration::ZERO,
            reckoned: None,
            alone: Duration::ZERO,
        }
    }

    /// How many workers may take part in a region that begins now.
    pub fn admit(&mut self, now: Instant) -> usize {
        if self.turn.is_some_and(|turn| now >= turn) {
            if self.left_out > 0 {
                self.left_out = 0;
                self.turn = Some(now + self.pause);
            } else {
                self.turn = None;
                self.pause = FIRST_PAUSE;
            }
        }
        self.workers - self.left_out
    }

    /// A region is over that workers took part in.
    pub fn shared(&mut self) {
        self.alone = Duration::ZERO;
    }

    /// A region is over that the caller did alone, although workers were called.
    pub fn alone(&mut self, took: Duration, now: Instant) {
        self.alone += took;
        if self.alone >= ABSENT {
            // Half of it or more is lost. In a trial it counts in full: there is reason to doubt.
            let lost = std::mem::take(&mut self.alone) / if self.on_trial() { 1 } else { 2 };
            self.lose(lost, self.workers, now);
        }
    }

    /// A region is over in which threads waited for one another.
    pub fn waited(&mut self, wait: Wait, now: Instant) {
        self.alone = Duration::ZERO;
        if wait.wait >= LATE.max(wait.part * LATE_PARTS) {
            self.lose(wait.wait, wait.threads, now);
        }
    }

    fn on_trial(&self) -> bool {
        self.left_out == 0 && self.turn.is_some()
    }

    /// Takes note of time lost up to now through so many threads.
    fn lose(&mut self, lost: Duration, threads: usize, now: Instant) {
        let passed = self.reckoned.map_or(Duration::ZERO, |then| now - then);
        self.lost = self.lost.saturating_sub(passed / TOLERATED) + lost.min(MOST);
        self.reckoned = Some(now);
        if self.lost < if self.on_trial() { TRIAL_LIMIT } else { LIMIT } {
            return;
        }
        self.lost = Duration::ZERO;
        if self.left_out == 0 {
            self.turn = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.left_out = (self.left_out + threads).min(self.workers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Regions on a simulated clock.
    struct Regions {
        lateness: Lateness,
        now: Instant,
    }

    impl Regions {
        fn new(workers: usize) -> Regions {
            Regions { lateness: Lateness::new(workers), now: Instant::now() }
        }

        /// A region of 50 us that ends, if all take part, with a wait for one thread; says how many
        /// workers took part.
        fn one(&mut self, wait: Duration) -> usize {
            let part = MS / 20;
            let admitted = self.lateness.admit(self.now);
            self.now += part;
            if admitted == self.lateness.workers {
                self.now += wait;
                self.lateness.waited(Wait { part, wait, threads: 1 }, self.now);
            }
            admitted
        }

        /// Regions for so long, with such a wait about every `every`. Gives the share of the time
        /// in which so many workers took part.
        fn run(&mut self, time: Duration, every: Duration, wait: Duration, workers: usize) -> f64 {
            let (start, mut waited) = (self.now, self.now);
            let mut share = Duration::ZERO;
            while self.now < start + time {
                let before = self.now;
                let late = before >= waited + every;
                if late {
                    waited = before;
                }
                let admitted = self.one(if late { wait } else { Duration::ZERO });
                if admitted == workers {
                    share += self.now - before;
                }
            }
            share.div_duration_f64(self.now - start)
        }
    }

    #[test]
    fn a_busy_process_costs_a_worker_soon_and_for_long() {
        let mut regions = Regions::new(1);
        // Two time slices are enough.
        assert_eq!(regions.one(4 * MS), 1);
        assert_eq!(regions.one(MS / 50), 1);
        assert_eq!(regions.one(3 * MS), 1);
        assert_eq!(regions.one(4 * MS), 0);
        let share = regions.run(3000 * MS, 6 * MS, 4 * MS, 0);
        assert!(share > 0.95, "{share}");
    }

    #[test]
    fn all_come_back_when_the_machine_is_quiet_again() {
        let mut regions = Regions::new(3);
        regions.run(4000 * MS, 6 * MS, 4 * MS, 2);
        assert_eq!(regions.one(MS), 2);
        regions.run(LONGEST_PAUSE, 1000 * MS, MS / 50, 3);
        let share = regions.run(4000 * MS, 1000 * MS, MS / 50, 3);
        assert_eq!(share, 1.0);
        // What was is forgotten: the next pause is short.
        regions.one(4 * MS);
        regions.one(4 * MS);
        assert_eq!(regions.one(MS), 2);
        regions.now += FIRST_PAUSE;
        assert_eq!(regions.one(MS / 50), 3);
    }

    #[test]
    fn noise_costs_nothing() {
        for (every, wait) in [
            // Short interruptions, long ones now and then, and a thread that sleeps for a second.
            (2 * MS, MS / 6),
            (12 * MS, MS),
            (40 * MS, 4 * MS),
            (3000 * MS, 1000 * MS),
        ] {
            let share = Regions::new(1).run(10_000 * MS, every, wait, 1);
            assert_eq!(share, 1.0, "{wait:?} every {every:?}");
        }
    }

    #[test]
    fn long_tasks_and_slow_cores_are_not_late() {
        let mut regions = Regions::new(1);
        for _ in 0..100 {
            assert_eq!(regions.lateness.admit(regions.now), 1);
            regions.now += 20 * MS;
            let wait = Wait { part: 5 * MS, wait: 14 * MS, threads: 1 };
            regions.lateness.waited(wait, regions.now);
        }
    }

    #[test]
    fn workers_that_stay_away_are_left_out() {
        let mut regions = Regions::new(2);
        let alone = |regions: &mut Regions, time: Duration| {
            let end = regions.now + time;
            while regions.now < end {
                regions.now += MS / 20;
                regions.lateness.alone(MS / 20, regions.now);
            }
            regions.lateness.admit(regions.now)
        };
        // Waking up takes a while.
        for _ in 0..100 {
            assert_eq!(alone(&mut regions, MS * 9 / 10), 2);
            regions.lateness.shared();
        }
        assert_eq!(alone(&mut regions, 20 * MS), 0);
    }

    #[test]
    fn as_many_are_left_out_as_are_late() {
        let mut regions = Regions::new(7);
        let late = |regions: &mut Regions, threads| {
            for _ in 0..2 {
                regions.now += 4 * MS;
                let wait = Wait { part: MS / 20, wait: 4 * MS, threads };
                regions.lateness.waited(wait, regions.now);
            }
            regions.lateness.admit(regions.now)
        };
        assert_eq!(late(&mut regions, 2), 5);
        // The others are watched on.
        assert_eq!(late(&mut regions, 1), 4);
        assert_eq!(late(&mut regions, 9), 0);
    }
}
