// Values of q4m in quads: 40 words for 8 rows of 32 columns.

fn load(row: u32, block: u32, q: u32) -> Pair {
    let r = row % 8u;
    let at = ((row / 8u) * P.blocks + block) * 40u;
    let word = w[at + q * 8u + r];
    let scales = unpack2x16float(w[at + 32u + r / 2u]);
    let minima = unpack2x16float(w[at + 36u + r / 2u]);
    let odd = (r & 1u) == 1u;
    let d = select(scales.x, scales.y, odd);
    let m = select(minima.x, minima.y, odd);
    return Pair(d * low(word) + m, d * low(word >> 4u) + m);
}
