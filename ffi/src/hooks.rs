//! Faults on purpose, for tests: nothing of it is in a library that is built without the feature.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the next callback of a session is to fail in the library's hands.
#[derive(Default)]
pub(crate) struct Hooks {
    armed: AtomicBool,
}

impl Hooks {
    /// Called in the midst of the runtime, before the app's callback.
    pub fn trip(&self) {
        #[cfg(feature = "test-hooks")]
        if self.armed.swap(false, Ordering::Relaxed) {
            #[allow(clippy::panic, reason = "it is what the test is about")]
            {
                panic!("on purpose");
            }
        }
    }

    /// Lets the next [`Hooks::trip`] panic.
    #[cfg_attr(not(feature = "test-hooks"), allow(dead_code, reason = "only tests arm it"))]
    pub fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }
}

/// Written by [`lbk_test_race`].
#[cfg(feature = "test-hooks")]
static mut RACED: u64 = 0;

/// Writes to a place that all threads share, in no order: what a race detector must find.
#[cfg(feature = "test-hooks")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_test_race() {
    // SAFETY: none: several threads that call this break the rules, which is what it is for.
    unsafe { (&raw mut RACED).write_volatile(1) }
}

/// Lets the next step or token of a session fail inside the runtime.
#[cfg(feature = "test-hooks")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_test_panic(session: *const crate::session::lbk_session) {
    if let Some(session) = crate::arg::maybe(session) {
        session.hooks.arm();
    }
}
