// Values of q8 in quads: 68 words for 8 rows of 32 columns.

fn load(row: u32, block: u32, q: u32) -> Pair {
    let r = row % 8u;
    let at = ((row / 8u) * P.blocks + block) * 68u;
    let scales = unpack2x16float(w[at + 64u + r / 2u]);
    let d = select(scales.x, scales.y, (r & 1u) == 1u);
    return Pair(d * signed(w[at + q * 8u + r]), d * signed(w[at + q * 8u + 32u + r]));
}
