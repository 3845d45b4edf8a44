//! A pool of threads for many very short parallel regions.
//!
//! A region is published in one atomic word, the gate: an epoch that changes with every region,
//! an open bit, a waiting bit, and the number of workers inside. A worker enters by adding one
//! while the gate is open, so the caller waits only for workers that did enter: one that wakes
//! late finds the gate shut and touches nothing. Between regions workers spin for a while, then
//! sleep.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// Pauses that a worker spends looking for the next region before it sleeps.
const WORKER_SPINS: u32 = 8_000;
/// Pauses that a caller spends waiting for workers before it yields, then yields before it sleeps.
const CALLER_SPINS: u32 = 4_000;
const CALLER_YIELDS: u32 = 64;

const COUNT: u64 = (1 << 16) - 1;
const OPEN: u64 = 1 << 16;
const WAITING: u64 = 1 << 17;
const SHUTDOWN: u64 = 1 << 18;
const EPOCH: u64 = 1 << 32;

type Task = dyn Fn(usize) + Sync + 'static;

/// The region in progress. Only read by threads that are inside the gate.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task,
    tasks: usize,
}

struct Shared {
    gate: AtomicU64,
    next: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    done_lock: Mutex<()>,
    done: Condvar,
}

// SAFETY: `job` is written only by the caller that holds `Pool::caller` while the gate is shut and
// empty, and read only by threads inside the open gate; the gate's release and acquire order the
// two. The pointer in it refers to a `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for Shared {}

/// A fixed set of threads, the caller of [`Pool::run`] being one of them.
pub struct Pool {
    shared: Arc<Shared>,
    caller: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads` threads (at least 1), of which `threads - 1` are started here. Where
    /// the system refuses a thread, the pool is smaller.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            done_lock: Mutex::new(()),
            done: Condvar::new(),
        });
        let workers = (1..threads.min(COUNT as usize))
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("limbeck-{i}"))
                    .spawn(move || work(&shared))
                    .ok()
            })
            .collect();
        Pool { shared, caller: Mutex::new(()), workers }
    }

    /// Threads that take part in a region, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` once with each index in `0..tasks`, spread over the threads, and returns when
    /// all calls have. The caller takes part. When another caller is inside, or `task` itself
    /// calls `run`, the tasks run on the calling thread.
    ///
    /// # Panics
    /// When a task panicked, after all others have run; the pool stays usable.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(task);
            return;
        }
        let guard = match self.caller.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                (0..tasks).for_each(task);
                return;
            }
        };
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The gate is shut and empty before this call returns
        // (below, also when a task panics), so no worker uses the pointer after `task` has ended.
        let erased =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Task>(task) };
        let job = Job { task: erased, tasks };
        // SAFETY: this thread holds `caller`, and the gate is shut and empty between regions.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Ordering::Relaxed);
        let epoch = (shared.gate.load(Ordering::Relaxed) & !(EPOCH - 1)).wrapping_add(EPOCH);
        shared.gate.store(epoch | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _asleep = lock(&shared.sleep);
            shared.wake.notify_all();
        }
        shared.take_tasks(job);
        shared.shut();
        let panic = lock(&shared.panic).take();
        drop(guard);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Shared {
    /// Runs tasks until none is left; keeps the first panic.
    fn take_tasks(&self, job: Job) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= job.tasks {
                return;
            }
            // SAFETY: this thread is the caller or inside the gate, so the closure is alive.
            let task = unsafe { &*job.task };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(index))) {
                lock(&self.panic).get_or_insert(payload);
            }
        }
    }

    /// Shuts the gate and waits until no worker is inside.
    fn shut(&self) {
        let mut state = self.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut waits = 0;
        while state & COUNT > 0 {
            waits += 1;
            if waits < CALLER_SPINS {
                std::hint::spin_loop();
            } else if waits < CALLER_SPINS + CALLER_YIELDS {
                std::thread::yield_now();
            } else {
                let mut held = lock(&self.done_lock);
                self.gate.fetch_or(WAITING, Ordering::AcqRel);
                while self.gate.load(Ordering::Acquire) & COUNT > 0 {
                    held = self.done.wait(held).unwrap_or_else(PoisonError::into_inner);
                }
                self.gate.fetch_and(!WAITING, Ordering::AcqRel);
            }
            state = self.gate.load(Ordering::Acquire);
        }
    }

    fn leave(&self) {
        let before = self.gate.fetch_sub(1, Ordering::AcqRel);
        if before & WAITING != 0 && before & COUNT == 1 {
            let _held = lock(&self.done_lock);
            self.done.notify_all();
        }
    }

    /// The next gate state that concerns a worker which has seen the region `seen`.
    fn wait_for_region(&self, seen: u64) -> u64 {
        let concerns = |state: u64| {
            state & SHUTDOWN != 0 || (state & OPEN != 0 && state & !(EPOCH - 1) != seen)
        };
        for _ in 0..WORKER_SPINS {
            let state = self.gate.load(Ordering::Acquire);
            if concerns(state) {
                return state;
            }
            std::hint::spin_loop();
        }
        let mut held = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let state = loop {
            let state = self.gate.load(Ordering::SeqCst);
            if concerns(state) {
                break state;
            }
            held = self.wake.wait(held).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        state
    }
}

fn work(shared: &Shared) {
    let mut seen = 0;
    loop {
        let state = shared.wait_for_region(seen);
        if state & SHUTDOWN != 0 {
            return;
        }
        let entered = shared.gate.compare_exchange_weak(
            state,
            state + 1,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if entered.is_ok() {
            seen = state & !(EPOCH - 1);
            // SAFETY: this thread is inside the gate, so the caller does not write the job.
            if let Some(job) = unsafe { *shared.job.get() } {
                shared.take_tasks(job);
            }
            shared.leave();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.gate.fetch_or(SHUTDOWN, Ordering::SeqCst);
        {
            let _asleep = lock(&self.shared.sleep);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a task, so there is nothing to report here.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in 0..5 {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            for tasks in [0, 1, 2, 3, 7, 64] {
                for _ in 0..200 {
                    let counts: Vec<AtomicUsize> =
                        (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(tasks, &|i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn workers_that_sleep_are_woken() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(3));
            let sum = AtomicUsize::new(0);
            pool.run(10, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for round in 0..50 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, &|i| {
                    if i == round % 8 {
                        resume_unwind(Box::new("task failed"));
                    }
                })
            }));
            assert_eq!(*result.unwrap_err().downcast::<&str>().unwrap(), "task failed");
            let sum = AtomicUsize::new(0);
            pool.run(5, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 10);
        }
    }

    #[test]
    fn several_callers_and_nested_regions() {
        let pool = Pool::new(4);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        pool.run(3, &|_| {
                            pool.run(2, &|i| {
                                sum.fetch_add(i, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 500 * 3);
    }

    #[test]
    fn a_slow_worker_is_waited_for() {
        let pool = Pool::new(2);
        let done = AtomicUsize::new(0);
        for _ in 0..3 {
            pool.run(2, &|_| {
                std::thread::sleep(std::time::Duration::from_millis(8));
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(done.into_inner(), 6);
    }
}
