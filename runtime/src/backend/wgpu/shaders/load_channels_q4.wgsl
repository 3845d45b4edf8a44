// Values of q4 in channels: the later half of a group's rows lies in the high nibbles.

fn nibble(start: u32, found: vec2<u32>) -> f32 {
    let byte = w[start + found.x / 4u] >> (found.x % 4u * 8u);
    return f32(select(byte, byte >> 4u, found.y > 0u) & 15u);
}

fn load(row: u32, block: u32, q: u32) -> Pair {
    let at = place(row, 18u, 4u);
    let found = byte_of(at, 64u);
    let record = at.start + block * at.record;
    let d = half_at(record + 32u * at.channel, at.row);
    let start = record + q * 4u * at.channel;
    var pair = Pair(vec4(0.0), vec4(0.0));
    for (var i = 0u; i < 4u; i++) {
        pair.lo[i] = d * (nibble(start + i * at.channel, found) - 8.0);
        pair.hi[i] = d * (nibble(start + (16u + i) * at.channel, found) - 8.0);
    }
    return pair;
}
