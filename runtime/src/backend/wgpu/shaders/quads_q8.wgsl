// Values of q8 in quads: 68 words for 8 rows of 32 columns.

const WORDS: u32 = 8u;
const MINIMA: bool = false;

fn record(row: u32, block: u32) -> u32 {
    return ((row / 8u) * P.blocks + block) * 68u;
}

fn ints(row: u32, block: u32, q: u32) -> vec2<u32> {
    let at = record(row, block) + q * 8u + row % 8u;
    return vec2(w[at], w[at + 32u]);
}

fn scale(row: u32, block: u32) -> f32 {
    return half(record(row, block) + 64u, row);
}

fn minimum(row: u32, block: u32) -> f32 {
    return 0.0;
}
