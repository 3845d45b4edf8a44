//! Groups of a weight by channel as quads or panels, for calls of many rows.

use crate::channels::{ChannelTile, GROUP, channel_bytes};
use limbeck_plan::{CHANNEL_RUN, PANEL_ROWS, QUAD_ROWS, QUANT_BLOCK, Values};
use std::ops::Range;

/// Bytes of a group's lane of one channel.
const LANE: usize = 16;

/// One group of a weight.
pub(crate) struct RetileTask<'a> {
    pub w: &'a [u8],
    pub values: Values,
    pub tile: &'a ChannelTile,
    pub group: usize,
    /// Of f16: the columns that are wanted.
    pub columns: Range<usize>,
    /// The group's rows in quads: whole tiles of 8 rows, each with the records of all blocks. For f16
    /// in panels: whole tiles of 16 rows, each with these columns.
    pub out: &'a mut [u8],
}

/// See [`RetileTask`].
pub(crate) fn retile_portable(task: &mut RetileTask<'_>) {
    retile(task, |channels| {
        std::array::from_fn(|run| std::array::from_fn(|i| channels[i % 4][4 * run + i / 4]))
    });
}

/// As [`retile_portable`], with SSE2, which every x86-64 CPU has.
#[cfg(target_arch = "x86_64")]
pub(crate) fn retile_sse(task: &mut RetileTask<'_>) {
    use std::arch::x86_64::*;
    retile(task, |channels| {
        // SAFETY: loads and stores are of arrays of 16 bytes.
        unsafe {
            let [a, b, c, d] = channels.map(|c| _mm_loadu_si128(c.as_ptr().cast()));
            let (ab, cd) = (_mm_unpacklo_epi8(a, b), _mm_unpacklo_epi8(c, d));
            let (ab_high, cd_high) = (_mm_unpackhi_epi8(a, b), _mm_unpackhi_epi8(c, d));
            let runs = [
                _mm_unpacklo_epi16(ab, cd),
                _mm_unpackhi_epi16(ab, cd),
                _mm_unpacklo_epi16(ab_high, cd_high),
                _mm_unpackhi_epi16(ab_high, cd_high),
            ];
            let mut out = [[0; LANE]; 4];
            for (out, run) in out.iter_mut().zip(runs) {
                _mm_storeu_si128(out.as_mut_ptr().cast(), run);
            }
            out
        }
    });
}

/// As [`retile_portable`], with NEON, whose stores interleave.
#[cfg(target_arch = "aarch64")]
pub(crate) fn retile_neon(task: &mut RetileTask<'_>) {
    use std::arch::aarch64::*;
    retile(task, |channels| {
        let mut out = [[0; LANE]; 4];
        // SAFETY: NEON is in the baseline of the target; loads are of arrays of 16 bytes, the store
        // is of 64.
        unsafe {
            let [a, b, c, d] = channels.map(|c| vld1q_u8(c.as_ptr()));
            vst4q_u8(out.as_flattened_mut().as_mut_ptr(), uint8x16x4_t(a, b, c, d));
        }
        out
    });
}

/// `interleave` turns a lane of four channels into its four runs of four rows: of each row the four
/// channels' bytes.
#[inline(always)]
fn retile(task: &mut RetileTask<'_>, interleave: impl Fn([&[u8; LANE]; 4]) -> [[u8; LANE]; 4]) {
    let RetileTask { w, values, tile, group, out, .. } = task;
    if *values == Values::F16 {
        return retile_floats(task);
    }
    let quad_record = values.quad_record_bytes().unwrap_or(1);
    let quad_data = channel_bytes(*values, QUAD_ROWS) * QUANT_BLOCK;
    let quad_tile = tile.bytes / tile.record * quad_record;
    let (count, first) = (tile.lanes(*group), *group * GROUP);
    let place = |row: usize| row / QUAD_ROWS * quad_tile + row % QUAD_ROWS * 4;
    let records = w[tile.offset..][..tile.bytes].chunks_exact(tile.record);
    for (b, record) in records.enumerate() {
        for lane in 0..count {
            // The four runs of channels `4 quad..`, `from` bytes after the lane's first ones.
            let runs = |quad: usize, from: usize| {
                let at = *group * tile.group() + LANE * lane + from;
                interleave(std::array::from_fn(|e| {
                    let bytes = &record[(4 * quad + e) * tile.channel() + at..];
                    bytes.first_chunk().unwrap_or(&[0; LANE])
                }))
            };
            let mut store = |quad: usize, run: usize, bytes: [u8; LANE]| {
                let to = place(4 * count * run + 4 * lane) + b * quad_record + quad * 32;
                out[to..to + LANE].copy_from_slice(&bytes);
            };
            if *values == Values::Q8 {
                for (quad, half) in (0..8).flat_map(|quad| [(quad, 0), (quad, 1)]) {
                    for (run, bytes) in runs(quad, half * LANE * count).into_iter().enumerate() {
                        store(quad, 4 * half + run, bytes);
                    }
                }
                continue;
            }
            for quad in 0..4 {
                let both = runs(quad, 0).into_iter().zip(runs(quad + 4, 0));
                for (run, (a, b)) in both.enumerate() {
                    let pair = |f: fn(u8, u8) -> u8| std::array::from_fn(|i| f(a[i], b[i]));
                    store(quad, run, pair(|a, b| a & 15 | b << 4));
                    store(quad, 4 + run, pair(|a, b| a >> 4 | b & 0xf0));
                }
            }
        }
        for row in (0..CHANNEL_RUN * count).step_by(QUAD_ROWS) {
            let to = &mut out[row / QUAD_ROWS * quad_tile + b * quad_record..][..quad_record];
            let from = 2 * (first + row);
            to[quad_data..][..16].copy_from_slice(&record[tile.scales() + from..][..16]);
            if *values == Values::Q4m {
                to[quad_data + 16..].copy_from_slice(&record[tile.mins() + from..][..16]);
            }
        }
    }
}

/// Sixteen values of a column at a time.
fn retile_floats(task: &mut RetileTask<'_>) {
    let RetileTask { w, tile, group, columns, out, .. } = task;
    let panel_column = 2 * PANEL_ROWS;
    let channels = w[tile.offset..][..tile.bytes].chunks_exact(tile.channel());
    let panel = columns.len() * panel_column;
    for (c, channel) in channels.skip(columns.start).take(columns.len()).enumerate() {
        let values = channel[*group * tile.group()..].chunks_exact(panel_column);
        for (out, values) in out.chunks_exact_mut(panel).zip(values) {
            out[c * panel_column..][..panel_column].copy_from_slice(values);
        }
    }
}
