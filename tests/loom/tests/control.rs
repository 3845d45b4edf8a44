//! The control: values set as one are read as one, and who sees the flag sees what was set before it.
//! Values have two parts here instead of 13, which are alike.

use limbeck_loom::shared::{Flag, Words};
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

const FIRST: [u16; 2] = [0, 0];

fn model(body: impl Fn() + Sync + Send + 'static) {
    Builder::new().check(body);
}

struct Control {
    cancelled: Flag,
    budget: Words<2>,
}

fn control() -> Arc<Control> {
    Arc::new(Control { cancelled: Flag::new(), budget: Words::new(FIRST) })
}

/// Panics for parts that were not set together as `[n, 10 n]`.
fn check([first, second]: [u16; 2]) {
    assert_eq!(second, 10 * first, "a mix");
}

#[test]
fn a_reader_sees_no_mix_and_nothing_older_than_before() {
    model(|| {
        let control = control();
        let writer = Arc::clone(&control);
        let thread = thread::spawn(move || {
            writer.budget.set([1, 10]);
            writer.budget.set([2, 20]);
        });
        let mut seen = 0;
        for _ in 0..2 {
            if let Some((generation, parts)) = control.budget.get() {
                check(parts);
                assert!(generation >= seen);
                assert_eq!(u64::from(parts[0]), generation);
                seen = generation;
            }
        }
        thread.join().expect("the writer");
        assert_eq!(control.budget.get(), Some((2, [2, 20])));
    });
}

#[test]
fn who_sees_a_new_generation_finds_all_of_it() {
    model(|| {
        let control = control();
        let writer = Arc::clone(&control);
        let thread = thread::spawn(move || writer.budget.set([1, 10]));
        if control.budget.newest() == 1 {
            assert_eq!(control.budget.get(), Some((1, [1, 10])));
        }
        thread.join().expect("the writer");
    });
}

#[test]
fn a_reader_that_waits_comes_to_an_end() {
    model(|| {
        let control = control();
        let writer = Arc::clone(&control);
        let thread = thread::spawn(move || writer.budget.set([1, 10]));
        check(control.budget.wait().1);
        thread.join().expect("the writer");
    });
}

#[test]
fn of_two_writers_one_stays_whole() {
    model(|| {
        let control = control();
        let writers = [1, 2].map(|n| {
            let control = Arc::clone(&control);
            thread::spawn(move || control.budget.set([n, 10 * n]))
        });
        if let Some((_, parts)) = control.budget.get() {
            check(parts);
        }
        for writer in writers {
            writer.join().expect("a writer");
        }
        let (generation, parts) = control.budget.get().expect("nobody writes");
        assert_eq!(generation, 2);
        assert_ne!(parts, FIRST);
        check(parts);
    });
}

#[test]
fn who_sees_the_flag_sees_the_budget_set_before_it() {
    model(|| {
        let control = control();
        let other = Arc::clone(&control);
        let thread = thread::spawn(move || {
            other.budget.set([1, 10]);
            other.cancelled.set(true);
        });
        if let Some((_, parts)) = control.budget.get() {
            check(parts);
        }
        if control.cancelled.is_up() {
            assert_eq!(control.budget.get(), Some((1, [1, 10])));
        }
        thread.join().expect("the other thread");
        assert!(control.cancelled.is_up());
    });
}

#[test]
fn who_sees_a_value_sees_one_set_before_it() {
    model(|| {
        let (control, status) = (control(), Arc::new(Words::new(FIRST)));
        let other = (Arc::clone(&control), Arc::clone(&status));
        let thread = thread::spawn(move || {
            other.0.budget.set([1, 10]);
            other.1.set([2, 20]);
        });
        if let Some((1, parts)) = status.get() {
            check(parts);
            assert_eq!(control.budget.get(), Some((1, [1, 10])));
        }
        thread.join().expect("the other thread");
    });
}
