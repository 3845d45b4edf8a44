//! Blocks to f32, one function per tensor type.
//!
//! The arithmetic (order of operations included) is that of `gguf/quants.py` of the Python
//! package `gguf`, so results are the same bit for bit.

use half::{bf16, f16};

use super::blocks::BlockType;

/// Appends the values of whole blocks to `out`. Bytes of an incomplete last block are ignored.
pub(in crate::import) fn dequantise(kind: BlockType, bytes: &[u8], out: &mut Vec<f32>) {
    match kind {
        BlockType::F32 => each(bytes, out, |b: &[u8; 4], v: &mut [f32; 1]| {
            *v = [f32::from_le_bytes(*b)];
        }),
        BlockType::F16 => each(bytes, out, |b: &[u8; 2], v: &mut [f32; 1]| {
            *v = [f16::from_le_bytes(*b).to_f32()];
        }),
        BlockType::BF16 => each(bytes, out, |b: &[u8; 2], v: &mut [f32; 1]| {
            *v = [bf16::from_le_bytes(*b).to_f32()];
        }),
        BlockType::Q4_0 => each(bytes, out, q4_0),
        BlockType::Q4_1 => each(bytes, out, q4_1),
        BlockType::Q5_0 => each(bytes, out, q5_0),
        BlockType::Q5_1 => each(bytes, out, q5_1),
        BlockType::Q8_0 => each(bytes, out, q8_0),
        BlockType::Q2_K => each(bytes, out, q2_k),
        BlockType::Q3_K => each(bytes, out, q3_k),
        BlockType::Q4_K => each(bytes, out, q4_k),
        BlockType::Q5_K => each(bytes, out, q5_k),
        BlockType::Q6_K => each(bytes, out, q6_k),
    }
}

/// Runs `decode` on each block of `N` bytes, which gives `V` values.
fn each<const N: usize, const V: usize>(
    bytes: &[u8],
    out: &mut Vec<f32>,
    decode: impl Fn(&[u8; N], &mut [f32; V]),
) {
    let (blocks, _) = bytes.as_chunks::<N>();
    out.reserve(blocks.len() * V);
    let mut values = [0.0; V];
    for block in blocks {
        decode(block, &mut values);
        out.extend_from_slice(&values);
    }
}

/// The f16 at byte `at`, widened.
fn half<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Value `i` of 32 nibbles in 16 bytes from `at`: low nibbles first, then high nibbles.
fn nibble<const N: usize>(block: &[u8; N], at: usize, i: usize) -> u8 {
    (block[at + i % 16] >> (4 * (i / 16))) & 0xF
}

/// Bit `i` of the little-endian u32 at byte `at`.
fn bit<const N: usize>(block: &[u8; N], at: usize, i: usize) -> u8 {
    (block[at + i / 8] >> (i % 8)) & 1
}

fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, value) in values.iter_mut().enumerate() {
        *value = d * (f32::from(nibble(block, 2, i)) - 8.0);
    }
}

fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (i, value) in values.iter_mut().enumerate() {
        *value = d * f32::from(nibble(block, 4, i)) + m;
    }
}

fn q5_0(block: &[u8; 22], values: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, value) in values.iter_mut().enumerate() {
        let q = nibble(block, 6, i) | (bit(block, 2, i) << 4);
        *value = d * (f32::from(q) - 16.0);
    }
}

fn q5_1(block: &[u8; 24], values: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (i, value) in values.iter_mut().enumerate() {
        let q = nibble(block, 8, i) | (bit(block, 4, i) << 4);
        *value = d * f32::from(q) + m;
    }
}

fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, value) in values.iter_mut().enumerate() {
        *value = f32::from(block[2 + i].cast_signed()) * d;
    }
}

/// Value `i` of 256 two-bit values in 64 bytes from `at`: each half of 128 values lies in 32
/// bytes, four planes of two bits.
fn two_bits<const N: usize>(block: &[u8; N], at: usize, i: usize) -> u8 {
    (block[at + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3
}

/// Value `i` of 256 nibbles in 128 bytes from `at`: each 64 values lie in 32 bytes, low nibbles
/// first, then high nibbles.
fn nibble_k<const N: usize>(block: &[u8; N], at: usize, i: usize) -> u8 {
    (block[at + 32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2))) & 0xF
}

fn q2_k(block: &[u8; 84], values: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 80), half(block, 82));
    for (i, value) in values.iter_mut().enumerate() {
        let scales = block[i / 16];
        let scale = d * f32::from(scales & 0xF);
        let min = dmin * f32::from(scales >> 4);
        *value = scale * f32::from(two_bits(block, 16, i)) - min;
    }
}

fn q3_k(block: &[u8; 110], values: &mut [f32; 256]) {
    let d = half(block, 108);
    for (i, value) in values.iter_mut().enumerate() {
        let group = i / 16;
        let low = (block[96 + group % 8] >> (4 * (group / 8))) & 0xF;
        let high = (block[104 + group % 4] >> (2 * (group / 4))) & 3;
        let scale = d * (f32::from(low | (high << 4)) - 32.0);
        // A set mask bit means no offset.
        let offset = if (block[i % 32] >> (i / 32)) & 1 == 1 { 0.0 } else { 4.0 };
        *value = scale * (f32::from(two_bits(block, 32, i)) - offset);
    }
}

/// The 6-bit scale and minimum of group `j` (0..8), packed in 12 bytes from byte 4.
fn scale_min<const N: usize>(block: &[u8; N], j: usize) -> (f32, f32) {
    let packed = |i: usize| block[4 + i];
    let (scale, min) = if j < 4 {
        (packed(j) & 0x3F, packed(4 + j) & 0x3F)
    } else {
        let both = packed(4 + j);
        ((both & 0xF) | ((packed(j - 4) >> 2) & 0x30), (both >> 4) | ((packed(j) >> 2) & 0x30))
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for (i, value) in values.iter_mut().enumerate() {
        let (scale, min) = scale_min(block, i / 32);
        *value = d * scale * f32::from(nibble_k(block, 16, i)) - dmin * min;
    }
}

fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for (i, value) in values.iter_mut().enumerate() {
        let (scale, min) = scale_min(block, i / 32);
        let high = (block[16 + i % 32] >> (i / 32)) & 1;
        let q = nibble_k(block, 48, i) | (high << 4);
        *value = d * scale * f32::from(q) - dmin * min;
    }
}

fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let d = half(block, 208);
    for (i, value) in values.iter_mut().enumerate() {
        let low = (block[64 * (i / 128) + i % 64] >> (4 * (i / 64 % 2))) & 0xF;
        let q = low | (two_bits(block, 128, i) << 4);
        let scale = d * f32::from(block[192 + i / 16].cast_signed());
        *value = scale * (f32::from(q) - 32.0);
    }
}
