//! Keys and values on the device: a buffer for each attention layer, in blocks that sequences share until one
//! of them writes.
//!
//! A block has, for each head, its 32 keys, an element or word of elements of all of them together, then its
//! 32 values, one after the other; for 8-bit caches then a scale for each key and each value. Heads are padded
//! to 4 elements.

use std::sync::Arc;

use half::f16;
use limbeck_kernels::{
    BlockMemory, BlockTable, KV_BLOCK, KvCache, KvConfig, KvLayer, KvType, SeqId,
};

use super::device::Gpu;
use crate::backend::Sequences;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Holding;

/// Where the parts of a head lie in a block, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadLayout {
    pub kv: KvType,
    pub kv_heads: usize,
    pub dim: usize,
    pub padded: usize,
    pub head_words: usize,
    pub key_words: usize,
}

impl HeadLayout {
    pub fn new(kv: KvType, kv_heads: usize, dim: usize) -> HeadLayout {
        let padded = dim.next_multiple_of(4);
        let key_words = padded * KV_BLOCK / elements(kv);
        let scales = if kv == KvType::Q8 { 2 * KV_BLOCK } else { 0 };
        HeadLayout { kv, kv_heads, dim, padded, head_words: 2 * key_words + scales, key_words }
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.kv_heads * self.head_words * 4
    }

    /// A key and a value out of a block's words.
    fn read(
        &self,
        block: &[u32],
        head: usize,
        position: usize,
        key: &mut [f32],
        value: &mut [f32],
    ) {
        let words = &block[head * self.head_words..][..self.head_words];
        let count = elements(self.kv);
        let (mut key_scale, mut value_scale) = (1.0, 1.0);
        if self.kv == KvType::Q8 {
            let scales = &words[2 * self.key_words..];
            key_scale = f32::from_bits(scales[position]);
            value_scale = f32::from_bits(scales[KV_BLOCK + position]);
        }
        for (d, (key, value)) in key.iter_mut().zip(value).enumerate() {
            let word = words[d / count * KV_BLOCK + position];
            *key = element(self.kv, word, d) * key_scale;
            let word = words[self.key_words + (position * self.padded + d) / count];
            *value = element(self.kv, word, d) * value_scale;
        }
    }

    /// Writes what [`HeadLayout::read`] gives; the block's words there are 0.
    fn write(&self, block: &mut [u32], head: usize, position: usize, key: &[f32], value: &[f32]) {
        let words = &mut block[head * self.head_words..][..self.head_words];
        let count = elements(self.kv);
        let (mut keys, mut values) = (1.0, 1.0);
        if self.kv == KvType::Q8 {
            let largest = |x: &[f32]| x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let (k, v) = (largest(key), largest(value));
            let scales = &mut words[2 * self.key_words..];
            scales[position] = (k / 127.0).to_bits();
            scales[KV_BLOCK + position] = (v / 127.0).to_bits();
            (keys, values) = (127.0 / k, 127.0 / v);
        }
        for (d, (key, value)) in key.iter().zip(value).enumerate() {
            words[d / count * KV_BLOCK + position] |= bits(self.kv, *key, keys, d);
            let at = self.key_words + (position * self.padded + d) / count;
            words[at] |= bits(self.kv, *value, values, d);
        }
    }
}

/// Elements of a word.
fn elements(kv: KvType) -> usize {
    match kv {
        KvType::F32 => 1,
        KvType::F16 => 2,
        KvType::Q8 => 4,
    }
}

/// Element `d` of its word.
fn element(kv: KvType, word: u32, d: usize) -> f32 {
    match kv {
        KvType::F32 => f32::from_bits(word),
        KvType::F16 => f16::from_bits((word >> (16 * (d % 2))) as u16).to_f32(),
        KvType::Q8 => f32::from((word >> (8 * (d % 4))) as u8 as i8),
    }
}

/// What an element adds to its word.
fn bits(kv: KvType, value: f32, inverse: f32, d: usize) -> u32 {
    match kv {
        KvType::F32 => value.to_bits(),
        KvType::F16 => u32::from(f16::from_f32(value).to_bits()) << (16 * (d % 2)),
        // A scale of 0 has an infinite inverse, and values of 0.
        KvType::Q8 => {
            let value = if value == 0.0 { 0.0 } else { value * inverse };
            u32::from(value.round_ties_even() as i8 as u8) << (8 * (d % 4))
        }
    }
}

/// The cache of one session.
pub(super) struct DeviceCache {
    gpu: Arc<Gpu>,
    config: KvConfig,
    layers: Vec<HeadLayout>,
    table: BlockTable,
    /// By layer, for so many blocks.
    buffers: Vec<wgpu::Buffer>,
    capacity: usize,
    /// Where a block lies on its way to another, since one buffer cannot be both ends of a copy. It is there as
    /// soon as blocks are, so that a copy needs no memory that may be lacking.
    between: Option<wgpu::Buffer>,
    held: Holding,
}

