// Values of q4m in channels: the later half of a group's rows lies in the high nibbles.

const WORDS: u32 = 8u;
const MINIMA: bool = true;

fn ints(row: u32, block: u32, q: u32) -> vec2<u32> {
    return nibbles(place(row, 20u, 4u), block, q);
}

fn scale(row: u32, block: u32) -> f32 {
    let at = place(row, 20u, 4u);
    return half_at(at.start + block * at.record + 32u * at.channel, at.row);
}

fn minimum(row: u32, block: u32) -> f32 {
    let at = place(row, 20u, 4u);
    return half_at(at.start + block * at.record + 32u * at.channel + at.width / 2u, at.row);
}
