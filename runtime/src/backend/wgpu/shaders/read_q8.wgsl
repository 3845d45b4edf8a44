fn bytes_of(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

fn key_dot(base: u32, position: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < P.padded / 4u; i++) {
        sum += dot(query[i], bytes_of(cache[base + i * 32u + position]));
    }
    return sum * bitcast<f32>(cache[base + P.head_words - 64u + position]);
}

// Elements 4 `four` to 4 `four` + 3.
fn value_at(base: u32, position: u32, four: u32) -> vec4<f32> {
    let word = cache[base + P.key_words + position * (P.padded / 4u) + four];
    return bytes_of(word) * bitcast<f32>(cache[base + P.head_words - 32u + position]);
}
