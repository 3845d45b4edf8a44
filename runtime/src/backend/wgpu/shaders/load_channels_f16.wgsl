// Values of f16 by channel.

fn load(row: u32, block: u32, q: u32) -> Pair {
    let at = place(row, 64u, 16u);
    let start = at.start + block * at.record + q * 4u * at.channel;
    var pair = Pair(vec4(0.0), vec4(0.0));
    for (var i = 0u; i < 4u; i++) {
        pair.lo[i] = half_at(start + i * at.channel, at.row);
        pair.hi[i] = half_at(start + (16u + i) * at.channel, at.row);
    }
    return pair;
}

fn element(row: u32, col: u32) -> f32 {
    let at = place(row, 64u, 16u);
    return half_at(at.start + col / 32u * at.record + col % 32u * at.channel, at.row);
}
