//! Tests of the pool.

use std::collections::HashSet;

use super::*;

#[test]
fn every_task_runs_once() {
    for threads in 0..5 {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads.max(1));
        for tasks in [0, 1, 2, 3, 7, 64] {
            for _ in 0..200 {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }
}

#[test]
fn calls_of_one_number_come_one_after_the_other() {
    for threads in 1..5 {
        let pool = Pool::new(threads);
        for tasks in [1, 2, 5, 64] {
            for _ in 0..100 {
                let inside: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run_numbered(tasks, &|_, number| {
                    assert_eq!(inside[number].fetch_add(1, Ordering::SeqCst), 0);
                    std::hint::spin_loop();
                    inside[number].fetch_sub(1, Ordering::SeqCst);
                });
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

/// Calls until it gives true, for a time after which a test has failed.
fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn late_workers_are_left_out_and_come_back() {
    let pool = Pool::new(3);
    let (caller, late) = (std::thread::current().id(), AtomicU64::new(0));
    // The caller's tasks are short, those of workers as late as is told. Says how many workers did.
    let region = || {
        let (begun, helped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        pool.run(3, &|_| {
            begun.fetch_add(1, Ordering::SeqCst);
            if std::thread::current().id() != caller {
                helped.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(late.load(Ordering::SeqCst)));
            }
        });
        assert_eq!(begun.into_inner(), 3);
        helped.into_inner()
    };
    for _ in 0..3 {
        late.store(4, Ordering::SeqCst);
        until(|| region() > 0);
        until(|| {
            region();
            lock(&pool.caller).admit(Instant::now()) == 0
        });
        late.store(0, Ordering::SeqCst);
        until(|| region() > 0);
    }
}

#[test]
fn workers_go_and_come_in_any_number() {
    let pool = Pool::new(5);
    let sums = || {
        for tasks in 2..20 {
            let sum = AtomicUsize::new(0);
            pool.run(tasks, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), tasks * (tasks - 1) / 2);
        }
    };
    let mut later = Instant::now();
    for round in 0..300 {
        let threads = round % 6;
        for _ in 0..2 {
            let wait = Wait { part: Duration::ZERO, wait: Duration::from_millis(4), threads };
            lock(&pool.caller).waited(wait, Instant::now());
        }
        sums();
        // The pause and the trial after it are over.
        for _ in 0..2 {
            later += Duration::from_secs(10);
            lock(&pool.caller).admit(later);
        }
        sums();
    }
    // Nobody slept through that.
    until(|| {
        let seen = Mutex::new(HashSet::new());
        pool.run(20, &|_| {
            lock(&seen).insert(std::thread::current().id());
            std::thread::sleep(Duration::from_millis(1));
        });
        lock(&seen).len() == pool.threads()
    });
}
