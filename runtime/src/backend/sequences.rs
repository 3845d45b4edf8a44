//! Cached sequences, wherever a backend keeps them.

use limbeck_kernels::{KvCache, SeqId};

use crate::error::Result;
use crate::memory::Holding;

/// The sequences of one session.
pub(crate) trait Sequences {
    /// A new, empty sequence.
    fn create(&mut self) -> SeqId;
    /// A sequence that shares all positions of another.
    fn fork(&mut self, sequence: SeqId) -> Result<SeqId>;
    /// Ends a sequence.
    fn free(&mut self, sequence: SeqId) -> Result<()>;
    /// Committed positions.
    fn len(&self, sequence: SeqId) -> Result<usize>;
    /// Forgets positions from `len` on.
    fn truncate(&mut self, sequence: SeqId, len: usize) -> Result<()>;
    /// Makes room for `n` more positions.
    fn reserve(&mut self, sequence: SeqId, n: usize) -> Result<()>;
    /// Makes the `n` positions after the committed ones count.
    fn commit(&mut self, sequence: SeqId, n: usize) -> Result<()>;
    /// Appends the sequence's positions to `out`.
    fn save(&self, sequence: SeqId, out: &mut Vec<u8>) -> Result<()>;
    /// Reads what [`Sequences::save`] wrote.
    fn load(&mut self, bytes: &[u8]) -> Result<SeqId>;
    /// Bytes in use, shared ones once.
    fn bytes(&self) -> usize;
}

/// A cache in this machine's memory, whose blocks are charged to an account.
pub(crate) struct Cache {
    blocks: KvCache,
    held: Holding,
}

impl Cache {
    /// An empty cache, with what is to hold its bytes.
    pub fn new(blocks: KvCache, held: Holding) -> Cache {
        Cache { blocks, held }
    }

    /// The blocks, to write reserved positions.
    pub fn blocks_mut(&mut self) -> &mut KvCache {
        &mut self.blocks
    }

    /// Charges `more` bytes, lets `grow` take them, and settles what it did take.
    fn grow<T>(&mut self, more: usize, grow: impl FnOnce(&mut KvCache) -> Result<T>) -> Result<T> {
        self.held.set(self.held.bytes().saturating_add(more))?;
        let grown = grow(&mut self.blocks);
        self.held.set(self.blocks.bytes_allocated())?;
        grown
    }
}

impl Sequences for Cache {
    fn create(&mut self) -> SeqId {
        self.blocks.create()
    }

    fn fork(&mut self, sequence: SeqId) -> Result<SeqId> {
        Ok(self.blocks.fork(sequence)?)
    }

    fn free(&mut self, sequence: SeqId) -> Result<()> {
        Ok(self.blocks.free(sequence)?)
    }

    fn len(&self, sequence: SeqId) -> Result<usize> {
        Ok(self.blocks.len(sequence)?)
    }

    fn truncate(&mut self, sequence: SeqId, len: usize) -> Result<()> {
        Ok(self.blocks.truncate(sequence, len)?)
    }

    fn reserve(&mut self, sequence: SeqId, n: usize) -> Result<()> {
        match self.blocks.reserve_bytes(sequence, n)? {
            0 => Ok(self.blocks.reserve(sequence, n)?),
            more => self.grow(more, |blocks| Ok(blocks.reserve(sequence, n)?)),
        }
    }

    fn commit(&mut self, sequence: SeqId, n: usize) -> Result<()> {
        Ok(self.blocks.commit(sequence, n)?)
    }

    fn save(&self, sequence: SeqId, out: &mut Vec<u8>) -> Result<()> {
        Ok(self.blocks.save(sequence, out)?)
    }

    fn load(&mut self, bytes: &[u8]) -> Result<SeqId> {
        // A snapshot is as long as the blocks that it fills, and some bytes more.
        let block = self.blocks.block_bytes().max(1);
        let free = self.blocks.bytes_allocated() - self.blocks.bytes_used();
        let more = (bytes.len() / block * block).saturating_sub(free);
        self.grow(more, |blocks| Ok(blocks.load(bytes)?))
    }

    fn bytes(&self) -> usize {
        self.blocks.bytes_used()
    }
}
