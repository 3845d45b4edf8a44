// What formats in quads share.

// The half of a row among those of its record.
fn half(at: u32, row: u32) -> f32 {
    let pair = unpack2x16float(w[at + row % 8u / 2u]);
    return select(pair.x, pair.y, (row & 1u) == 1u);
}
