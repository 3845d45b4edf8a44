// Where a row of a weight by channel lies: its tile's first word, the words of a tile's record and of a
// channel in it, and what of a channel's values is the row's.

struct Place {
    start: u32,
    record: u32,
    channel: u32,
    width: u32,
    // Within the tile.
    row: u32,
}

// `bytes` are those of a row in a record, `bits` those of a value.
fn place(row: u32, bytes: u32, bits: u32) -> Place {
    let most = tile_rows(P.all);
    let first = row / most * most;
    let width = min(most, (P.all - min(first, P.all) + 31u) / 32u * 32u);
    return Place(first * bytes / 4u * P.blocks, width * bytes / 4u, width * bits / 32u, width, row - first);
}

// The byte of a channel that a quantised row is in, and whether it is in the later half of its group.
fn byte_of(at: Place, group_bytes: u32) -> vec2<u32> {
    let group = at.row / 128u;
    let lanes = max(min((at.width - min(group * 128u, at.width)) / 32u, 4u), 1u);
    let within = at.row % 128u;
    let second = select(0u, 1u, within >= 16u * lanes);
    let low = within - second * 16u * lanes;
    let byte = group * group_bytes + 16u * (low % (4u * lanes) / 4u) + 4u * (low / (4u * lanes)) + low % 4u;
    return vec2(byte, second * lanes);
}

fn half_at(word: u32, index: u32) -> f32 {
    let pair = unpack2x16float(w[word + index / 2u]);
    return select(pair.x, pair.y, (index & 1u) == 1u);
}

fn byte_at(word: u32, byte: u32) -> u32 {
    return (w[word + byte / 4u] >> (byte % 4u * 8u)) & 255u;
}

// The nibbles of a row in columns 4 q to 4 q + 3 of a block, as bytes of a word, and those 16 further on.
fn nibbles(at: Place, block: u32, q: u32) -> vec2<u32> {
    let found = byte_of(at, 64u);
    let high = select(0u, 4u, found.y > 0u);
    let start = at.start + block * at.record + q * 4u * at.channel;
    var pair = vec2(0u);
    for (var i = 0u; i < 4u; i++) {
        pair.x |= ((byte_at(start + i * at.channel, found.x) >> high) & 15u) << (8u * i);
        pair.y |= ((byte_at(start + (16u + i) * at.channel, found.x) >> high) & 15u) << (8u * i);
    }
    return pair;
}
