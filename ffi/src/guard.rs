//! What every entry point goes through.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::error::{LBK_BUSY, LBK_INTERNAL, lbk_code, lbk_error};

/// What the body of an entry point gives.
pub(crate) type Outcome<T = ()> = Result<T, lbk_error>;

/// Runs the body of an entry point: NULL, or the error that it gave, a panic being one.
pub(crate) fn guard(body: impl FnOnce() -> Outcome) -> *mut lbk_error {
    match catch(body) {
        Ok(()) => std::ptr::null_mut(),
        Err(error) => Box::into_raw(Box::new(error)),
    }
}

/// [`guard`] for entry points that give a code, since they must not take memory.
pub(crate) fn guard_code(body: impl FnOnce() -> lbk_code) -> lbk_code {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(LBK_INTERNAL)
}

/// [`guard`] for entry points that cannot fail: `otherwise` in the place of a panic.
pub(crate) fn guard_value<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

fn catch(body: impl FnOnce() -> Outcome) -> Outcome {
    // Handles stay usable: sessions roll back what they had not committed.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(internal(&*panic)))
}

fn internal(panic: &(dyn Any + Send)) -> lbk_error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = format!("a fault of the library: {}", text.unwrap_or("no message"));
    lbk_error::new(LBK_INTERNAL, &message)
}

/// What one call at a time may use. A second call gets an error, not a race.
pub(crate) struct Exclusive<T>(Mutex<T>);

impl<T> Exclusive<T> {
    pub fn new(value: T) -> Exclusive<T> {
        Exclusive(Mutex::new(value))
    }

    /// The value, if no other call has it.
    pub fn enter(&self, name: &str) -> Outcome<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(value) => Ok(value),
            // A panic in a call leaves values that the next call can use.
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                let message = format!("the {name} is in use by another call");
                Err(lbk_error::new(LBK_BUSY, &message))
            }
        }
    }
}
