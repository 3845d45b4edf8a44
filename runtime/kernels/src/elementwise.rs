//! Elementwise ops, and the splitting of an output into chunks for a pool's threads.

use crate::error::{Error, check_len};
use crate::math;
use crate::pool::Pool;
use crate::simd::{LANES, Simd};
use crate::table::Kernels;
use limbeck_plan::Activation;
use std::marker::PhantomData;

/// Elements below which a parallel region costs more than it saves.
const SERIAL: usize = 16 * 1024;
/// Chunks start at multiples of this, so that threads do not share cache lines.
const GRAIN: usize = 16;

/// A mutable slice that the tasks of one region write to in disjoint parts.
pub(crate) struct SharedRows<'a, T = f32> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer comes from an exclusive borrow that lives as long as the value; `part` demands parts
// that do not overlap, and who uses a `pointer` vouches for the same.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// # Safety
    /// While the result lives, no other part that overlaps `first..first + len` exists.
    #[allow(clippy::mut_from_ref, reason = "the caller keeps parts disjoint, as the contract says")]
    #[inline(always)]
    pub(crate) unsafe fn part(&self, first: usize, len: usize) -> &mut [T] {
        assert!(first <= self.len && len <= self.len - first);
        // SAFETY: in bounds of the exclusive borrow, and disjoint from other parts by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}

impl<T: Sync> SharedRows<'_, T> {
    /// A part that is read.
    ///
    /// # Safety
    /// While the result lives, nobody writes to it.
    #[inline(always)]
    pub(crate) unsafe fn read(&self, first: usize, len: usize) -> &[T] {
        assert!(first <= self.len && len <= self.len - first);
        // SAFETY: in bounds of the exclusive borrow, and not written by contract.
        unsafe { std::slice::from_raw_parts(self.start.add(first), len) }
    }
}

impl<T: Send> SharedRows<'_, T> {
    /// Where elements `first..first + len` lie, of which some may be another thread's.
    ///
    /// # Panics
    /// When there are no such elements.
    #[inline(always)]
    pub(crate) fn pointer(&self, first: usize, len: usize) -> *mut T {
        assert!(first <= self.len && len <= self.len - first);
        self.start.wrapping_add(first)
    }

    /// How many elements there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Calls `body(first element, its part)` for disjoint parts that cover the slice, each a
    /// multiple of `unit` elements, over the pool's threads where there are enough elements.
    pub(crate) fn for_each_chunk(
        &self,
        pool: &Pool,
        unit: usize,
        body: impl Fn(usize, &mut [T]) + Sync,
    ) {
        self.in_parts(pool, if self.len < SERIAL { 1 } else { pool.threads() }, unit, body);
    }

    /// The same for elements that are each worth a thread.
    pub(crate) fn for_each_part(
        &self,
        pool: &Pool,
        unit: usize,
        body: impl Fn(usize, &mut [T]) + Sync,
    ) {
        self.in_parts(pool, pool.threads(), unit, body);
    }

    fn in_parts(
        &self,
        pool: &Pool,
        threads: usize,
        unit: usize,
        body: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let chunk = self.len.div_ceil(threads * if threads > 1 { 2 } else { 1 });
        let chunk = chunk.max(1).next_multiple_of(unit);
        pool.run(self.len.div_ceil(chunk), &|task| {
            let first = task * chunk;
            // SAFETY: task `i` takes the `i`-th chunk alone, and the pool runs each task once.
            let part = unsafe { self.part(first, chunk.min(self.len - first)) };
            body(first, part);
        });
    }
}

/// `out = a + b`, all `[T, H]`.
///
/// # Errors
/// `Shape` when the lengths differ.
pub fn add(
    kernels: &Kernels,
    pool: &Pool,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    check_len("the second term", b.len(), a.len())?;
    check_len("the sum", out.len(), a.len())?;
    SharedRows::new(out).for_each_chunk(pool, GRAIN, |first, out| {
        let n = out.len();
        kernels.add(&a[first..][..n], &b[first..][..n], out);
    });
    Ok(())
}

/// `out = activation(x)`.
///
/// # Errors
/// `Shape` when the lengths differ.
pub fn activate(
    kernels: &Kernels,
    pool: &Pool,
    activation: Activation,
    x: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    check_len("the activation's result", out.len(), x.len())?;
    SharedRows::new(out).for_each_chunk(pool, GRAIN, |first, out| {
        kernels.activate(activation, &x[first..][..out.len()], out);
    });
    Ok(())
}

/// `out = activation(gate) * up`.
///
/// # Errors
/// `Shape` when the lengths differ.
pub fn gate(
    kernels: &Kernels,
    pool: &Pool,
    activation: Activation,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    check_len("the gate's other operand", up.len(), gate.len())?;
    check_len("the gate's result", out.len(), gate.len())?;
    SharedRows::new(out).for_each_chunk(pool, GRAIN, |first, out| {
        let n = out.len();
        kernels.gate(activation, &gate[first..][..n], &up[first..][..n], out);
    });
    Ok(())
}

/// `out = cap * tanh(x / cap)`.
///
/// # Errors
/// `Shape` when the lengths differ.
pub fn soft_cap(
    kernels: &Kernels,
    pool: &Pool,
    cap: f32,
    x: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    check_len("the capped values", out.len(), x.len())?;
    SharedRows::new(out).for_each_chunk(pool, GRAIN, |first, out| {
        kernels.soft_cap(cap, &x[first..][..out.len()], out);
    });
    Ok(())
}

#[inline(always)]
pub(crate) fn add_row<S: Simd>(s: S, a: &[f32], b: &[f32], out: &mut [f32]) {
    for at in (0..out.len()).step_by(LANES) {
        s.store_some(out, at, s.add(s.load_some(a, at), s.load_some(b, at)));
    }
}

#[inline(always)]
pub(crate) fn activate_row<S: Simd>(s: S, activation: Activation, x: &[f32], out: &mut [f32]) {
    for at in (0..out.len()).step_by(LANES) {
        s.store_some(out, at, math::apply(s, activation, s.load_some(x, at)));
    }
}

#[inline(always)]
pub(crate) fn gate_row<S: Simd>(
    s: S,
    activation: Activation,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
) {
    for at in (0..out.len()).step_by(LANES) {
        let g = math::apply(s, activation, s.load_some(gate, at));
        s.store_some(out, at, s.mul(g, s.load_some(up, at)));
    }
}

#[inline(always)]
pub(crate) fn soft_cap_row<S: Simd>(s: S, cap: f32, x: &[f32], out: &mut [f32]) {
    for at in (0..out.len()).step_by(LANES) {
        s.store_some(out, at, math::soft_cap(s, cap, s.load_some(x, at)));
    }
}
