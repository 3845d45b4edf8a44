// Values of q8w in quads: 132 words for 8 rows of 64 columns, which are two blocks here.

fn load(row: u32, block: u32, q: u32) -> Pair {
    let r = row % 8u;
    let at = ((row / 8u) * ((P.blocks + 1u) / 2u) + block / 2u) * 132u;
    let quad = at + (block % 2u) * 64u + q * 8u + r;
    let scales = unpack2x16float(w[at + 128u + r / 2u]);
    let d = select(scales.x, scales.y, (r & 1u) == 1u);
    return Pair(d * signed(w[quad]), d * signed(w[quad + 32u]));
}
