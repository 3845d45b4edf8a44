//! The KV cache: the append state of all attention layers of a plan, for any number of sequences.
//!
//! Positions live in blocks of 32 that sequences share until one of them writes (copy-on-write).
//! Blocks are allocated when first needed and reused when freed. Writes are provisional until
//! [`KvCache::commit`].

mod block;
mod snapshot;
mod table;

pub(crate) use block::{Block, Head, HeadLayout};
pub use table::{BlockMemory, BlockTable, SeqId};

use crate::error::{Error, ErrorKind, check_len};
use crate::isa::Portable;

/// Positions in a block. Attention reads in steps of it from position 0.
pub const KV_BLOCK: usize = 32;

/// The type in which keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// As computed.
    F32,
    /// Rounded to IEEE 754 binary16.
    F16,
    /// 8-bit integers with one f32 scale per position and head.
    Q8,
}

impl KvType {
    /// Bytes of one element.
    pub(crate) fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8 => 1,
        }
    }
}

/// One attention layer's share of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayer {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

/// What a cache holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvConfig {
    /// The layers, by the index that attention steps name.
    pub layers: Vec<KvLayer>,
    /// Stored type.
    pub dtype: KvType,
    /// Blocks of [`KV_BLOCK`] positions that may be in use at once.
    pub max_blocks: usize,
}

/// See the module's description.
#[derive(Debug)]
pub struct KvCache {
    config: KvConfig,
    layouts: Vec<HeadLayout>,
    memory: Memory,
    table: BlockTable,
}

/// The blocks of a cache.
#[derive(Debug)]
struct Memory {
    block_bytes: usize,
    blocks: Vec<Block>,
}

impl BlockMemory for Memory {
    fn add(&mut self) -> Result<(), Error> {
        let no_memory = || Error::new(ErrorKind::Memory, "no memory for another KV block");
        self.blocks.push(Block::new(self.block_bytes).ok_or_else(no_memory)?);
        Ok(())
    }

    fn copy(&mut self, source: u32, target: u32) {
        if let Ok([source, target]) =
            self.blocks.get_disjoint_mut([source as usize, target as usize])
        {
            target.bytes_mut().copy_from_slice(source.bytes());
        }
    }
}

impl KvCache {
    /// An empty cache; allocates no blocks yet.
    ///
    /// # Errors
    /// `Shape` when a layer has no heads or elements or a block's size overflows.
    pub fn new(config: KvConfig) -> Result<KvCache, Error> {
        let mut layouts = Vec::with_capacity(config.layers.len());
        let mut offset = 0;
        for (i, layer) in config.layers.iter().enumerate() {
            let layout = (layer.kv_heads > 0 && layer.head_dim > 0)
                .then(|| HeadLayout::new(config.dtype, *layer, offset))
                .flatten()
                .filter(|layout| isize::try_from(layout.end()).is_ok())
                .ok_or_else(|| {
                    Error::shape(format!(
                        "layer {i} of a KV cache has {} heads of {} elements",
                        layer.kv_heads, layer.head_dim
                    ))
                })?;
            offset = layout.end();
            layouts.push(layout);
        }
        Ok(KvCache {
            table: BlockTable::new(config.max_blocks),
            config,
            layouts,
            memory: Memory { block_bytes: offset, blocks: Vec::new() },
        })
    }

    /// What the cache holds.
    pub fn config(&self) -> &KvConfig {
        &self.config
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        self.memory.block_bytes
    }

    /// Blocks that sequences use now; a shared block counts once.
    pub fn blocks_used(&self) -> usize {
        self.table.blocks_used()
    }

    /// Bytes of the blocks that sequences use now.
    pub fn bytes_used(&self) -> usize {
        self.blocks_used() * self.memory.block_bytes
    }

    /// Bytes of all blocks taken from the system, freed ones included.
    pub fn bytes_allocated(&self) -> usize {
        self.memory.blocks.len() * self.memory.block_bytes
    }

    /// A new, empty sequence.
    pub fn create(&mut self) -> SeqId {
        self.table.create()
    }

    /// A new sequence with the committed positions of `seq`, sharing its blocks.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence.
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error> {
        self.table.fork(seq)
    }

    /// Forgets a sequence; blocks that no other sequence uses become free.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence.
    pub fn free(&mut self, seq: SeqId) -> Result<(), Error> {
        self.table.free(seq)
    }

