// Values of q8w in quads: 132 words for 8 rows of 64 columns, which are two blocks here.

const WORDS: u32 = 16u;
const MINIMA: bool = false;

fn record(row: u32, block: u32) -> u32 {
    return ((row / 8u) * ((P.blocks + 1u) / 2u) + block / 2u) * 132u;
}

fn ints(row: u32, block: u32, q: u32) -> vec2<u32> {
    let at = record(row, block) + block % 2u * 64u + q * 8u + row % 8u;
    return vec2(w[at], w[at + 32u]);
}

fn scale(row: u32, block: u32) -> f32 {
    return half(record(row, block) + 128u, row);
}

fn minimum(row: u32, block: u32) -> f32 {
    return 0.0;
}
