//! Cached sequences, wherever a backend keeps them.

use limbeck_kernels::{KvCache, SeqId};

use crate::error::Result;

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

impl Sequences for KvCache {
    fn create(&mut self) -> SeqId {
        KvCache::create(self)
    }

    fn fork(&mut self, sequence: SeqId) -> Result<SeqId> {
        Ok(KvCache::fork(self, sequence)?)
    }

    fn free(&mut self, sequence: SeqId) -> Result<()> {
        Ok(KvCache::free(self, sequence)?)
    }

    fn len(&self, sequence: SeqId) -> Result<usize> {
        Ok(KvCache::len(self, sequence)?)
    }

    fn truncate(&mut self, sequence: SeqId, len: usize) -> Result<()> {
        Ok(KvCache::truncate(self, sequence, len)?)
    }

    fn reserve(&mut self, sequence: SeqId, n: usize) -> Result<()> {
        Ok(KvCache::reserve(self, sequence, n)?)
    }

    fn commit(&mut self, sequence: SeqId, n: usize) -> Result<()> {
        Ok(KvCache::commit(self, sequence, n)?)
    }

    fn save(&self, sequence: SeqId, out: &mut Vec<u8>) -> Result<()> {
        Ok(KvCache::save(self, sequence, out)?)
    }

    fn load(&mut self, bytes: &[u8]) -> Result<SeqId> {
        Ok(KvCache::load(self, bytes)?)
    }

    fn bytes(&self) -> usize {
        self.bytes_used()
    }
}
