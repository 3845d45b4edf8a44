//! Bands of rows: instructions that follow one another and keep rows apart run band after band, each band
//! through all of them on one thread. Threads meet once for all of them, and what one instruction writes
//! the next finds in its thread's cache.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use limbeck_kernels::LinearScratch;

use super::{Shared, rows};
use crate::backend::lower::{Lowered, Named};
use crate::backend::sizes::Sizes;
use crate::backend::slots::{Unit, Value};
use crate::error::Result;

/// Rows for each thread from which bands pay: each reads all weights.
const LEAST_ROWS: usize = 32;
/// Bytes of a band's values: they fit the second cache beside the weights in use.
const BAND_BYTES: usize = 1536 * 1024;
/// Bands have whole tiles of rows.
const WHOLE_ROWS: usize = 8;

/// Instructions that run in bands where there are rows enough.
#[derive(Debug)]
pub(super) struct Run {
    pub instructions: Range<usize>,
    /// Rows are so many for each unit.
    unit: Unit,
    rows: usize,
    /// Slots in use, in order, and the columns of what each holds all along.
    slots: Vec<(usize, usize)>,
}

/// The runs of an entry, in order.
pub(super) fn runs(entry: &Lowered) -> Vec<Run> {
    let mut found: Vec<Run> = Vec::new();
    let mut open = false;
    for (at, named) in entry.instructions.iter().enumerate() {
        let Some((read, out)) = rows::operands(&named.instruction) else {
            open = false;
            continue;
        };
        let [x, y] = read.map(|value| value.unwrap_or(out));
        let values = [x, y, out];
        if open
            && let Some(run) = found.last_mut()
            && run.add(&values)
        {
            run.instructions.end = at + 1;
            continue;
        }
        let mut run =
            Run { instructions: at..at + 1, unit: out.unit, rows: out.rows, slots: Vec::new() };
        open = run.add(&values);
        found.extend(open.then_some(run));
    }
    found
}

impl Run {
    /// Takes up values, unless their rows are others or a slot holds other columns.
    fn add(&mut self, values: &[Value; 3]) -> bool {
        let mut slots = self.slots.clone();
        for value in values {
            if (value.unit, value.rows) != (self.unit, self.rows) {
                return false;
            }
            match slots.binary_search_by_key(&value.slot, |slot| slot.0) {
                Ok(at) if slots[at].1 != value.cols => return false,
                Ok(_) => {}
                Err(at) => slots.insert(at, (value.slot, value.cols)),
            }
        }
        self.slots = slots;
        true
    }

    fn place(&self, slot: usize) -> usize {
        self.slots.partition_point(|(other, _)| *other < slot)
    }

    /// Rows of a band, and of all, where bands pay.
    fn band(&self, sizes: &Sizes, threads: usize) -> Option<(usize, usize)> {
        let rows = sizes.units(self.unit).saturating_mul(self.rows);
        let bytes: usize = self.slots.iter().map(|(_, cols)| cols * size_of::<f32>()).sum();
        if rows < LEAST_ROWS * threads.max(2) {
            return None;
        }

        let most = (BAND_BYTES / bytes.max(1)).max(LEAST_ROWS);
        let bands = rows.div_ceil(most).next_multiple_of(threads);
        Some((rows.div_ceil(bands).next_multiple_of(WHOLE_ROWS), rows))
    }
}

/// What threads work in.
#[derive(Default)]
pub(super) struct Bands {
    scratch: Vec<Mutex<LinearScratch>>,
}

impl Bands {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.scratch.iter().map(|scratch| held(scratch).bytes()).sum()
    }

    /// Runs a run of the entry; false, and nothing has happened, where bands do not pay.
    pub fn run(
        &mut self,
        shared: &Shared,
        slots: &mut [Vec<f32>],
        sizes: &Sizes,
        entry: &Lowered,
        run: &Run,
    ) -> Result<bool> {
        let threads = shared.pool.threads();
        let Some((band, rows)) = run.band(sizes, threads) else { return Ok(false) };
        self.scratch.resize_with(threads.max(self.scratch.len()), Mutex::default);
        let bands = cut(slots, run, rows, band);
        let failed = Mutex::new(None);
        shared.pool.run(bands.len(), &|index| {
            let mut scratch = self.take();
            let mut slots = held(&bands[index]);
            for Named { step, instruction } in &entry.instructions[run.instructions.clone()] {
                let Some((_, out)) = rows::operands(instruction) else { continue };
                let place = run.place(out.slot);
                let target = std::mem::take(&mut slots[place]);
                let slot = |value: Value| &*slots[run.place(value.slot)];
                let done =
                    rows::run(shared, &shared.alone, &mut scratch, instruction, &slot, target);
                slots[place] = target;
                if let Err(error) = done {
                    held(&failed).get_or_insert_with(|| error.at(entry.place(step)));
                    return;
                }
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(true), Err)
    }

    /// Scratch that no other thread uses: there is one for each.
    fn take(&self) -> MutexGuard<'_, LinearScratch> {
        loop {
            for scratch in &self.scratch {
                match scratch.try_lock() {
                    Ok(free) => return free,
                    Err(TryLockError::Poisoned(free)) => return free.into_inner(),
                    Err(TryLockError::WouldBlock) => {}
                }
            }
            std::hint::spin_loop();
        }
    }
}

/// The rows of each band in each of the run's slots.
fn cut<'a>(
    slots: &'a mut [Vec<f32>],
    run: &Run,
    rows: usize,
    band: usize,
) -> Vec<Mutex<Vec<&'a mut [f32]>>> {
    let mut bands: Vec<Vec<&mut [f32]>> = (0..rows.div_ceil(band)).map(|_| Vec::new()).collect();
    let mut from = slots.iter_mut().enumerate();
    for (slot, cols) in &run.slots {
        let buffer = from.find(|(at, _)| at == slot).map(|(_, buffer)| &mut buffer[..rows * cols]);
        let parts = buffer.into_iter().flat_map(|buffer| buffer.chunks_mut(band * cols));
        bands.iter_mut().zip(parts).for_each(|(band, part)| band.push(part));
    }
    bands.into_iter().map(Mutex::new).collect()
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
