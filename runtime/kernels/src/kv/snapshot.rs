//! Sequences to bytes and back. A snapshot is: magic, version, stored type, layer count, each
//! layer's heads and elements, position count (all little-endian u32 but the last, u64), then the
//! sequence's blocks as they lie in memory, positions past the end zeroed.

use super::{KV_BLOCK, KvCache, KvType, SeqId};
use crate::error::{Error, ErrorKind};

const MAGIC: [u8; 4] = *b"LBKV";
const VERSION: u32 = 1;

impl KvCache {
    /// The part of a snapshot that must equal this cache's own.
    fn snapshot_header(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let kind = match self.config.dtype {
            KvType::F32 => 0,
            KvType::F16 => 1,
            KvType::Q8 => 2,
        };
        let mut push = |v: usize| out.extend_from_slice(&(v as u32).to_le_bytes());
        push(VERSION as usize);
        push(kind);
        push(self.config.layers.len());
        for layer in &self.config.layers {
            push(layer.kv_heads);
            push(layer.head_dim);
        }
        out
    }

    /// Appends the committed positions of `seq` to `out`.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence, `Memory` when there is none.
    pub fn save(&self, seq: SeqId, out: &mut Vec<u8>) -> Result<(), Error> {
        let (len, table) = (self.len(seq)?, self.table(seq)?);
        let blocks = len.div_ceil(KV_BLOCK);
        let header = self.snapshot_header();
        let bytes = header.len() + size_of::<u64>() + blocks * self.block_bytes();
        out.try_reserve_exact(bytes)
            .map_err(|_| Error::new(ErrorKind::Memory, "no memory for a snapshot"))?;
        out.extend_from_slice(&header);
        out.extend_from_slice(&(len as u64).to_le_bytes());
        for (b, id) in table.iter().take(blocks).enumerate() {
            let valid = len - b * KV_BLOCK;
            let block = &self.memory.blocks[*id as usize];
            if valid >= KV_BLOCK {
                out.extend_from_slice(&block.bytes()[..self.block_bytes()]);
                continue;
            }
            let mut copy = super::Block::new(self.block_bytes())
                .ok_or_else(|| Error::new(ErrorKind::Memory, "no memory for a snapshot"))?;
            copy.bytes_mut().copy_from_slice(block.bytes());
            for layout in &self.layouts {
                for head in 0..layout.kv_heads {
                    // SAFETY: the copy is a block of this cache and this thread's alone.
                    unsafe { layout.head(copy.as_ptr(), head).clear_from(valid) };
                }
            }
            out.extend_from_slice(&copy.bytes()[..self.block_bytes()]);
        }
        Ok(())
    }

    /// A new sequence from a snapshot of a cache with the same layers and type. Any bytes are
    /// safe to load.
    ///
    /// # Errors
    /// `Snapshot` when the bytes are damaged or belong to another kind of cache, `Capacity` or
    /// `Memory` when there is no room.
    pub fn load(&mut self, bytes: &[u8]) -> Result<SeqId, Error> {
        let bad = |why: &str| Error::new(ErrorKind::Snapshot, format!("KV snapshot: {why}"));
        let rest = bytes
            .strip_prefix(self.snapshot_header().as_slice())
            .ok_or_else(|| bad("made by another version or for other layers"))?;
        let (len, data) = rest.split_first_chunk().ok_or_else(|| bad("it ends early"))?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| bad("too long"))?;
        let want = len.div_ceil(KV_BLOCK).checked_mul(self.block_bytes());
        if want != Some(data.len()) {
            return Err(bad("its length is not that of its positions"));
        }
        // With no layers a block has no bytes, and the length would be anything.
        if self.block_bytes() == 0 && len > 0 {
            return Err(bad("positions without layers"));
        }
        let seq = self.create();
        if let Err(error) = self.reserve(seq, len).and_then(|()| self.commit(seq, len)) {
            self.free(seq)?;
            return Err(error);
        }
        let table = self.table(seq)?.to_vec();
        for (id, data) in table.iter().zip(data.chunks_exact(self.block_bytes().max(1))) {
            self.memory.blocks[*id as usize].bytes_mut()[..data.len()].copy_from_slice(data);
        }
        Ok(seq)
    }
}
