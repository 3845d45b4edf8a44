// What `load` gives: of block `block` of 32 columns of a row, columns 4 q to 4 q + 3, and the same 16 further
// on. A format has its own `load`. Columns beyond the weight's may hold anything finite.

struct Pair {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

@group(0) @binding(1) var<storage, read> w: array<u32>;
