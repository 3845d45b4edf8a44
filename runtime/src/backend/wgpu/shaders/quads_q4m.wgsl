// Values of q4m in quads: 40 words for 8 rows of 32 columns.

const WORDS: u32 = 8u;
const MINIMA: bool = true;

fn record(row: u32, block: u32) -> u32 {
    return ((row / 8u) * P.blocks + block) * 40u;
}

fn ints(row: u32, block: u32, q: u32) -> vec2<u32> {
    let word = w[record(row, block) + q * 8u + row % 8u];
    return vec2(word & 0x0f0f0f0fu, (word >> 4u) & 0x0f0f0f0fu);
}

fn scale(row: u32, block: u32) -> f32 {
    return half(record(row, block) + 32u, row);
}

fn minimum(row: u32, block: u32) -> f32 {
    return half(record(row, block) + 36u, row);
}
