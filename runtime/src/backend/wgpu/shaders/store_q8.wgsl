// A head's key or value as four 8-bit integers a word, with one scale, its largest magnitude / 127: those of
// 32 keys, then of 32 values, end a head's words.

fn store(lane: u32, base: u32, position: u32, is_value: bool) {
    var largest = 0.0;
    for (var d = 0u; d < P.dim; d++) {
        largest = max(largest, abs(head[d]));
    }
    let inverse = select(0.0, 127.0 / largest, largest > 1e-36);
    for (var i = lane; i < P.padded / 4u; i += LANES) {
        let values = vec4(head[4u * i], head[4u * i + 1u], head[4u * i + 2u], head[4u * i + 3u]);
        let bytes = bitcast<vec4<u32>>(vec4<i32>(round(values * inverse))) & vec4(255u);
        let word = bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
        if is_value {
            cache[base + P.key_words + position * (P.padded / 4u) + i] = word;
        } else {
            cache[base + i * 32u + position] = word;
        }
    }
    if lane == 0u {
        let scale = select(0.0, largest / 127.0, largest > 1e-36);
        cache[base + P.head_words - 64u + select(0u, 32u, is_value) + position] = bitcast<u32>(scale);
    }
}
