//! An allocator that counts, so that a test can hold a call to a limit.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting the bytes that each thread has taken and not given back.
/// A test binary makes it its `#[global_allocator]`.
#[derive(Debug, Default)]
pub struct Counting;

fn count(bytes: isize) {
    // A thread that is ending has no counters any more, and no test on it.
    let _ = CURRENT.try_with(|current| {
        current.set(current.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(current.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator unchanged, and counting allocates
// nothing: the counters are constants of the thread without destructors.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise for this method is the one that the system asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old and the new block may both be there for a moment.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as for `alloc`; `start` came from the system's allocator.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as for `realloc`.
        unsafe { System.dealloc(start, layout) }
    }
}

/// Runs `call` and gives the most bytes that this thread had beside those it had before. Always 0
/// where [`Counting`] is not the allocator.
pub fn peak<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = CURRENT.get();
    PEAK.set(before);
    let result = call();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}