/// Copies that a reservation asks for; blocks are there already.
#[derive(Default)]
struct Copies(Vec<(u32, u32)>);

impl BlockMemory for Copies {
    fn add(&mut self) -> std::result::Result<(), limbeck_kernels::Error> {
        Ok(())
    }

    fn copy(&mut self, source: u32, target: u32) {
        self.0.push((source, target));
    }
}

impl DeviceCache {
    /// An empty cache; takes no memory yet.
    pub fn new(gpu: Arc<Gpu>, config: KvConfig, held: Holding) -> DeviceCache {
        let layer = |layer: &KvLayer| HeadLayout::new(config.dtype, layer.kv_heads, layer.head_dim);
        DeviceCache {
            gpu,
            layers: config.layers.iter().map(layer).collect(),
            table: BlockTable::new(config.max_blocks),
            config,
            buffers: Vec::new(),
            capacity: 0,
            between: None,
            held,
        }
    }

    /// Which blocks sequences have.
    pub fn table(&self) -> &BlockTable {
        &self.table
    }

    /// The layout and the buffer of a layer, where blocks were reserved.
    pub fn layer(&self, layer: usize) -> Option<(HeadLayout, &wgpu::Buffer)> {
        Some((*self.layers.get(layer)?, self.buffers.get(layer)?))
    }

    /// Changes when buffers are replaced.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn block_bytes(&self) -> usize {
        self.layers.iter().map(HeadLayout::block_bytes).sum()
    }

    /// Makes room for `blocks` blocks.
    fn fit(&mut self, blocks: usize) -> Result<()> {
        if blocks <= self.capacity {
            return Ok(());
        }
        let doubled = (2 * self.capacity).min(self.config.max_blocks).max(blocks);
        match self.grow(doubled) {
            Err(_) if doubled > blocks => self.grow(blocks),
            grown => grown,
        }
    }

    /// Bytes of the largest layer's block.
    fn largest(&self) -> usize {
        self.layers.iter().map(HeadLayout::block_bytes).max().unwrap_or(0)
    }

    fn grow(&mut self, blocks: usize) -> Result<()> {
        let most = self.gpu.limits.max_storage_buffer_binding_size as usize;
        let largest = self.largest();
        if largest.saturating_mul(blocks) > most {
            let message = format!(
                "{blocks} blocks of a layer are beyond the device's bindings of {most} bytes"
            );
            return Err(Error::new(ErrorKind::Capacity, message));
        }
        let before = self.held.bytes();
        self.held.set(self.block_bytes().saturating_mul(blocks).saturating_add(largest))?;
        let (made, between) = self.buffers_for(blocks).inspect_err(|_| {
            // It fits: it was so before.
            let _ = self.held.set(before);
        })?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for ((layer, old), new) in self.layers.iter().zip(&self.buffers).zip(&made) {
            let bytes = (layer.block_bytes() * self.capacity) as u64;
            encoder.copy_buffer_to_buffer(old, 0, new, 0, bytes);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.buffers = made;
        self.between = Some(between);
        self.capacity = blocks;
        Ok(())
    }

    /// The layers' buffers for so many blocks, and one between them.
    fn buffers_for(&self, blocks: usize) -> Result<(Vec<wgpu::Buffer>, wgpu::Buffer)> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_DST
            | wgpu::BufferUsages::COPY_SRC;
        let bytes = self.layers.iter().map(|layer| layer.block_bytes() * blocks);
        let made = bytes.map(|bytes| self.gpu.buffer("keys and values", bytes, usage));
        let made = made.collect::<Result<Vec<_>>>()?;
        let between = match &self.between {
            Some(between) => between.clone(),
            None => self.gpu.buffer("a block", self.largest(), usage)?,
        };
        Ok((made, between))
    }

    /// Copies blocks.
    fn copy(&self, copies: &[(u32, u32)]) -> Result<()> {
        let Some(between) = self.between.as_ref().filter(|_| !copies.is_empty()) else {
            return Ok(());
        };
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for (source, target) in copies {
            for (layer, buffer) in self.layers.iter().zip(&self.buffers) {
                let bytes = layer.block_bytes() as u64;
                let (source, target) = (u64::from(*source) * bytes, u64::from(*target) * bytes);
                encoder.copy_buffer_to_buffer(buffer, source, between, 0, bytes);
                encoder.copy_buffer_to_buffer(between, 0, buffer, target, bytes);
            }
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check()
    }

    /// The blocks of a sequence, each layer's in turn.
    fn read(&self, blocks: &[u32]) -> Result<Vec<u32>> {
        let total = self.block_bytes() * blocks.len();
        if total == 0 {
            return Ok(Vec::new());
        }
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let target = self.gpu.buffer("a snapshot", total, usage)?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let mut at = 0;
        for block in blocks {
            for (layer, buffer) in self.layers.iter().zip(&self.buffers) {
                let bytes = layer.block_bytes() as u64;
                let source = u64::from(*block) * bytes;
                encoder.copy_buffer_to_buffer(buffer, source, &target, at, bytes);
                at += bytes;
            }
        }
        let submission = self.gpu.queue.submit([encoder.finish()]);
        let mut words = Vec::new();
        self.gpu.read(&target, total, submission, |bytes| {
            words.extend(
                bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            );
        })?;
        Ok(words)
    }
}

