// Values of q4 in channels: the later half of a group's rows lies in the high nibbles.

const WORDS: u32 = 8u;
const MINIMA: bool = false;

fn ints(row: u32, block: u32, q: u32) -> vec2<u32> {
    let pair = nibbles(place(row, 18u, 4u), block, q);
    return vec2(centred(pair.x), centred(pair.y));
}

fn scale(row: u32, block: u32) -> f32 {
    let at = place(row, 18u, 4u);
    return half_at(at.start + block * at.record + 32u * at.channel, at.row);
}

fn minimum(row: u32, block: u32) -> f32 {
    return 0.0;
}
