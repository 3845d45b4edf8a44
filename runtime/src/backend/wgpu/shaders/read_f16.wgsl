fn key_dot(base: u32, position: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < P.padded / 2u; i++) {
        let pair = unpack2x16float(cache[base + i * 32u + position]);
        sum += query[2u * i] * pair.x + query[2u * i + 1u] * pair.y;
    }
    return sum;
}

fn value_at(base: u32, position: u32, d: u32) -> f32 {
    let pair = unpack2x16float(cache[base + P.key_words + position * (P.padded / 2u) + d / 2u]);
    return select(pair.x, pair.y, (d & 1u) == 1u);
}