impl Sequences for DeviceCache {
    fn create(&mut self) -> SeqId {
        self.table.create()
    }

    fn fork(&mut self, sequence: SeqId) -> Result<SeqId> {
        Ok(self.table.fork(sequence)?)
    }

    fn free(&mut self, sequence: SeqId) -> Result<()> {
        Ok(self.table.free(sequence)?)
    }

    fn len(&self, sequence: SeqId) -> Result<usize> {
        Ok(self.table.len(sequence)?)
    }

    fn truncate(&mut self, sequence: SeqId, len: usize) -> Result<()> {
        Ok(self.table.truncate(sequence, len)?)
    }

    fn reserve(&mut self, sequence: SeqId, n: usize) -> Result<()> {
        let missing = self.table.missing_blocks(sequence, n)?;
        self.fit(self.table.blocks() + missing)?;
        let mut copies = Copies::default();
        self.table.reserve(&mut copies, sequence, n)?;
        self.copy(&copies.0)
    }

    fn commit(&mut self, sequence: SeqId, n: usize) -> Result<()> {
        Ok(self.table.commit(sequence, n)?)
    }

    /// The bytes are those that the CPU backend's cache saves.
    fn save(&self, sequence: SeqId, out: &mut Vec<u8>) -> Result<()> {
        let len = self.table.len(sequence)?;
        let blocks = &self.table.table(sequence)?[..len.div_ceil(KV_BLOCK)];
        let words = self.read(blocks)?;
        let mut host = KvCache::new(KvConfig { max_blocks: blocks.len(), ..self.config.clone() })?;
        let copy = host.create();
        host.reserve(copy, len)?;
        let stride = self.block_bytes() / 4;
        let mut start = 0;
        for (layer, layout) in self.layers.iter().enumerate() {
            let (mut key, mut value) = (vec![0.0; layout.dim], vec![0.0; layout.dim]);
            for position in 0..len {
                let block = &words[position / KV_BLOCK * stride + start..];
                for head in 0..layout.kv_heads {
                    layout.read(block, head, position % KV_BLOCK, &mut key, &mut value);
                    host.write(copy, layer, head, position, &key, &value)?;
                }
            }
            start += layout.block_bytes() / 4;
        }
        host.commit(copy, len)?;
        Ok(host.save(copy, out)?)
    }

    fn load(&mut self, bytes: &[u8]) -> Result<SeqId> {
        let mut host = KvCache::new(self.config.clone())?;
        let saved = host.load(bytes)?;
        let len = host.len(saved)?;
        let sequence = self.table.create();
        if let Err(error) = self.reserve(sequence, len).and_then(|()| self.commit(sequence, len)) {
            self.table.free(sequence)?;
            return Err(error);
        }
        let blocks = self.table.table(sequence)?.to_vec();
        for (layer, (layout, buffer)) in self.layers.iter().zip(&self.buffers).enumerate() {
            let (mut key, mut value) = (vec![0.0; layout.dim], vec![0.0; layout.dim]);
            for (i, block) in blocks.iter().enumerate() {
                let mut words = vec![0u32; layout.block_bytes() / 4];
                for position in i * KV_BLOCK..len.min((i + 1) * KV_BLOCK) {
                    for head in 0..layout.kv_heads {
                        host.read(saved, layer, head, position, &mut key, &mut value)?;
                        layout.write(&mut words, head, position % KV_BLOCK, &key, &value);
                    }
                }
                let offset = u64::from(*block) * layout.block_bytes() as u64;
                self.gpu.queue.write_buffer(buffer, offset, bytemuck::cast_slice(&words));
            }
        }
        if let Err(error) = self.gpu.check() {
            self.table.free(sequence)?;
            return Err(error);
        }
        Ok(sequence)
    }

    fn bytes(&self) -> usize {
        self.table.blocks_used() * self.block_bytes()
    }
}
