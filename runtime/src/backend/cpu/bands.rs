//! Bands of rows: instructions that follow one another and keep rows apart run band after band, each band
//! through all of them on one thread. Threads meet once for all of them, and what one instruction writes
//! the next finds in its thread's cache.

use std::mem;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use limbeck_kernels::LinearScratch;

use super::{Shared, rows};
use crate::backend::lower::{Instruction, Lowered, Named};
use crate::backend::sizes::Sizes;
use crate::backend::slots::{Unit, Value};
use crate::error::Result;

/// Rows for each thread from which bands pay: each reads all weights.
const LEAST_ROWS: usize = 32;
/// Bytes of a band's widest value.
const BAND_BYTES: usize = 768 * 1024;
/// Bands have whole tiles of rows.
const WHOLE_ROWS: usize = 8;

/// Instructions that run in bands where there are rows enough.
#[derive(Debug)]
pub(super) struct Run {
    pub instructions: Range<usize>,
    /// Rows are so many for each unit.
    unit: Unit,
    rows: usize,
    /// In the order of their slots.
    uses: Vec<Use>,
}

/// How a run uses a slot. What the slot holds when the run begins, and is read, and what it holds when the
/// run has ended, lies there, and so does what it holds in between if it has as many columns. For the rest
/// threads have memory of their own.
#[derive(Clone, Copy, Debug)]
struct Use {
    slot: usize,
    cols: usize,
    /// The most columns of what does not lie there.
    own: usize,
}

/// The runs of an entry, in order.
pub(super) fn runs(entry: &Lowered) -> Vec<Run> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < entry.instructions.len() {
        let run = Run::from(&entry.instructions[at..], at);
        at = run.as_ref().map_or(at + 1, |run| run.instructions.end);
        found.extend(run);
    }
    found
}

impl Run {
    /// The longest run that the first of these instructions, which is the entry's `start`-th, begins.
    fn from(instructions: &[Named], start: usize) -> Option<Run> {
        let (_, first) = rows::operands(&instructions.first()?.instruction)?;
        let mut held: Vec<Held> = Vec::new();
        let (mut values, mut longest) = (Vec::new(), None);
        for (at, named) in instructions.iter().enumerate() {
            let Some((read, out)) = rows::operands(&named.instruction) else { break };
            let mut of_step = read.into_iter().flatten().chain([out]);
            let like = |value: &Value| (value.unit, value.rows) == (first.unit, first.rows);
            if !of_step.all(|value| like(&value) && value.cols > 0) {
                break;
            }
            for value in read.into_iter().flatten() {
                note(&mut held, value, true);
                values.push(value);
            }
            note(&mut held, out, false);
            values.push(out);
            // What other bands have still to read must not be written over.
            if held.iter().all(|held| !held.given || held.now == held.first) {
                longest = Some((at + 1, values.len(), held.clone()));
            }
        }
        let (count, of_run, held) = longest?;
        let of_slot = |held: Held| {
            let others = values[..of_run].iter().filter(|value| value.slot == held.slot);
            let own = others.map(|value| value.cols).filter(|cols| *cols != held.now).max();
            Use { slot: held.slot, cols: held.now, own: own.unwrap_or(0) }
        };
        Some(Run {
            instructions: start..start + count,
            unit: first.unit,
            rows: first.rows,
            uses: held.into_iter().map(of_slot).collect(),
        })
    }

    /// Rows of a band, and of all, where bands pay in a call of so many units.
    fn band(&self, units: usize, threads: usize) -> Option<(usize, usize)> {
        let rows = units.saturating_mul(self.rows);
        if rows < LEAST_ROWS * threads.max(2) {
            return None;
        }
        let widest = self.uses.iter().map(|used| used.cols.max(used.own)).max()?;
        let most = (BAND_BYTES / size_of::<f32>() / widest.max(1)).max(LEAST_ROWS);
        let bands = rows.div_ceil(most).next_multiple_of(threads);
        Some((rows.div_ceil(bands).next_multiple_of(WHOLE_ROWS), rows))
    }
}

/// What a slot holds while a run is looked for.
#[derive(Clone, Copy)]
struct Held {
    slot: usize,
    /// Whether it was read before it was written.
    given: bool,
    /// Columns of what it held first, and of what it holds now.
    first: usize,
    now: usize,
}

/// Notes that a value is read, or written.
fn note(held: &mut Vec<Held>, value: Value, read: bool) {
    let Value { slot, cols, .. } = value;
    match held.binary_search_by_key(&slot, |held| held.slot) {
        Ok(at) => held[at].now = cols,
        Err(at) => held.insert(at, Held { slot, given: read, first: cols, now: cols }),
    }
}

fn place(uses: &[Use], slot: usize) -> usize {
    uses.partition_point(|other| other.slot < slot)
}

/// What a thread works in.
#[derive(Default)]
struct Scratch {
    linear: LinearScratch,
    /// By use, what does not lie in the slot.
    own: Vec<Vec<f32>>,
}

impl Scratch {
    /// Makes room for bands of so many rows.
    fn fit(&mut self, uses: &[Use], rows: usize) {
        if self.own.len() < uses.len() {
            self.own.resize_with(uses.len(), Vec::new);
        }
        for (own, used) in self.own.iter_mut().zip(uses) {
            if own.len() < used.own * rows {
                own.resize(used.own * rows, 0.0);
            }
        }
    }
}

/// What threads work in.
#[derive(Default)]
pub(super) struct Bands {
    /// By thread, each of which locks its own.
    scratch: Vec<Mutex<Scratch>>,
}

