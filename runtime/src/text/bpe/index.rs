//! A hash index over the positions of a table, four bytes per slot.

/// Open addressing over positions; the table itself stays with the caller, who says what matches.
pub(super) struct Index {
    /// Position plus one, or 0 for a free slot; always at least one is free.
    slots: Box<[u32]>,
}

impl Index {
    /// An empty index for up to `count` positions.
    pub(super) fn new(count: usize) -> Index {
        Index { slots: vec![0; count + count / 2 + 1].into_boxed_slice() }
    }

    /// The position that has this hash and matches.
    pub(super) fn find(&self, hash: u64, matches: impl Fn(usize) -> bool) -> Option<usize> {
        self.slots[self.slot(hash, matches)].checked_sub(1).map(|position| position as usize)
    }

    /// Enters a position, in place of one that matches, which is returned.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        position: u32,
        matches: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let slot = self.slot(hash, matches);
        let before = std::mem::replace(&mut self.slots[slot], position + 1);
        before.checked_sub(1).map(|position| position as usize)
    }

    /// The slot of the match, or the free one where it would stand.
    fn slot(&self, hash: u64, matches: impl Fn(usize) -> bool) -> usize {
        let mut slot = ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize;
        loop {
            match self.slots[slot] {
                0 => return slot,
                taken if matches(taken as usize - 1) => return slot,
                _ => slot = (slot + 1) % self.slots.len(),
            }
        }
    }
}
