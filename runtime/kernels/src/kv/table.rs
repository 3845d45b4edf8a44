//! Which blocks the sequences of a cache have. The blocks' memory is its owner's: that of a machine
//! here ([`super::KvCache`]), that of a device elsewhere.

use super::KV_BLOCK;
use crate::error::{Error, ErrorKind};

/// Names a sequence of one cache; a freed sequence's name stays invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqId {
    slot: u32,
    generation: u32,
}

impl SeqId {
    /// The name as a number, never 0.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.generation) << 32) | (u64::from(self.slot) + 1)
    }

    /// The name that a number stands for. Any number will do: one that names no sequence is
    /// refused where it is used.
    pub fn from_bits(bits: u64) -> SeqId {
        SeqId { slot: (bits as u32).wrapping_sub(1), generation: (bits >> 32) as u32 }
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    live: bool,
    /// Block ids, position order; may reach past `len` after a reservation.
    blocks: Vec<u32>,
    len: usize,
}

/// What a reservation takes.
struct Needed {
    /// Index of the first block that is written.
    first_written: usize,
    /// Blocks that the sequence will have.
    want: usize,
    /// Blocks that are new to it: copies of shared ones, and those that it has not yet.
    blocks: usize,
}

/// The memory of blocks, which are numbered from 0.
pub trait BlockMemory {
    /// Adds a block after those that there are.
    ///
    /// # Errors
    /// `Memory` where there is none.
    fn add(&mut self) -> Result<(), Error>;
    /// Copies what a block holds to another.
    fn copy(&mut self, source: u32, target: u32);
}

/// Sequences of positions in blocks of [`KV_BLOCK`] that are shared until one of them writes.
#[derive(Debug)]
pub struct BlockTable {
    /// Blocks that may be in use at once.
    max_blocks: usize,
    /// Users of each block; 0 when it is in `free_blocks`.
    users: Vec<u32>,
    free_blocks: Vec<u32>,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
}

impl BlockTable {
    /// No sequences and no blocks yet; so many may be in use at once.
    pub fn new(max_blocks: usize) -> BlockTable {
        BlockTable {
            max_blocks,
            users: Vec::new(),
            free_blocks: Vec::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
        }
    }

    /// Blocks that there are, free ones included.
    pub fn blocks(&self) -> usize {
        self.users.len()
    }

    /// Blocks that sequences use now; a shared block counts once.
    pub fn blocks_used(&self) -> usize {
        self.users.len() - self.free_blocks.len()
    }

