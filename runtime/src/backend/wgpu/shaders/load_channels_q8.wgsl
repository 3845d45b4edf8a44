// Values of q8 in channels: the later half of a group's rows lies 16 bytes for each of its 32 rows further on.

fn integer(start: u32, byte: u32) -> f32 {
    return f32(bitcast<i32>(w[start + byte / 4u] << (24u - byte % 4u * 8u)) >> 24u);
}

fn load(row: u32, block: u32, q: u32) -> Pair {
    let at = place(row, 34u, 8u);
    let found = byte_of(at, 128u);
    let byte = found.x + 16u * found.y;
    let record = at.start + block * at.record;
    let d = half_at(record + 32u * at.channel, at.row);
    let start = record + q * 4u * at.channel;
    var pair = Pair(vec4(0.0), vec4(0.0));
    for (var i = 0u; i < 4u; i++) {
        pair.lo[i] = d * integer(start + i * at.channel, byte);
        pair.hi[i] = d * integer(start + (16u + i) * at.channel, byte);
    }
    return pair;
}
