// Values of q4 in quads: 36 words for 8 rows of 32 columns.

fn load(row: u32, block: u32, q: u32) -> Pair {
    let r = row % 8u;
    let at = ((row / 8u) * P.blocks + block) * 36u;
    let word = w[at + q * 8u + r];
    let scales = unpack2x16float(w[at + 32u + r / 2u]);
    let d = select(scales.x, scales.y, (r & 1u) == 1u);
    return Pair(d * (low(word) - 8.0), d * (low(word >> 4u) - 8.0));
}
