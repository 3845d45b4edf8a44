//! Decides how many workers to leave out of regions.
//!
//! Where another process wants a core, the system takes it from a thread of the pool every few
//! milliseconds, for a few milliseconds: far longer than a region, and all others wait. With one
//! thread less each has a core of its own again, and the speed is the same all the time. So after
//! two delays within a short time workers are left out for a pause. Then all are tried again: where
//! there is a delay at once, the next pause is twice as long.

use std::time::{Duration, Instant};

/// Somebody is late where others, done with their own part of a region, wait longer than this, and
/// longer than this many times their part: a slower core or an uneven split is not lateness.
const LATE: Duration = Duration::from_micros(200);
const LATE_PARTS: u32 = 3;
/// Workers that do not come at all for so long, while there are regions, are late too.
const ABSENT: Duration = Duration::from_millis(1);
/// Two delays within this time are no chance.
const WINDOW: Duration = Duration::from_millis(30);
/// The first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long all must keep up after a pause for the next to be a first one again.
const TRIAL: Duration = Duration::from_millis(30);

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
    /// Length of the next pause.
    pause: Duration,
    /// The last delay.
    late: Option<Instant>,
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
            late: None,
            alone: Duration::ZERO,
        }
    }

    /// How many workers may take part in a region that begins now.
    pub fn admit(&mut self, now: Instant) -> usize {
        if self.turn.is_some_and(|turn| now >= turn) {
            if self.left_out > 0 {
                self.left_out = 0;
                self.turn = Some(now + TRIAL);
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
            self.alone = Duration::ZERO;
            self.delayed(self.workers - self.left_out, now);
        }
    }

    /// A region is over in which threads waited for one another.
    pub fn waited(&mut self, wait: Wait, now: Instant) {
        self.alone = Duration::ZERO;
        if wait.wait >= LATE.max(wait.part * LATE_PARTS) {
            self.delayed(wait.threads, now);
        }
    }

    fn delayed(&mut self, threads: usize, now: Instant) {
        let on_trial = self.left_out == 0 && self.turn.is_some();
        let again = self.late.is_some_and(|late| now < late + WINDOW);
        self.late = Some(now);
        if !on_trial && !again {
            return;
        }
        if self.left_out == 0 {
            self.turn = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.left_out = (self.left_out + threads).min(self.workers);
    }
}
