//! The memory of one KV block: 32 positions of every layer, and where things lie in it.
//!
//! For each layer and KV head: keys transposed `[head_dim][32]`, values `[32][head_dim rounded up
//! to 16]`, and for 8-bit caches one f32 scale per position for keys, then for values. Each part
//! starts at a multiple of 64 bytes.

use super::{KV_BLOCK, KvLayer, KvType};
use crate::simd::{LANES, LINE, Simd, WIDE};
use half::f16;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Zeroed memory, aligned to a cache line, that several threads may write in disjoint places.
#[derive(Debug)]
pub(crate) struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the block owns its memory; access goes through raw pointers whose users keep to
// disjoint places while they write.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// `bytes` zero bytes (at least one line), or `None` when there is no memory.
    pub(crate) fn new(bytes: usize) -> Option<Block> {
        let layout = Layout::from_size_align(bytes.max(LINE), LINE).ok()?;
        // SAFETY: the size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Block { start, layout })
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.layout.size()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes; writers run only while the cache is borrowed mutably.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`.
        unsafe { dealloc(self.as_ptr(), self.layout) }
    }
}

/// Where one layer's heads lie in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadLayout {
    pub kind: KvType,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// First byte of head 0.
    pub offset: usize,
    /// From one head to the next.
    pub stride: usize,
    /// From a head's first byte to its values, key scales and value scales.
    values: usize,
    scales: usize,
}

impl HeadLayout {
    /// The layout of a layer that starts at byte `offset`; `None` when it overflows.
    pub(crate) fn new(kind: KvType, layer: KvLayer, offset: usize) -> Option<Self> {
        let element = kind.bytes();
        let part = |elements: usize| {
            elements.checked_mul(KV_BLOCK * element)?.checked_next_multiple_of(LINE)
        };
        let values = part(layer.head_dim)?;
        let scales = values.checked_add(part(layer.head_dim.checked_next_multiple_of(WIDE)?)?)?;
        let scale_bytes = if kind == KvType::Q8 { 2 * KV_BLOCK * 4 } else { 0 };
        let stride = scales.checked_add(scale_bytes)?;
        stride.checked_mul(layer.kv_heads)?.checked_add(offset)?;
        Some(Self {
            kind,
            kv_heads: layer.kv_heads,
            head_dim: layer.head_dim,
            offset,
            stride,
            values,
            scales,
        })
    }

    /// The first byte after the layer.
    pub(crate) fn end(&self) -> usize {
        self.offset + self.stride * self.kv_heads
    }

    /// From one position's values to the next, in elements.
    pub(crate) fn value_stride(&self) -> usize {
        self.head_dim.next_multiple_of(WIDE)
    }

    /// One head of a block.
    ///
    /// # Safety
    /// `block` points at a block that this layout fits, and `head < kv_heads`.
    #[inline(always)]
    pub(crate) unsafe fn head(&self, block: *mut u8, head: usize) -> Head<'_> {
        // SAFETY: all offsets lie within the block.
        unsafe {
            let keys = block.add(self.offset + head * self.stride);
            Head {
                layout: self,
                keys,
                values: keys.add(self.values),
                key_scales: keys.add(self.scales).cast(),
                value_scales: keys.add(self.scales + KV_BLOCK * 4).cast(),
            }
        }
    }
}

/// One KV head of a block. The scales are there for 8-bit caches only.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    layout: &'a HeadLayout,
    pub keys: *mut u8,
    pub values: *mut u8,
    pub key_scales: *mut f32,
    pub value_scales: *mut f32,
}

/// The scale of an 8-bit head vector and its inverse: largest magnitude / 127.
fn scale_of(x: &[f32]) -> (f32, f32) {
    let bits = x.iter().fold(0, |m, v| u32::max(m, v.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(bits);
    let inverse = 127.0 / largest;
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if !inverse.is_finite() {
        (0.0, 0.0)
    } else {
        (largest / 127.0, inverse)
    }
}

impl Head<'_> {
    /// Stores the keys (`[head_dim]` each) of eight positions from `position` on, as
    /// [`Head::store_key`] would one by one; false where keys have scales, and nothing is stored.
    ///
    /// # Safety
    /// `position + 8 <= 32`, and no other thread touches this head's keys there meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn store_keys<S: Simd>(
        self,
        s: S,
        position: usize,
        keys: [&[f32]; LANES],
    ) -> bool {
        if self.layout.kind == KvType::Q8 {
            return false;
        }
        let dim = self.layout.head_dim;
        for at in (0..dim).step_by(LANES) {
            let mut rows = [s.splat(0.0); LANES];
            for (row, key) in rows.iter_mut().zip(keys) {
                *row = s.load_some(key, at);
            }
            for (d, column) in (at..dim).zip(s.transpose(rows)) {
                let place = d * KV_BLOCK + position;
                // SAFETY: eight positions of element `d` lie together; the rest is the caller's contract.
                unsafe {
                    if self.layout.kind == KvType::F32 {
                        s.store(self.keys.cast::<f32>().add(place), column);
                    } else {
                        s.store_f16(self.keys.cast::<u16>().add(place), column);
                    }
                }
            }
        }
        true
    }

    /// Stores `key` (`[head_dim]`) at `position` of the block, rounded to the cache's type.
    ///
    /// # Safety
    /// `position < 32`, and no other thread touches this head and position meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn store_key<S: Simd>(self, s: S, position: usize, key: &[f32]) {
        let lanes = |n: usize, at: usize| LANES.min(n - at);
        // SAFETY: `head_dim` keys lie 32 apart from `position`.
        unsafe {
            match self.layout.kind {
                KvType::F32 => {
                    let keys = self.keys.cast::<f32>();
                    for (d, v) in key.iter().enumerate() {
                        *keys.add(d * KV_BLOCK + position) = *v;
                    }
                }
                KvType::F16 => {
                    let keys = self.keys.cast::<u16>();
                    for at in (0..key.len()).step_by(LANES) {
                        let mut bits = [0u16; LANES];
                        s.store_f16(bits.as_mut_ptr(), s.load_some(key, at));
                        for (d, b) in bits.iter().enumerate().take(lanes(key.len(), at)) {
                            *keys.add((at + d) * KV_BLOCK + position) = *b;
                        }
                    }
                }
                KvType::Q8 => {
                    let (scale, inverse) = scale_of(key);
                    *self.key_scales.add(position) = scale;
                    let keys = self.keys.cast::<i8>();
                    for at in (0..key.len()).step_by(LANES) {
                        let bytes = quantised(s, key, at, scale, inverse);
                        for (d, b) in bytes.iter().enumerate().take(lanes(key.len(), at)) {
                            *keys.add((at + d) * KV_BLOCK + position) = *b;
                        }
                    }
                }
            }
        }
    }

    /// Stores `value` (`[head_dim]`) at `position` of the block, rounded to the cache's type.
    ///
    /// # Safety
    /// `position < 32`, and no other thread touches this head and position meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn store_value<S: Simd>(self, s: S, position: usize, value: &[f32]) {
        let start = position * self.layout.value_stride();
        // SAFETY: `head_dim` values lie together from `start`; the row is padded to whole vectors.
        unsafe {
            match self.layout.kind {
                KvType::F32 => {
                    let values = self.values.cast::<f32>().add(start);
                    for at in (0..value.len()).step_by(LANES) {
                        s.store(values.add(at), s.load_some(value, at));
                    }
                }
                KvType::F16 => {
                    let values = self.values.cast::<u16>().add(start);
                    for at in (0..value.len()).step_by(LANES) {
                        s.store_f16(values.add(at), s.load_some(value, at));
                    }
                }
                KvType::Q8 => {
                    let (scale, inverse) = scale_of(value);
                    *self.value_scales.add(position) = scale;
                    let values = self.values.cast::<[i8; LANES]>();
                    for at in (0..value.len()).step_by(LANES) {
                        let bytes = quantised(s, value, at, scale, inverse);
                        *values.add((start + at) / LANES) = bytes;
                    }
                }
            }
        }
    }

    /// Reads what [`Head::store_key`] and [`Head::store_value`] wrote.
    ///
    /// # Safety
    /// `position < 32`, and no other thread writes this head and position meanwhile.
    pub(crate) unsafe fn read(self, position: usize, key: &mut [f32], value: &mut [f32]) {
        let value_start = position * self.layout.value_stride();
        // SAFETY: as for `store_key` and `store_value`.
        unsafe {
            let element = |base: *mut u8, at: usize, scale: f32| match self.layout.kind {
                KvType::F32 => *base.cast::<f32>().add(at),
                KvType::F16 => f16::from_bits(*base.cast::<u16>().add(at)).to_f32(),
                KvType::Q8 => f32::from(*base.cast::<i8>().add(at)) * scale,
            };
            let (mut key_scale, mut value_scale) = (1.0, 1.0);
            if self.layout.kind == KvType::Q8 {
                key_scale = *self.key_scales.add(position);
                value_scale = *self.value_scales.add(position);
            }
            for (d, v) in key.iter_mut().enumerate() {
                *v = element(self.keys, d * KV_BLOCK + position, key_scale);
            }
            for (d, v) in value.iter_mut().enumerate() {
                *v = element(self.values, value_start + d, value_scale);
            }
        }
    }

    /// Zeroes the positions from `first` on.
    ///
    /// # Safety
    /// No other thread touches the head meanwhile.
    pub(crate) unsafe fn clear_from(self, first: usize) {
        let element = self.layout.kind.bytes();
        let rest = KV_BLOCK.saturating_sub(first);
        // SAFETY: `head_dim` rows of 32 keys and 32 rows of values, as laid out above.
        unsafe {
            for d in 0..self.layout.head_dim {
                let row = self.keys.add((d * KV_BLOCK + KV_BLOCK - rest) * element);
                row.write_bytes(0, rest * element);
            }
            let row = self.layout.value_stride() * element;
            self.values.add((KV_BLOCK - rest) * row).write_bytes(0, rest * row);
            if self.layout.kind == KvType::Q8 {
                self.key_scales.add(KV_BLOCK - rest).write_bytes(0, rest);
                self.value_scales.add(KV_BLOCK - rest).write_bytes(0, rest);
            }
        }
    }
}

#[inline(always)]
fn quantised<S: Simd>(s: S, x: &[f32], at: usize, scale: f32, inverse: f32) -> [i8; LANES] {
    let mut bytes = [0; LANES];
    if scale.is_finite() {
        // SAFETY: the array holds 8 bytes; magnitudes times `inverse` are at most 127.
        unsafe { s.store_i8(bytes.as_mut_ptr(), s.mul(s.load_some(x, at), s.splat(inverse))) };
    }
    bytes
}