impl Bands {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let of_thread = |scratch: &Mutex<Scratch>| {
            let scratch = held(scratch);
            let own: usize = scratch.own.iter().map(Vec::capacity).sum();
            scratch.linear.bytes() + own * size_of::<f32>()
        };
        self.scratch.iter().map(of_thread).sum()
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
        let Some((band, rows)) = run.band(sizes.units(run.unit), threads) else {
            return Ok(false);
        };
        self.scratch.resize_with(threads.max(self.scratch.len()), Mutex::default);
        let bands = cut(slots, run, rows, band);
        let failed = Mutex::new(None);
        shared.pool.run_numbered(bands.len(), &|index, thread| {
            let mut scratch = held(&self.scratch[thread]);
            let rows = band.min(rows - index * band);
            scratch.fit(&run.uses, rows);
            let mut band = Band { uses: &run.uses, rows, slots: held(&bands[index]) };
            for Named { step, instruction } in &entry.instructions[run.instructions.clone()] {
                if let Err(error) = band.execute(shared, &mut scratch, instruction) {
                    held(&failed).get_or_insert_with(|| error.at(entry.place(step)));
                    return;
                }
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(true), Err)
    }
}

/// Some rows of a run.
struct Band<'a, 'b> {
    uses: &'a [Use],
    rows: usize,
    /// By use, these rows of the slot.
    slots: MutexGuard<'a, Vec<&'b mut [f32]>>,
}

impl Band<'_, '_> {
    fn execute(
        &mut self,
        shared: &Shared,
        scratch: &mut Scratch,
        instruction: &Instruction,
    ) -> Result<()> {
        let Some((_, out)) = rows::operands(instruction) else { return Ok(()) };
        let (uses, rows) = (self.uses, self.rows);
        let Scratch { linear, own } = scratch;
        let at = place(uses, out.slot);
        // Taken out while the others are read: no operand shares a slot with the result.
        let there = mem::take(&mut self.slots[at]);
        let mut apart = mem::take(&mut own[at]);
        let slot = |value: Value| {
            let at = place(uses, value.slot);
            let values = if value.cols == uses[at].cols { &*self.slots[at] } else { &own[at] };
            values.get(..rows * value.cols).unwrap_or_default()
        };
        let lies_there = out.cols == uses[at].cols;
        let target: &mut [f32] = if lies_there { &mut *there } else { &mut apart };
        let target = &mut target[..rows * out.cols];
        let done = rows::run(shared, &shared.alone, linear, instruction, &slot, target);
        (self.slots[at], own[at]) = (there, apart);
        done
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
    for Use { slot, cols, .. } in &run.uses {
        let buffer = from.find(|(at, _)| at == slot).map(|(_, buffer)| &mut buffer[..rows * cols]);
        let parts = buffer.into_iter().flat_map(|buffer| buffer.chunks_mut(band * cols));
        bands.iter_mut().zip(parts).for_each(|(band, part)| band.push(part));
    }
    bands.into_iter().map(Mutex::new).collect()
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of values, each a slot and its columns: two terms and the sum.
    fn run(sums: &[[(usize, usize); 3]]) -> Run {
        let value = |(slot, cols)| Value { slot, unit: Unit::Tokens, rows: 1, cols };
        let named = sums.iter().map(|&[a, b, out]| Named {
            step: String::new(),
            instruction: Instruction::Add { a: value(a), b: value(b), out: value(out) },
        });
        Run::from(&named.collect::<Vec<_>>(), 0).expect("a run")
    }

    fn uses(run: &Run) -> Vec<(usize, usize, usize)> {
        run.uses.iter().map(|used| (used.slot, used.cols, used.own)).collect()
    }

    #[test]
    fn what_lies_in_a_slot_for_a_while_is_a_threads_own() {
        // Slot 2 holds 8 columns, then 32, and 24 in the end, which lie there.
        let run = run(&[
            [(0, 8), (1, 8), (2, 8)],
            [(2, 8), (0, 8), (1, 8)],
            [(1, 8), (1, 8), (2, 32)],
            [(2, 32), (1, 8), (0, 8)],
            [(0, 8), (0, 8), (2, 24)],
        ]);
        assert_eq!(run.instructions, 0..5);
        assert_eq!(uses(&run), [(0, 8, 0), (1, 8, 0), (2, 24, 32)]);
    }

    #[test]
    fn a_run_ends_before_it_writes_over_what_other_bands_read() {
        // Slot 0 is given with 8 columns: 32 would reach into the rows of others.
        let run =
            run(&[[(0, 8), (1, 8), (2, 8)], [(2, 8), (1, 8), (0, 32)], [(0, 32), (2, 8), (1, 8)]]);
        assert_eq!(run.instructions, 0..1);
        assert_eq!(uses(&run), [(0, 8, 0), (1, 8, 0), (2, 8, 0)]);
    }

    #[test]
    fn what_is_given_may_have_other_columns_in_between() {
        let run = run(&[
            [(0, 8), (1, 8), (2, 8)],
            [(2, 8), (1, 8), (0, 32)],
            [(0, 32), (2, 8), (1, 8)],
            [(1, 8), (2, 8), (0, 8)],
        ]);
        assert_eq!(run.instructions, 0..4);
        assert_eq!(uses(&run), [(0, 8, 32), (1, 8, 0), (2, 8, 0)]);
    }

    #[test]
    fn bands_are_whole_tiles_of_all_rows() {
        let run = run(&[[(0, 1536), (1, 1536), (2, 1536)]]);
        assert_eq!(run.band(63, 2), None);
        assert_eq!(run.band(96, 4), None);
        assert_eq!(run.band(64, 2), Some((32, 64)));
        assert_eq!(run.band(117, 2), Some((64, 117)));
        assert_eq!(run.band(1024, 2), Some((128, 1024)));
        // Bands that no rows are left for do not matter: there are as many as hold all rows.
        assert_eq!(run.band(260, 8), Some((40, 260)));
    }
}