    /// A new, empty sequence.
    pub fn create(&mut self) -> SeqId {
        let slot = match self.free_slots.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot::default());
                (self.slots.len() - 1) as u32
            }
        };
        let state = &mut self.slots[slot as usize];
        state.live = true;
        SeqId { slot, generation: state.generation }
    }

    /// A new sequence with the committed positions of `seq`, sharing its blocks.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence.
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error> {
        let len = self.len(seq)?;
        let fork = self.create();
        let shared = len.div_ceil(KV_BLOCK);
        let mut blocks = std::mem::take(&mut self.slots[fork.slot as usize].blocks);
        blocks.extend_from_slice(&self.slots[seq.slot as usize].blocks[..shared]);
        for id in &blocks {
            self.users[*id as usize] += 1;
        }
        let state = &mut self.slots[fork.slot as usize];
        state.blocks = blocks;
        state.len = len;
        Ok(fork)
    }

    /// Forgets a sequence; blocks that no other sequence uses become free.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence.
    pub fn free(&mut self, seq: SeqId) -> Result<(), Error> {
        self.slot(seq)?;
        self.drop_blocks(seq.slot, 0);
        let state = &mut self.slots[seq.slot as usize];
        state.len = 0;
        state.live = false;
        state.generation = state.generation.wrapping_add(1);
        self.free_slots.push(seq.slot);
        Ok(())
    }

    /// Committed positions.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence.
    #[allow(clippy::len_without_is_empty, reason = "the length of a sequence, not of the cache")]
    pub fn len(&self, seq: SeqId) -> Result<usize, Error> {
        Ok(self.slot(seq)?.len)
    }

    /// Keeps the first `len` positions and gives up every reservation.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence, `Range` when it is shorter than `len`.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<(), Error> {
        let have = self.len(seq)?;
        if len > have {
            return Err(Error::range(format!("a sequence of {have} cannot be cut to {len}")));
        }
        self.drop_blocks(seq.slot, len.div_ceil(KV_BLOCK));
        self.slots[seq.slot as usize].len = len;
        Ok(())
    }

    /// Makes room to write `n` positions after the committed ones: takes blocks and copies a shared
    /// last block. On an error nothing has changed, but that `memory` may have more blocks.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence, `Capacity` when blocks run out, those of `memory`.
    pub fn reserve(
        &mut self,
        memory: &mut impl BlockMemory,
        seq: SeqId,
        n: usize,
    ) -> Result<(), Error> {
        let Needed { first_written, want, blocks: needed } = self.needed(seq, n)?;
        if needed == 0 {
            return Ok(());
        }
        while self.free_blocks.len() < needed {
            self.allocate(memory)?;
        }
        let mut blocks = std::mem::take(&mut self.slots[seq.slot as usize].blocks);
        for id in blocks.iter_mut().take(want).skip(first_written) {
            if self.users[*id as usize] > 1 {
                let copy = self.take_block();
                memory.copy(*id, copy);
                self.users[*id as usize] -= 1;
                *id = copy;
            }
        }
        while blocks.len() < want {
            blocks.push(self.take_block());
        }
        self.slots[seq.slot as usize].blocks = blocks;
        Ok(())
    }

    /// Blocks that [`BlockTable::reserve`] would add.
    ///
    /// # Errors
    /// As [`BlockTable::reserve`].
    pub fn missing_blocks(&self, seq: SeqId, n: usize) -> Result<usize, Error> {
        Ok(self.needed(seq, n)?.blocks.saturating_sub(self.free_blocks.len()))
    }

    /// What it takes to write `n` positions after the committed ones.
    fn needed(&self, seq: SeqId, n: usize) -> Result<Needed, Error> {
        let state = self.slot(seq)?;
        let (len, have) = (state.len, state.blocks.len());
        let out_of_blocks = |free: usize| {
            Error::new(
                ErrorKind::Capacity,
                format!("{n} more positions do not fit: {free} blocks of {KV_BLOCK} are free"),
            )
        };
        let free = self.max_blocks.saturating_sub(self.blocks_used());
        let want = len.checked_add(n).ok_or_else(|| out_of_blocks(free))?.div_ceil(KV_BLOCK);
        let first_written = len / KV_BLOCK;
        let shared = |id: &u32| self.users[*id as usize] > 1;
        let written = state.blocks.get(first_written..want.min(have)).unwrap_or(&[]);
        let copies = if n == 0 { 0 } else { written.iter().filter(|id| shared(id)).count() };
        let blocks = copies + want.saturating_sub(have);
        if blocks > free {
            return Err(out_of_blocks(free));
        }
        Ok(Needed { first_written, want, blocks })
    }

    /// Makes the next `n` positions, which have been written, part of the sequence.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence, `Range` when they were not reserved.
    pub fn commit(&mut self, seq: SeqId, n: usize) -> Result<(), Error> {
        let state = self.slot(seq)?;
        let len = state.len.saturating_add(n);
        let room = state.blocks.len() * KV_BLOCK;
        if len > room {
            return Err(Error::range(format!("position {len} was not reserved; {room} are")));
        }
        self.slots[seq.slot as usize].len = len;
        Ok(())
    }

    /// The block ids of a sequence, in the order of positions; may reach past its length.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence.
    pub fn table(&self, seq: SeqId) -> Result<&[u32], Error> {
        Ok(&self.slot(seq)?.blocks)
    }

    /// Checks that positions `start..start + n` are reserved and shared with no other sequence.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence, `Range` when they are not.
    pub fn check_writable(&self, seq: SeqId, start: usize, n: usize) -> Result<(), Error> {
        let blocks = &self.slot(seq)?.blocks;
        let end = start.saturating_add(n);
        let written = blocks.get(start / KV_BLOCK..end.div_ceil(KV_BLOCK));
        if n > 0 && !written.is_some_and(|ids| ids.iter().all(|id| self.users[*id as usize] == 1)) {
            return Err(Error::range(format!("positions {start}..{end} were not reserved")));
        }
        Ok(())
    }

    fn slot(&self, seq: SeqId) -> Result<&Slot, Error> {
        self.slots
            .get(seq.slot as usize)
            .filter(|slot| slot.live && slot.generation == seq.generation)
            .ok_or_else(|| Error::new(ErrorKind::Sequence, "there is no such sequence"))
    }

    /// Drops a slot's blocks from the `keep`-th on.
    fn drop_blocks(&mut self, slot: u32, keep: usize) {
        let blocks = &mut self.slots[slot as usize].blocks;
        while blocks.len() > keep {
            let Some(id) = blocks.pop() else { return };
            let users = &mut self.users[id as usize];
            *users -= 1;
            if *users == 0 {
                self.free_blocks.push(id);
            }
        }
    }

    /// Adds one block to the free ones.
    fn allocate(&mut self, memory: &mut impl BlockMemory) -> Result<(), Error> {
        let no_memory = |_| Error::new(ErrorKind::Memory, "no memory for another KV block");
        let id = u32::try_from(self.users.len()).map_err(no_memory)?;
        memory.add()?;
        self.users.push(0);
        self.free_blocks.push(id);
        Ok(())
    }

    /// One of the free blocks, which there is, with one user.
    fn take_block(&mut self) -> u32 {
        let id = self.free_blocks.pop().unwrap_or_default();
        self.users[id as usize] = 1;
        id
    }
}
