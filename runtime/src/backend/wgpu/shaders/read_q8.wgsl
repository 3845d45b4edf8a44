fn byte(word: u32, i: u32) -> f32 {
    return f32(bitcast<i32>(word << (24u - 8u * i)) >> 24u);
}

fn key_dot(base: u32, position: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < P.padded / 4u; i++) {
        let word = cache[base + i * 32u + position];
        for (var e = 0u; e < 4u; e++) {
            sum += query[4u * i + e] * byte(word, e);
        }
    }
    return sum * bitcast<f32>(cache[base + P.head_words - 64u + position]);
}

fn value_at(base: u32, position: u32, d: u32) -> f32 {
    let word = cache[base + P.key_words + position * (P.padded / 4u) + d / 4u];
    return byte(word, d % 4u) * bitcast<f32>(cache[base + P.head_words - 32u + position]);
}
