//! One word on its way to tokens: symbols in a row, of which neighbours are merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::merges::Merges;

/// No symbol.
const NONE: u32 = u32::MAX;

/// A row of symbols.
#[derive(Default)]
pub(super) struct Word {
    /// Where the row began with; those with a length of 0 are merged into one before.
    symbols: Vec<Symbol>,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    /// Bytes of the text that it stands for.
    len: u32,
    /// Places of the neighbours, or [`NONE`].
    prev: u32,
    next: u32,
}

impl Word {
    /// Appends a symbol for the next `len` > 0 bytes of a text shorter than `u32::MAX` bytes.
    pub(super) fn push(&mut self, id: u32, len: u32) {
        let at = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = at;
        }
        self.symbols.push(Symbol { id, len, prev: at.checked_sub(1).unwrap_or(NONE), next: NONE });
    }

    /// Merges neighbours until none can be: always the merge of the lowest rank, of equal ones
    /// the leftmost.
    pub(super) fn merge(&mut self, merges: &Merges) {
        let symbols = &mut self.symbols;
        let pairs = (0u32..).zip(symbols.windows(2)).filter_map(|(at, pair)| {
            let (rank, _) = merges.find(pair[0].id, pair[1].id)?;
            Some(Reverse((rank, at)))
        });
        let mut queue: BinaryHeap<Reverse<(u32, u32)>> = pairs.collect();
        while let Some(Reverse((rank, at))) = queue.pop() {
            let left = symbols[at as usize];
            if left.len == 0 || left.next == NONE {
                continue;
            }
            let right = symbols[left.next as usize];
            // Either symbol may have been merged since this was queued.
            let merged = match merges.find(left.id, right.id) {
                Some((_, merged)) if merges.merged(rank) == Some(merged) => merged,
                _ => continue,
            };
            symbols[left.next as usize].len = 0;
            let len = left.len + right.len;
            symbols[at as usize] = Symbol { id: merged, len, prev: left.prev, next: right.next };
            if let Some(next) = symbols.get_mut(right.next as usize) {
                next.prev = at;
                queue.extend(merges.find(merged, next.id).map(|(rank, _)| Reverse((rank, at))));
            }
            if let Some(prev) = symbols.get(left.prev as usize) {
                queue.extend(
                    merges.find(prev.id, merged).map(|(rank, _)| Reverse((rank, left.prev))),
                );
            }
        }
    }

    /// The symbols that are left, with their lengths in bytes.
    pub(super) fn symbols(&self) -> impl Iterator<Item = (u32, u32)> {
        self.symbols.iter().filter(|symbol| symbol.len > 0).map(|symbol| (symbol.id, symbol.len))
    }
}
