//! The standard library's atomics and locks, which tell valgrind's Helgrind of the order that they
//! make. It knows that of POSIX locks alone, and takes each atomic access for a plain one.
//!
//! A release (of an atomic, or by unlocking) comes before each acquire of the same thing that follows
//! it; relaxed accesses make no order. That an acquire may have seen an older value is not looked at.
//! The words of the things themselves are not checked: nothing but atomic accesses reaches them.

use std::arch::asm;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{self, LockResult, PoisonError, TryLockError, TryLockResult};

/// Requests of `helgrind.h`.
const SEND: usize = 0x4847_0121;
const RECEIVE: usize = 0x4847_0122;
const UNTRACKED: usize = 0x4847_0127;

/// Asks something of valgrind; outside of it this does nothing.
#[inline(always)]
fn request(number: usize, first: usize, second: usize) {
    let arguments = [number, first, second, 0, 0, 0];
    // SAFETY: the rotations add up to whole turns and the exchange is of a register with itself;
    // valgrind reads the arguments and gives its answer, which nobody wants, in `rdx`.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") arguments.as_ptr(),
            inout("rdx") 0usize => _,
        );
    }
}

/// What this thread did comes before what follows a later [`receive`] of the same thing.
fn send<T: ?Sized>(thing: &T) {
    request(SEND, std::ptr::from_ref(thing).addr(), 0);
}

/// What came before each [`send`] of the same thing so far comes before what follows.
fn receive<T: ?Sized>(thing: &T) {
    request(RECEIVE, std::ptr::from_ref(thing).addr(), 0);
}

/// Accesses of the bytes of `thing` are no races.
fn untracked<T>(thing: &T) {
    request(UNTRACKED, std::ptr::from_ref(thing).addr(), size_of::<T>());
}

fn releases(order: Ordering) -> bool {
    matches!(order, Ordering::Release | Ordering::AcqRel | Ordering::SeqCst)
}

fn acquires(order: Ordering) -> bool {
    matches!(order, Ordering::Acquire | Ordering::AcqRel | Ordering::SeqCst)
}

macro_rules! atomic {
    ($name:ident, $value:ty $(, $operation:ident)*) => {
        /// The standard library's of this name.
        #[derive(Debug, Default)]
        pub struct $name(sync::atomic::$name);

        impl $name {
            /// With this value.
            pub const fn new(value: $value) -> $name {
                $name(sync::atomic::$name::new(value))
            }

            /// The value of one that nobody else has any more.
            pub fn into_inner(self) -> $value {
                self.0.into_inner()
            }

            /// Reads it.
            pub fn load(&self, order: Ordering) -> $value {
                untracked(self);
                let value = self.0.load(order);
                if acquires(order) {
                    receive(self);
                }
                value
            }

            /// Writes it.
            pub fn store(&self, value: $value, order: Ordering) {
                untracked(self);
                if releases(order) {
                    send(self);
                }
                self.0.store(value, order);
            }

            $(
                /// The operation of this name; gives the value before.
                pub fn $operation(&self, value: $value, order: Ordering) -> $value {
                    self.change(order, |atomic| (atomic.$operation(value, order), true))
                }
            )*

            /// A change of an order, of which the closure says whether it came to be.
            fn change<T>(
                &self,
                order: Ordering,
                body: impl FnOnce(&sync::atomic::$name) -> (T, bool),
            ) -> T {
                untracked(self);
                if releases(order) {
                    send(self);
                }
                let (value, done) = body(&self.0);
                if done && acquires(order) {
                    receive(self);
                }
                value
            }

            /// Writes `new` where `old` is found.
            ///
            /// # Errors
            /// The value that was found instead.
            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                order: Ordering,
                otherwise: Ordering,
            ) -> Result<$value, $value> {
                self.change(order, |atomic| {
                    let found = atomic.compare_exchange(old, new, order, otherwise);
                    (found, found.is_ok() || acquires(otherwise))
                })
            }

            /// The same, which may fail for no reason.
            ///
            /// # Errors
            /// The value that was found instead.
            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                order: Ordering,
                otherwise: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, order, otherwise)
            }
        }
    };
}

atomic!(AtomicBool, bool, swap);
atomic!(AtomicU64, u64, fetch_add, fetch_sub, fetch_and, fetch_or, fetch_max);
atomic!(AtomicUsize, usize, fetch_add, fetch_sub);

/// The standard library's of this name.
#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

/// The standard library's of this name.
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` while it waits for a condition.
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// With this value.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    fn guard<'a>(&'a self, held: sync::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        receive(self);
        MutexGuard { mutex: self, held: Some(held) }
    }

    /// Waits for it.
    ///
    /// # Errors
    /// The value, after a panic of whoever had it.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        match self.0.lock() {
            Ok(held) => Ok(self.guard(held)),
            Err(poisoned) => Err(PoisonError::new(self.guard(poisoned.into_inner()))),
        }
    }

    /// Takes it where it is free.
    ///
    /// # Errors
    /// As [`Mutex::lock`], and where it is taken.
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(held) => Ok(self.guard(held)),
            Err(TryLockError::Poisoned(poisoned)) => {
                let guard = self.guard(poisoned.into_inner());
                Err(TryLockError::Poisoned(PoisonError::new(guard)))
            }
            Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[allow(clippy::expect_used, reason = "guards that wait are nobody's to read")]
    fn deref(&self) -> &T {
        self.held.as_ref().expect("a guard that waits for no condition")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[allow(clippy::expect_used, reason = "guards that wait are nobody's to write")]
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("a guard that waits for no condition")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.held.is_some() {
            send(self.mutex);
        }
    }
}

/// The standard library's of this name.
#[derive(Debug, Default)]
pub struct Condvar(sync::Condvar);

impl Condvar {
    /// That nobody waits for.
    pub const fn new() -> Condvar {
        Condvar(sync::Condvar::new())
    }

    /// Unlocks, waits and locks again.
    ///
    /// # Errors
    /// As [`Mutex::lock`].
    pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let mutex = guard.mutex;
        let Some(held) = guard.held.take() else { return Ok(guard) };
        send(mutex);
        match self.0.wait(held) {
            Ok(held) => Ok(mutex.guard(held)),
            Err(poisoned) => Err(PoisonError::new(mutex.guard(poisoned.into_inner()))),
        }
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// The standard library's of this name.
#[derive(Clone, Debug, Default)]
pub struct OnceLock<T>(sync::OnceLock<T>);

impl<T> OnceLock<T> {
    /// Without a value.
    pub const fn new() -> OnceLock<T> {
        OnceLock(sync::OnceLock::new())
    }

    /// The value, if there is one.
    pub fn get(&self) -> Option<&T> {
        untracked(self);
        let value = self.0.get()?;
        receive(self);
        Some(value)
    }

    /// The value, which `make` makes where there is none.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        untracked(self);
        let value = self.0.get_or_init(|| {
            let value = make();
            send(self);
            value
        });
        receive(self);
        value
    }
}
