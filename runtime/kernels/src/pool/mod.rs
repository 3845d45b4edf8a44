//! A pool of threads for many very short parallel regions.
//!
//! A region is published in one atomic word, the gate: an epoch that changes with every region,
//! how many workers may enter, some flags, and the number of workers inside. A worker enters by
//! adding one while the gate is open, so the caller waits only for workers that did enter: one that
//! wakes late finds the gate shut and touches nothing. Between regions workers spin for a while,
//! then sleep.
//!
//! The caller takes tasks from the first on, workers from the last on. So of two threads each has the
//! same rows in region after region, where tasks go by rows, and finds in its own caches what it wrote
//! there.
//!
//! A thread that loses its core inside a region makes the others wait for it. Where that happens
//! again and again, fewer workers may enter for a while (`Lateness`). The others sleep, so that
//! whoever wanted the core has one to itself.

mod lateness;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::sync::{
    Arc, AtomicU64, AtomicUsize, CALLER_SPINS, CALLER_YIELDS, Condvar, JoinHandle, Mutex,
    MutexGuard, SharedCell, WORKER_SPINS, now, spawn, spin_loop, yield_now,
};
use lateness::{Lateness, Wait};

/// Multiply-adds below which a parallel region costs more than it saves.
pub(crate) const SERIAL_MACS: usize = 64 * 1024;

const COUNT: u64 = (1 << 12) - 1;
const OPEN: u64 = 1 << 12;
const WAITING: u64 = 1 << 13;
const SHUTDOWN: u64 = 1 << 14;
/// A worker did its part, and found no other region for so long that it went to sleep.
const IDLE: u64 = 1 << 15;
/// The lowest bit of the number of workers that may enter.
const ADMITTED: u64 = 1 << 16;
const EPOCH: u64 = 1 << 32;

/// One task for a worker, in [`Region::next`].
const BACK: u64 = 1 << 32;
/// Tasks of a region at most: counts of both kinds fit, beyond the last ones of all threads too.
const MAX_TASKS: usize = 1 << 30;

fn epoch(state: u64) -> u64 {
    state & !(EPOCH - 1)
}

/// How many workers a gate state lets enter.
fn admitted(state: u64) -> usize {
    ((state / ADMITTED) & COUNT) as usize
}

type Task = dyn Fn(usize, usize) + Sync + 'static;

/// The region in progress. Only read by threads that are inside the gate.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task,
    tasks: usize,
}

/// All that threads exchange about a region, in one cache line: where cores are far apart, each line
/// that goes from one to another takes as long as hundreds of instructions.
#[repr(align(64))]
struct Region {
    gate: AtomicU64,
    /// How many tasks were asked for: by the caller, and in units of [`BACK`] by workers.
    next: AtomicU64,
    job: SharedCell<Option<Job>>,
}

