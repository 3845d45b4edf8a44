// A head's key or value as floats.

fn store(lane: u32, base: u32, position: u32, is_value: bool) {
    for (var d = lane; d < P.padded; d += LANES) {
        let word = bitcast<u32>(head[d]);
        if is_value {
            cache[base + P.key_words + position * P.padded + d] = word;
        } else {
            cache[base + d * 32u + position] = word;
        }
    }
}