    /// Committed positions.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence.
    #[allow(clippy::len_without_is_empty, reason = "the length of a sequence, not of the cache")]
    pub fn len(&self, seq: SeqId) -> Result<usize, Error> {
        self.table.len(seq)
    }

    /// Keeps the first `len` positions and gives up every reservation.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence, `Range` when it is shorter than `len`.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<(), Error> {
        self.table.truncate(seq, len)
    }

    /// Makes room to write `n` positions after the committed ones: allocates blocks and copies a
    /// shared last block. On an error nothing has changed.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence, `Capacity` when blocks run out, `Memory` when the
    /// system's does.
    pub fn reserve(&mut self, seq: SeqId, n: usize) -> Result<(), Error> {
        self.table.reserve(&mut self.memory, seq, n)
    }

    /// Bytes that [`KvCache::reserve`] would take from the system.
    ///
    /// # Errors
    /// As [`KvCache::reserve`].
    pub fn reserve_bytes(&self, seq: SeqId, n: usize) -> Result<usize, Error> {
        Ok(self.table.missing_blocks(seq, n)?.saturating_mul(self.block_bytes()))
    }

    /// Makes the next `n` positions, which have been written, part of the sequence.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence, `Range` when they were not reserved.
    pub fn commit(&mut self, seq: SeqId, n: usize) -> Result<(), Error> {
        self.table.commit(seq, n)
    }

    /// Writes one head's key and value at a reserved position, rounded to the cache's type.
    ///
    /// # Errors
    /// `Sequence`, `Range` or `Shape` when the place or the slices' lengths are wrong.
    pub fn write(
        &mut self,
        seq: SeqId,
        layer: usize,
        head: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) -> Result<(), Error> {
        self.check_writable(seq, position, 1)?;
        let (layout, block) = self.place(seq, layer, head, position, key.len(), value.len())?;
        // SAFETY: `place` checked head and position; the cache is borrowed exclusively.
        unsafe {
            let head = layout.head(block, head);
            head.store_key(Portable::TOKEN, position % KV_BLOCK, key);
            head.store_value(Portable::TOKEN, position % KV_BLOCK, value);
        }
        Ok(())
    }

    /// Reads one head's key and value as stored, at a reserved position.
    ///
    /// # Errors
    /// `Sequence`, `Range` or `Shape` when the place or the slices' lengths are wrong.
    pub fn read(
        &self,
        seq: SeqId,
        layer: usize,
        head: usize,
        position: usize,
        key: &mut [f32],
        value: &mut [f32],
    ) -> Result<(), Error> {
        let (layout, block) = self.place(seq, layer, head, position, key.len(), value.len())?;
        // SAFETY: `place` checked head and position; writers need an exclusive borrow.
        unsafe { layout.head(block, head).read(position % KV_BLOCK, key, value) };
        Ok(())
    }

    fn place(
        &self,
        seq: SeqId,
        layer: usize,
        head: usize,
        position: usize,
        key_len: usize,
        value_len: usize,
    ) -> Result<(HeadLayout, *mut u8), Error> {
        let layout = self.layout(layer)?;
        check_len("a key", key_len, layout.head_dim)?;
        check_len("a value", value_len, layout.head_dim)?;
        let id = self.table.table(seq)?.get(position / KV_BLOCK);
        match id {
            Some(id) if head < layout.kv_heads => Ok((layout, self.block(*id))),
            _ => Err(Error::range(format!("head {head} has no position {position}"))),
        }
    }

    /// The layout of layer `layer`.
    pub(crate) fn layout(&self, layer: usize) -> Result<HeadLayout, Error> {
        self.layouts.get(layer).copied().ok_or_else(|| {
            Error::range(format!(
                "a KV cache of {} layers has no layer {layer}",
                self.layouts.len()
            ))
        })
    }

    /// The block ids of a sequence.
    pub(crate) fn table(&self, seq: SeqId) -> Result<&[u32], Error> {
        self.table.table(seq)
    }

    /// The memory of a block from a [`KvCache::table`].
    #[inline(always)]
    pub(crate) fn block(&self, id: u32) -> *mut u8 {
        self.memory.blocks[id as usize].as_ptr()
    }

    /// Checks that positions `start..start + n` are reserved and shared with no other sequence.
    pub(crate) fn check_writable(&self, seq: SeqId, start: usize, n: usize) -> Result<(), Error> {
        self.table.check_writable(seq, start, n)
    }
}
