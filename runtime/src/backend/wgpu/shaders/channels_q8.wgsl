// Values of q8 in channels: the later half of a group's rows lies 16 bytes for each of its 32 rows further on.

const WORDS: u32 = 8u;
const MINIMA: bool = false;

fn ints(row: u32, block: u32, q: u32) -> vec2<u32> {
    let at = place(row, 34u, 8u);
    let found = byte_of(at, 128u);
    let byte = found.x + 16u * found.y;
    let start = at.start + block * at.record + q * 4u * at.channel;
    var pair = vec2(0u);
    for (var i = 0u; i < 4u; i++) {
        pair.x |= byte_at(start + i * at.channel, byte) << (8u * i);
        pair.y |= byte_at(start + (16u + i) * at.channel, byte) << (8u * i);
    }
    return pair;
}

fn scale(row: u32, block: u32) -> f32 {
    let at = place(row, 34u, 8u);
    return half_at(at.start + block * at.record + 32u * at.channel, at.row);
}

fn minimum(row: u32, block: u32) -> f32 {
    return 0.0;
}
