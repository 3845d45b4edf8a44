// What `load` gives: of block `block` of 32 columns of a row, columns 4 q to 4 q + 3, and the same 16 further
// on. A format has its own `load`. Columns beyond the weight's may hold anything finite.

struct Pair {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

// The low nibbles of a word's bytes.
fn low(word: u32) -> vec4<f32> {
    return vec4<f32>(vec4(word, word >> 8u, word >> 16u, word >> 24u) & vec4(15u));
}

// A word's bytes as signed integers.
fn signed(word: u32) -> vec4<f32> {
    let i = bitcast<i32>(word);
    return vec4<f32>(vec4((i << 24u) >> 24u, (i << 16u) >> 24u, (i << 8u) >> 24u, i >> 24u));
}
