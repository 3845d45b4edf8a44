//! The KV cache: the append state of all attention layers of a plan, for any number of sequences.
//!
//! Positions live in blocks of 32 that sequences share until one of them writes (copy-on-write).
//! Blocks are allocated when first needed and reused when freed. Writes are provisional until
//! [`KvCache::commit`].

mod block;
mod snapshot;

pub(crate) use block::{Block, Head, HeadLayout};

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

/// See the module's description.
#[derive(Debug)]
pub struct KvCache {
    config: KvConfig,
    layouts: Vec<HeadLayout>,
    block_bytes: usize,
    blocks: Vec<Block>,
    /// Users of each block; 0 when it is in `free_blocks`.
    users: Vec<u32>,
    free_blocks: Vec<u32>,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
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
            config,
            layouts,
            block_bytes: offset,
            blocks: Vec::new(),
            users: Vec::new(),
            free_blocks: Vec::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
        })
    }

    /// What the cache holds.
    pub fn config(&self) -> &KvConfig {
        &self.config
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Blocks that sequences use now; a shared block counts once.
    pub fn blocks_used(&self) -> usize {
        self.blocks.len() - self.free_blocks.len()
    }

    /// Bytes of the blocks that sequences use now.
    pub fn bytes_used(&self) -> usize {
        self.blocks_used() * self.block_bytes
    }

    /// Bytes of all blocks taken from the system, freed ones included.
    pub fn bytes_allocated(&self) -> usize {
        self.blocks.len() * self.block_bytes
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

    /// Makes room to write `n` positions after the committed ones: allocates blocks and copies a
    /// shared last block. On an error nothing has changed.
    ///
    /// # Errors
    /// `Sequence` when there is no such sequence, `Capacity` when blocks run out, `Memory` when the
    /// system's does.
    pub fn reserve(&mut self, seq: SeqId, n: usize) -> Result<(), Error> {
        let Needed { first_written, want, blocks: needed } = self.needed(seq, n)?;
        if needed == 0 {
            return Ok(());
        }
        while self.free_blocks.len() < needed {
            self.allocate()?;
        }
        let mut blocks = std::mem::take(&mut self.slots[seq.slot as usize].blocks);
        for id in blocks.iter_mut().take(want).skip(first_written) {
            if self.users[*id as usize] > 1 {
                let copy = self.take_block();
                let (source, target) = (*id as usize, copy as usize);
                if let Ok([source, target]) = self.blocks.get_disjoint_mut([source, target]) {
                    target.bytes_mut().copy_from_slice(source.bytes());
                }
                self.users[source] -= 1;
                *id = copy;
            }
        }
        while blocks.len() < want {
            blocks.push(self.take_block());
        }
        self.slots[seq.slot as usize].blocks = blocks;
        Ok(())
    }

    /// Bytes that [`KvCache::reserve`] would take from the system.
    ///
    /// # Errors
    /// As [`KvCache::reserve`].
    pub fn reserve_bytes(&self, seq: SeqId, n: usize) -> Result<usize, Error> {
        let needed = self.needed(seq, n)?.blocks;
        Ok(needed.saturating_sub(self.free_blocks.len()).saturating_mul(self.block_bytes))
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
        let free = self.config.max_blocks.saturating_sub(self.blocks_used());
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
            head.store(Portable::TOKEN, position % KV_BLOCK, key, value);
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
        let id = self.slot(seq)?.blocks.get(position / KV_BLOCK);
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
        Ok(&self.slot(seq)?.blocks)
    }

    /// The memory of a block from a [`KvCache::table`].
    #[inline(always)]
    pub(crate) fn block(&self, id: u32) -> *mut u8 {
        self.blocks[id as usize].as_ptr()
    }

    /// Checks that positions `start..start + n` are reserved and shared with no other sequence.
    pub(crate) fn check_writable(&self, seq: SeqId, start: usize, n: usize) -> Result<(), Error> {
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
    fn allocate(&mut self) -> Result<(), Error> {
        let no_memory = || Error::new(ErrorKind::Memory, "no memory for another KV block");
        let id = u32::try_from(self.blocks.len()).map_err(|_| no_memory())?;
        let block = Block::new(self.block_bytes).ok_or_else(no_memory)?;
        self.blocks.push(block);
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
