//! Groups of a weight in channels as quads, for calls of many rows.

use crate::channels::{ChannelTile, GROUP};
use limbeck_plan::{CHANNEL_RUN, QUAD_ROWS, Values};

/// Bytes of a group's lane of one channel.
const LANE: usize = 16;

/// One group of a weight.
pub(crate) struct RetileTask<'a> {
    pub w: &'a [u8],
    pub values: Values,
    pub tile: &'a ChannelTile,
    pub group: usize,
    /// The group's rows in quads: whole tiles of 8 rows, each with the records of all blocks.
    pub out: &'a mut [u8],
}

/// See [`RetileTask`].
pub(crate) fn retile_portable(task: &mut RetileTask<'_>) {
    retile(task, |channels| {
        let mut out = [[0; LANE]; 8];
        for (run, out) in out.iter_mut().enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                let (t, e) = (i / 4, i % 4);
                let byte = |c: usize| channels[c][4 * (run % 4) + t];
                let nibble = |byte: u8| if run < 4 { byte & 15 } else { byte >> 4 };
                *out = nibble(byte(e)) | nibble(byte(4 + e)) << 4;
            }
        }
        out
    });
}

/// As [`retile_portable`], with SSE2, which every x86-64 CPU has.
#[cfg(target_arch = "x86_64")]
pub(crate) fn retile_sse(task: &mut RetileTask<'_>) {
    use std::arch::x86_64::*;
    retile(task, |channels| {
        // SAFETY: loads and stores are of arrays of 16 bytes.
        unsafe {
            let load = |c: usize| _mm_loadu_si128(channels[c].as_ptr().cast());
            let interleave = |first: usize| {
                let (a, b, c, d) = (load(first), load(first + 1), load(first + 2), load(first + 3));
                let (ab, cd) = (_mm_unpacklo_epi8(a, b), _mm_unpacklo_epi8(c, d));
                let (ab_high, cd_high) = (_mm_unpackhi_epi8(a, b), _mm_unpackhi_epi8(c, d));
                [
                    _mm_unpacklo_epi16(ab, cd),
                    _mm_unpackhi_epi16(ab, cd),
                    _mm_unpacklo_epi16(ab_high, cd_high),
                    _mm_unpackhi_epi16(ab_high, cd_high),
                ]
            };
            let (first, second) = (interleave(0), interleave(4));
            let low = _mm_set1_epi8(15);
            let mut out = [[0; LANE]; 8];
            for j in 0..4 {
                let up = _mm_slli_epi16::<4>(_mm_and_si128(second[j], low));
                let lows = _mm_or_si128(_mm_and_si128(first[j], low), up);
                let down = _mm_and_si128(_mm_srli_epi16::<4>(first[j]), low);
                let highs = _mm_or_si128(down, _mm_andnot_si128(low, second[j]));
                _mm_storeu_si128(out[j].as_mut_ptr().cast(), lows);
                _mm_storeu_si128(out[4 + j].as_mut_ptr().cast(), highs);
            }
            out
        }
    });
}

/// `lanes` interleaves a lane of the channels of a quad and of the quad four further on: the bytes
/// that their line of a record has for the lane's 32 rows, in runs of four.
#[inline(always)]
fn retile(task: &mut RetileTask<'_>, lanes: impl Fn([&[u8; LANE]; 8]) -> [[u8; LANE]; 8]) {
    let RetileTask { w, values, tile, group, out } = task;
    let quad_record = values.quad_record_bytes().unwrap_or(1);
    let quad_tile = tile.bytes / tile.record * quad_record;
    let (count, first) = (tile.lanes(*group), *group * GROUP);
    let records = w[tile.offset..][..tile.bytes].chunks_exact(tile.record);
    for (b, record) in records.enumerate() {
        for lane in 0..count {
            let at = first / 2 + LANE * lane;
            for quad in 0..4 {
                let channel = |i: usize| {
                    let c = 4 * quad + if i < 4 { i } else { 12 + i };
                    &record[c * tile.channel() + at..]
                };
                let chunks: [Option<&[u8; LANE]>; 8] =
                    std::array::from_fn(|i| channel(i).first_chunk());
                let zeros = [0; LANE];
                let runs = lanes(chunks.map(|c| c.unwrap_or(&zeros)));
                for (run, bytes) in runs.iter().enumerate() {
                    let row = 4 * count * run + 4 * lane;
                    let to = row / QUAD_ROWS * quad_tile + b * quad_record;
                    let to = to + quad * 32 + row % QUAD_ROWS * 4;
                    out[to..to + LANE].copy_from_slice(bytes);
                }
            }
        }
        for row in (0..CHANNEL_RUN * count).step_by(QUAD_ROWS) {
            let to = &mut out[row / QUAD_ROWS * quad_tile + b * quad_record..][..quad_record];
            let from = 2 * (first + row);
            to[4 * 32..][..16].copy_from_slice(&record[tile.scales() + from..][..16]);
            if *values == Values::Q4m {
                to[4 * 32 + 16..].copy_from_slice(&record[tile.mins() + from..][..16]);
            }
        }
    }
}
