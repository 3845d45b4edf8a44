//! Limits on the memory that grows with use: caches, buffers and scratch of sessions.
//!
//! What holds such memory charges it to the account of its session before it takes it, and gives it
//! back when it goes. An account counts towards its engine's. Weights are not counted: they lie in
//! the plan, wherever that lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Bytes in use, and how many may be.
#[derive(Debug)]
struct Pot {
    owner: &'static str,
    limit: usize,
    used: AtomicUsize,
}

impl Pot {
    /// A limit of 0 is none.
    fn new(owner: &'static str, limit: usize) -> Arc<Pot> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        Arc::new(Pot { owner, limit, used: AtomicUsize::new(0) })
    }

    fn take(&self, bytes: usize) -> Result<()> {
        let grown = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => Ok(()),
            Err(used) => {
                let Pot { owner, limit, .. } = self;
                let message = format!(
                    "{bytes} more bytes to {used} are beyond the {owner}'s memory limit of {limit}"
                );
                Err(Error::new(ErrorKind::Memory, message))
            }
        }
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What the sessions of an engine hold together.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Pot>);

impl Memory {
    /// With this limit in bytes; 0 for none.
    pub fn new(limit: usize) -> Memory {
        Memory(Pot::new("engine", limit))
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// An account of a session or of what `owner` says, with a limit of its own; 0 for none.
    pub fn account(&self, owner: &'static str, limit: usize) -> Account {
        Account { session: Pot::new(owner, limit), engine: self.0.clone() }
    }
}

/// What one session holds.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    session: Arc<Pot>,
    engine: Arc<Pot>,
}

impl Account {
    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.session.used.load(Ordering::Relaxed)
    }

    /// Something that holds no bytes yet.
    pub fn holding(&self) -> Holding {
        Holding { account: self.clone(), bytes: 0 }
    }
}

/// The bytes of one thing, charged to an account until it goes.
#[derive(Debug)]
pub(crate) struct Holding {
    account: Account,
    bytes: usize,
}

impl Holding {
    /// Brings what is charged to `bytes`.
    ///
    /// # Errors
    /// `Memory` where a limit does not allow it; nothing has changed then.
    pub fn set(&mut self, bytes: usize) -> Result<()> {
        let Account { session, engine } = &self.account;
        if let Some(more) = bytes.checked_sub(self.bytes) {
            if more > 0 {
                session.take(more)?;
                engine.take(more).inspect_err(|_| session.give_back(more))?;
            }
        } else {
            let less = self.bytes - bytes;
            session.give_back(less);
            engine.give_back(less);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.account.session.give_back(self.bytes);
        self.account.engine.give_back(self.bytes);
    }
}

/// A vector of `len` default values, or an error where the system has no memory for it.
///
/// # Errors
/// `Memory`.
pub(crate) fn vector<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
    // Asked for first, since what follows ends the process where there is no memory. Zeros come from
    // the system by the page, so that those that are never used cost nothing.
    reserve(&mut Vec::<T>::new(), len)?;
    Ok(vec![T::default(); len])
}

/// Room in a vector for `more` values, or an error where the system has no memory for them.
///
/// # Errors
/// `Memory`.
pub(crate) fn reserve<T>(vector: &mut Vec<T>, more: usize) -> Result<()> {
    vector.try_reserve_exact(more).map_err(|_| {
        let bytes = more.saturating_mul(size_of::<T>());
        Error::new(ErrorKind::Memory, format!("the system has no {bytes} bytes of memory left"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holdings_count_for_their_session_and_for_the_engine_until_they_go() {
        let memory = Memory::new(100);
        let (first, second) = (memory.account("session", 60), memory.account("session", 0));
        let (mut a, mut b) = (first.holding(), second.holding());
        a.set(50).unwrap();
        b.set(50).unwrap();
        assert_eq!((first.used(), second.used(), memory.used()), (50, 50, 100));
        for holding in [&mut a, &mut b] {
            let e = holding.set(51).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Memory, "{e}");
            assert_eq!(holding.bytes(), 50);
        }
        assert_eq!((first.used(), memory.used()), (50, 100));
        b.set(10).unwrap();
        a.set(60).unwrap();
        let e = a.set(61).unwrap_err().to_string();
        assert!(e.contains("session"), "{e}");
        assert!(a.set(usize::MAX).is_err());
        drop(a);
        assert_eq!((first.used(), memory.used()), (0, 10));
    }

    #[test]
    fn absurd_sizes_are_errors() {
        assert_eq!(vector::<u64>(usize::MAX).unwrap_err().kind(), ErrorKind::Memory);
        assert_eq!(vector::<u64>(usize::MAX / 16).unwrap_err().kind(), ErrorKind::Memory);
        assert_eq!(vector::<u8>(3).unwrap(), [0; 3]);
    }
}
