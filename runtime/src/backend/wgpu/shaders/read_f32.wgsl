fn key_dot(base: u32, position: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < P.padded / 4u; i++) {
        let at = base + 4u * i * 32u + position;
        let key = vec4(cache[at], cache[at + 32u], cache[at + 64u], cache[at + 96u]);
        sum += dot(query[i], bitcast<vec4<f32>>(key));
    }
    return sum;
}

// Elements 4 `four` to 4 `four` + 3.
fn value_at(base: u32, position: u32, four: u32) -> vec4<f32> {
    let at = base + P.key_words + position * P.padded + 4u * four;
    return bitcast<vec4<f32>>(vec4(cache[at], cache[at + 1u], cache[at + 2u], cache[at + 3u]));
}
