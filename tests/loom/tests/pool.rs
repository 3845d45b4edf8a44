//! The pool: each task runs once, is over when the call returns, and what it wrote is seen then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use limbeck_loom::pool::Pool;
use limbeck_loom::step_clock;
use loom::cell::UnsafeCell;
use loom::model::Builder;

/// The clock belongs to one model at a time.
static CLOCK: Mutex<()> = Mutex::new(());

/// Goes through the orders of events with at most so many preemptions.
fn model(preemptions: usize, step: u64, body: impl Fn() + Sync + Send + 'static) {
    let _clock = CLOCK.lock().unwrap_or_else(|e| e.into_inner());
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        step_clock(step);
        body();
    });
}

/// Cells that tasks write and the caller reads: loom panics where the two are not in order.
struct Cells(Vec<UnsafeCell<usize>>);

// SAFETY: each task writes its own cell, and the caller reads them between calls; loom checks it.
unsafe impl Sync for Cells {}

impl Cells {
    fn new(count: usize) -> Cells {
        Cells((0..count).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, index: usize) {
        // SAFETY: as for `Sync`.
        self.0[index].with_mut(|cell| unsafe { *cell += 1 });
    }

    fn expect(&self, times: usize) {
        for cell in &self.0 {
            // SAFETY: as for `Sync`.
            assert_eq!(cell.with(|cell| unsafe { *cell }), times);
        }
    }
}

/// Regions one after another, each with these tasks.
fn regions(threads: usize, tasks: usize, regions: usize) {
    let pool = Pool::new(threads);
    let cells = Cells::new(tasks);
    for done in 1..=regions {
        pool.run(tasks, &|index| cells.add(index));
        cells.expect(done);
    }
}

#[test]
fn every_task_of_two_threads_runs_once_and_is_seen() {
    model(3, 0, || regions(2, 2, 2));
}

#[test]
fn three_threads_share_a_region() {
    model(2, 0, || regions(3, 3, 1));
}

#[test]
fn workers_that_are_late_are_left_out_and_come_back() {
    // Each reading of the clock takes longer than what is tolerated.
    model(2, 30, || regions(2, 2, 3));
}

#[test]
fn a_pool_that_was_not_used_ends() {
    model(3, 0, || drop(Pool::new(3)));
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    model(2, 0, || {
        let pool = Pool::new(2);
        let cells = Cells::new(2);
        let run = catch_unwind(AssertUnwindSafe(|| {
            pool.run(2, &|index| {
                cells.add(index);
                assert!(index == 0, "a task fails");
            });
        }));
        assert!(run.is_err());
        cells.expect(1);
        pool.run(2, &|index| cells.add(index));
        cells.expect(2);
    });
}

#[test]
fn two_callers_do_not_meet() {
    model(2, 0, || {
        let pool = loom::sync::Arc::new(Pool::new(2));
        let other = loom::sync::Arc::clone(&pool);
        let thread = loom::thread::spawn(move || {
            let cells = Cells::new(2);
            other.run(2, &|index| cells.add(index));
            cells.expect(1);
        });
        let cells = Cells::new(2);
        pool.run(2, &|index| cells.add(index));
        cells.expect(1);
        thread.join().expect("the other caller");
    });
}
