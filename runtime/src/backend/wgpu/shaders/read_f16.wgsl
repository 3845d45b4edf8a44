fn key_dot(base: u32, position: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < P.padded / 4u; i++) {
        let at = base + 2u * i * 32u + position;
        sum += dot(query[i], vec4(unpack2x16float(cache[at]), unpack2x16float(cache[at + 32u])));
    }
    return sum;
}

// Elements 4 `four` to 4 `four` + 3.
fn value_at(base: u32, position: u32, four: u32) -> vec4<f32> {
    let at = base + P.key_words + position * (P.padded / 2u) + 2u * four;
    return vec4(unpack2x16float(cache[at]), unpack2x16float(cache[at + 1u]));
}
