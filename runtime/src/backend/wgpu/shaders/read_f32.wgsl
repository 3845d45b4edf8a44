fn key_dot(base: u32, position: u32) -> f32 {
    var sum = 0.0;
    for (var d = 0u; d < P.dim; d++) {
        sum += query[d] * bitcast<f32>(cache[base + d * 32u + position]);
    }
    return sum;
}

fn value_at(base: u32, position: u32, d: u32) -> f32 {
    return bitcast<f32>(cache[base + P.key_words + position * P.padded + d]);
}
