//! Decides how many workers to leave out of regions.
//!
//! Where another process wants a core, the system takes it from a worker every few milliseconds,
//! for a few milliseconds: far longer than a region. Without that worker the caller has the same
//! speed all the time, and the other process a core of its own. Workers that are late twice within
//! a short time are therefore left out for a pause. Then all are tried again: where one is late at
//! once, the next pause is twice as long.

use std::time::{Duration, Instant};

/// A worker is late where the caller waits for it longer than this, and longer than this many times
/// the caller's own part of the region: a slower core or an uneven split is not lateness.
const LATE: Duration = Duration::from_micros(200);
const LATE_PARTS: u32 = 3;
/// Two late waits within this time are no chance.
const WINDOW: Duration = Duration::from_millis(20);
/// The first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1000);
/// How long all workers must keep up after a pause for the next to be a first one again.
const TRIAL: Duration = Duration::from_millis(30);

/// A caller's wait for workers at the end of a region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// Workers that were waited for.
    pub workers: usize,
    pub began: Instant,
    pub ended: Instant,
}

/// What is known of late workers. It reads no clock.
#[derive(Debug)]
pub(super) struct Lateness {
    workers: usize,
    left_out: usize,
    /// When the pause of those left out ends or, with none left out, the trial after it.
    turn: Option<Instant>,
    /// Length of the next pause.
    pause: Duration,
    /// When a late wait ended last.
    late: Option<Instant>,
}

impl Lateness {
    pub fn new(workers: usize) -> Lateness {
        Lateness { workers, left_out: 0, turn: None, pause: FIRST_PAUSE, late: None }
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

    /// Takes note of a wait in a region that began at `start`.
    pub fn waited(&mut self, start: Instant, wait: &Wait) {
        let own = wait.began - start;
        if wait.ended - wait.began < LATE.max(own * LATE_PARTS) {
            return;
        }
        let on_trial = self.left_out == 0 && self.turn.is_some();
        let again = self.late.is_some_and(|late| wait.ended - late < WINDOW);
        self.late = Some(wait.ended);
        if !on_trial && !again {
            return;
        }
        if self.left_out == 0 {
            self.turn = Some(wait.ended + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.left_out = (self.left_out + wait.workers).min(self.workers);
    }
}
