// A head's key or value as pairs of 16-bit floats.

fn store(lane: u32, base: u32, position: u32, is_value: bool) {
    for (var i = lane; i < P.padded / 2u; i += LANES) {
        let word = pack2x16float(vec2(head[2u * i], head[2u * i + 1u]));
        if is_value {
            cache[base + P.key_words + position * (P.padded / 2u) + i] = word;
        } else {
            cache[base + i * 32u + position] = word;
        }
    }
}
