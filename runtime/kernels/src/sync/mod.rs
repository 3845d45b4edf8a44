//! What threads synchronise with, and where they read the time from: the standard library's. The
//! models in `tests/loom` put their own in its place, which goes through every order of events; with
//! the feature `helgrind` the same things also tell valgrind what they do.

#[cfg(all(feature = "helgrind", target_arch = "x86_64"))]
mod told;

#[cfg(not(all(feature = "helgrind", target_arch = "x86_64")))]
pub use std::sync::{
    Condvar, Mutex, MutexGuard, OnceLock,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};
#[cfg(all(feature = "helgrind", target_arch = "x86_64"))]
pub use told::{AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, OnceLock};

pub use std::hint::spin_loop;
pub(crate) use std::sync::Arc;
pub(crate) use std::thread::{JoinHandle, yield_now};

use std::cell::UnsafeCell;
use std::time::Instant;

/// Pauses that a worker spends looking for the next region before it sleeps.
pub(crate) const WORKER_SPINS: u32 = 8_000;
/// Pauses that a caller spends waiting for workers before it yields, then yields before it sleeps.
pub(crate) const CALLER_SPINS: u32 = 4_000;
pub(crate) const CALLER_YIELDS: u32 = 64;

pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Starts a thread of this name.
pub(crate) fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(body)
}

/// A value that threads share by a protocol of their own.
pub(crate) struct SharedCell<T>(UnsafeCell<T>);

impl<T: Copy> SharedCell<T> {
    pub fn new(value: T) -> Self {
        SharedCell(UnsafeCell::new(value))
    }

    /// # Safety
    /// No thread writes it meanwhile.
    #[inline(always)]
    pub unsafe fn get(&self) -> T {
        // SAFETY: the caller's contract.
        unsafe { *self.0.get() }
    }

    /// # Safety
    /// No thread reads or writes it meanwhile.
    #[inline(always)]
    pub unsafe fn set(&self, value: T) {
        // SAFETY: the caller's contract.
        unsafe { *self.0.get() = value };
    }
}