struct Shared {
    region: Region,
    /// Nanoseconds from entering the region to going to sleep, of the worker that set `IDLE`.
    idle: AtomicU64,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    /// Where workers wait that the gate does not let enter.
    back: Condvar,
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
    caller: Mutex<Lateness>,
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
            region: Region {
                gate: AtomicU64::new(COUNT * ADMITTED),
                next: AtomicU64::new(0),
                job: SharedCell::new(None),
            },
            idle: AtomicU64::new(0),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            back: Condvar::new(),
            done_lock: Mutex::new(()),
            done: Condvar::new(),
        });
        let workers: Vec<_> = (0..threads.min(COUNT as usize).saturating_sub(1))
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                spawn(format!("limbeck-{}", i + 1), move || work(&shared, i)).ok()
            })
            .collect();
        Pool { shared, caller: Mutex::new(Lateness::new(workers.len())), workers }
    }

    /// Threads of the pool, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` once with each index in `0..tasks`, spread over the threads, and returns when
    /// all calls have. The caller takes part. When another caller is inside, or `task` itself
    /// calls `run`, or the machine is so busy that no worker keeps up, the tasks run on the calling
    /// thread.
    ///
    /// # Panics
    /// When a task panicked, after all others have run; the pool stays usable.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.run_numbered(tasks, &|index, _| task(index));
    }

    /// [`Pool::run`], with the number of the thread for each call, below [`Pool::threads`]: calls of one
    /// number come one after the other, so that a thread may have memory of its own in the region.
    ///
    /// # Panics
    /// As there.
    pub fn run_numbered(&self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let alone = || (0..tasks).for_each(|index| task(index, 0));
        if tasks <= 1 || self.workers.is_empty() || tasks > MAX_TASKS {
            alone();
            return;
        }
        let mut lateness = match self.caller.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                alone();
                return;
            }
        };
        let start = now();
        let workers = lateness.admit(start);
        if workers == 0 {
            drop(lateness);
            alone();
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The gate is shut and empty before this call returns
        // (below, also when a task panics), so no worker uses the pointer after `task` has ended.
        let erased = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), *const Task>(task)
        };
        let job = Job { task: erased, tasks };
        // SAFETY: this thread holds `caller`, and the gate is shut and empty between regions.
        unsafe { shared.region.job.set(Some(job)) };
        // The first task is the caller's, who need not ask for it.
        shared.region.next.store(1, Ordering::Relaxed);
        shared.open(workers);
        let taken = shared.take_tasks(job, 0);
        let wait = shared.shut(start);
        if taken == tasks {
            let end = now();
            lateness.alone(end - start, end);
        } else if let Some(wait) = wait {
            lateness.waited(wait, now());
        } else {
            lateness.shared();
        }
        let panic = lock(&shared.panic).take();
        drop(lateness);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Shared {
    /// Opens the gate to the first `workers` workers, and wakes them.
    fn open(&self, workers: usize) {
        let before = self.region.gate.load(Ordering::Relaxed);
        let next = epoch(before).wrapping_add(EPOCH);
        self.region.gate.store(next | OPEN | (workers as u64 * ADMITTED), Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _asleep = lock(&self.sleep);
            self.wake.notify_all();
        }
        if admitted(before) < workers {
            let _asleep = lock(&self.sleep);
            self.back.notify_all();
        }
    }

    /// Runs tasks from one end until none is left, and counts them: the caller, which is thread 0, from the
    /// front, the first without asking for it, workers from the back. Keeps the first panic.
    fn take_tasks(&self, job: Job, thread: usize) -> usize {
        let mut taken = 0;
        let step = if thread == 0 { 1 } else { BACK };
        let mut next = if thread == 0 { Some(0) } else { self.next_task(job, step) };
        while let Some(index) = next {
            taken += 1;
            // SAFETY: this thread is the caller or inside the gate, so the closure is alive.
            let task = unsafe { &*job.task };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(index, thread))) {
                lock(&self.panic).get_or_insert(payload);
            }
            next = self.next_task(job, step);
        }
        taken
    }

    fn next_task(&self, job: Job, step: u64) -> Option<usize> {
        let next = &self.region.next;
        let ends = |asked: u64| ((asked % BACK) as usize, (asked / BACK) as usize);
        // Looked at before: where none is left, nothing is written.
        let (front, back) = ends(next.load(Ordering::Relaxed));
        if front + back >= job.tasks {
            return None;
        }
        let (front, back) = ends(next.fetch_add(step, Ordering::Relaxed));
        let last = job.tasks.checked_sub(front + back + 1)? + front;
        Some(if step == BACK { last } else { front })
    }

    /// Shuts the gate of a region that began at `start` and waits until no worker is inside. Gives a
    /// wait that was not over soon: of the caller, or of a worker.
    fn shut(&self, start: Instant) -> Option<Wait> {
        let mut state = self.region.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let idle = (state & IDLE != 0).then(|| {
            let part = Duration::from_nanos(self.idle.load(Ordering::Relaxed));
            Wait { part, wait: (now() - start).saturating_sub(part), threads: 1 }
        });
        for _ in 0..CALLER_SPINS {
            if state & COUNT == 0 {
                return idle;
            }
            spin_loop();
            state = self.region.gate.load(Ordering::Acquire);
        }
        let (threads, part) = ((state & COUNT) as usize, now() - start);
        self.wait_for_workers();
        let wait = (now() - start).saturating_sub(part);
        Some(Wait { part, wait, threads })
    }

    fn wait_for_workers(&self) {
        let inside = || self.region.gate.load(Ordering::Acquire) & COUNT > 0;
        for _ in 0..CALLER_YIELDS {
            if !inside() {
                return;
            }
            yield_now();
        }
        let mut held = lock(&self.done_lock);
        self.region.gate.fetch_or(WAITING, Ordering::AcqRel);
        while inside() {
            held = self.done.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        self.region.gate.fetch_and(!WAITING, Ordering::AcqRel);
    }

    /// Tells a caller that is still busy with the region that this worker saw last how long that one
    /// has been there, done and waiting.
    fn tell_idle(&self, last: &Last) {
        let Some(entered) = last.entered else { return };
        let state = self.region.gate.load(Ordering::Acquire);
        if state & OPEN != 0 && epoch(state) == last.epoch {
            let nanos = u64::try_from((now() - entered).as_nanos()).unwrap_or(u64::MAX);
            self.idle.store(nanos, Ordering::Relaxed);
            // Where the region ends meanwhile, or another worker leaves, nothing is told.
            let idle = state | IDLE;
            let _ =
                self.region.gate.compare_exchange(state, idle, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    fn leave(&self) {
        let before = self.region.gate.fetch_sub(1, Ordering::AcqRel);
        if before & WAITING != 0 && before & COUNT == 1 {
            let _held = lock(&self.done_lock);
            self.done.notify_all();
        }
    }

    /// The next gate state that concerns a worker whose last region was `last`.
    fn wait_for_region(&self, worker: usize, last: &Last) -> u64 {
        let concerns = |state: u64| {
            let fresh = state & OPEN != 0 && epoch(state) != last.epoch;
            state & SHUTDOWN != 0 || (fresh && worker < admitted(state))
        };
        for _ in 0..WORKER_SPINS {
            let state = self.region.gate.load(Ordering::Acquire);
            if concerns(state) {
                return state;
            }
            if worker >= admitted(state) {
                break;
            }
            spin_loop();
        }
        self.tell_idle(last);
        let mut held = lock(&self.sleep);
        loop {
            // Counted before the gate is read: whoever opens it after that finds a sleeper.
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let state = self.region.gate.load(Ordering::SeqCst);
            let left_out = worker >= admitted(state);
            if left_out || concerns(state) {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            if concerns(state) {
                return state;
            }
            let bell = if left_out { &self.back } else { &self.wake };
            held = bell.wait(held).unwrap_or_else(PoisonError::into_inner);
            if !left_out {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

/// The region that a worker saw last.
struct Last {
    epoch: u64,
    /// When it was entered, where the worker found something to do there.
    entered: Option<Instant>,
}

fn work(shared: &Shared, worker: usize) {
    let mut last = Last { epoch: 0, entered: None };
    loop {
        let state = shared.wait_for_region(worker, &last);
        if state & SHUTDOWN != 0 {
            return;
        }
        let entered = shared.region.gate.compare_exchange_weak(
            state,
            state + 1,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if entered.is_ok() {
            let since = now();
            // SAFETY: this thread is inside the gate, so the caller does not write the job.
            let job = unsafe { shared.region.job.get() };
            let taken = job.map_or(0, |job| shared.take_tasks(job, worker + 1));
            shared.leave();
            last = Last { epoch: epoch(state), entered: (taken > 0).then_some(since) };
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.region.gate.fetch_or(SHUTDOWN, Ordering::SeqCst);
        {
            let _asleep = lock(&self.shared.sleep);
            self.shared.wake.notify_all();
            self.shared.back.notify_all();
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
