//! What threads share without a lock: a flag, and values that are wider than one atomic word.

use std::sync::atomic::Ordering;

use crate::sync::{AtomicBool, AtomicU64, spin_loop};

/// A flag. Who sees what a thread made of it sees also what that thread set before.
pub struct Flag(AtomicBool);

impl Flag {
    /// A flag that is down.
    pub fn new() -> Flag {
        Flag(AtomicBool::new(false))
    }

    /// Raises or lowers it.
    pub fn set(&self, up: bool) {
        self.0.store(up, Ordering::Release);
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Bits of a word that hold a part; the others hold the part's generation.
const PART_BITS: u32 = 16;

/// A value cut into `N` parts, each in one atomic word with the generation it belongs to.
///
/// A word only ever moves to a later generation, so once all settings are done each word is of the
/// latest, however they overlapped. Parts that carry the same generation were written by the same
/// setting: a reader needs no order between words to know that it sees no mix. The order is for a
/// reader that has seen a new generation, so that it finds the rest there too. Generations of 48 bits
/// do not run out.
pub struct Words<const N: usize> {
    /// Settings begun so far.
    begun: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Words<N> {
    /// With these parts, as generation 0.
    pub fn new(parts: [u16; N]) -> Words<N> {
        let words = parts.map(|part| AtomicU64::new(u64::from(part)));
        Words { begun: AtomicU64::new(0), words }
    }

    /// Sets all parts, in a bounded number of steps. Of settings that overlap in time the one that
    /// began last stays.
    pub fn set(&self, parts: [u16; N]) {
        let generation = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        // The first word is read first by `newest`, and so written last.
        for (word, part) in self.words.iter().zip(parts).rev() {
            word.fetch_max(generation << PART_BITS | u64::from(part), Ordering::Release);
        }
    }

    /// The generation of the first word.
    pub fn newest(&self) -> u64 {
        self.words.first().map_or(0, |first| first.load(Ordering::Relaxed) >> PART_BITS)
    }

    /// The parts with their generation, unless some are being set.
    pub fn get(&self) -> Option<(u64, [u16; N])> {
        let words = self.words.each_ref().map(|w| w.load(Ordering::Acquire));
        let generation = words.first()? >> PART_BITS;
        let same = words.iter().all(|word| word >> PART_BITS == generation);
        same.then(|| (generation, words.map(|word| word as u16)))
    }

    /// [`Words::get`] that waits while some are being set.
    pub fn wait(&self) -> (u64, [u16; N]) {
        loop {
            if let Some(found) = self.get() {
                return found;
            }
            spin_loop();
        }
    }
}

/// A small number and values of 64 bits as `N = 1 + 4 VALUES` parts, the number first.
pub fn pack<const N: usize, const VALUES: usize>(first: u16, values: [u64; VALUES]) -> [u16; N] {
    const { assert!(N == 1 + 4 * VALUES) }
    let mut values = values.iter().flat_map(|v| [0, 16, 32, 48].map(|bits| (v >> bits) as u16));
    let mut first = Some(first);
    std::array::from_fn(|_| first.take().or_else(|| values.next()).unwrap_or(0))
}

/// The opposite of [`pack`].
pub fn unpack<const N: usize, const VALUES: usize>(parts: [u16; N]) -> (u16, [u64; VALUES]) {
    const { assert!(N == 1 + 4 * VALUES) }
    let [first, rest @ ..] = parts.as_slice() else { return (0, [0; VALUES]) };
    let join =
        |four: &[u16]| four.iter().rev().fold(0, |value, part| value << 16 | u64::from(*part));
    let mut values = rest.chunks(4).map(join);
    (*first, std::array::from_fn(|_| values.next().unwrap_or(0)))
}
