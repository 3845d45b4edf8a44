//! Loom's counterparts of `runtime/kernels/src/sync/mod.rs` and `runtime/src/sync.rs`, and a clock that the
//! models turn.

pub(crate) use loom::hint::spin_loop;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
pub(crate) use loom::thread::{JoinHandle, yield_now};

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64 as Plain, Ordering};
use std::time::{Duration, Instant};

/// None: a thread that spins lets all others go on in loom, so that nobody would ever sleep.
pub(crate) const WORKER_SPINS: u32 = 0;
pub(crate) const CALLER_SPINS: u32 = 0;
pub(crate) const CALLER_YIELDS: u32 = 0;

/// Milliseconds by which each reading moves the clock on, and those gone by.
static STEP: Plain = Plain::new(0);
static PASSED: Plain = Plain::new(0);

/// Starts the clock anew: each reading of it moves it on by `step` milliseconds.
pub fn step_clock(step: u64) {
    STEP.store(step, Ordering::SeqCst);
    PASSED.store(0, Ordering::SeqCst);
}

pub(crate) fn now() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    let passed = PASSED.fetch_add(STEP.load(Ordering::SeqCst), Ordering::SeqCst);
    *START.get_or_init(Instant::now) + Duration::from_millis(passed)
}

pub(crate) fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    loom::thread::Builder::new().name(name).spawn(body)
}

/// A value that threads share by a protocol of their own, which loom checks.
pub(crate) struct SharedCell<T>(loom::cell::UnsafeCell<T>);

impl<T: Copy> SharedCell<T> {
    pub fn new(value: T) -> Self {
        SharedCell(loom::cell::UnsafeCell::new(value))
    }

    /// # Safety
    /// No thread writes it meanwhile.
    pub unsafe fn get(&self) -> T {
        // SAFETY: the caller's contract, and loom panics where it is broken.
        self.0.with(|value| unsafe { *value })
    }

    /// # Safety
    /// No thread reads or writes it meanwhile.
    pub unsafe fn set(&self, new: T) {
        // SAFETY: the caller's contract, and loom panics where it is broken.
        self.0.with_mut(|value| unsafe { *value = new });
    }
}
