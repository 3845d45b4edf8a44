// What a lane reads of 8 rows of quantised weights at a time: of block `block` of 32 columns, columns 4 q to
// 4 q + 3, and the same 16 further on. A format has its own `Raw`, which `raw` reads, and its `eight`. OFFSET is
// what its bytes are too large by.

struct Eight {
    // A word of each row, of the first four columns, then of those 16 further on.
    lo: vec4<u32>,
    lo_next: vec4<u32>,
    hi: vec4<u32>,
    hi_next: vec4<u32>,
    scales: vec4<f32>,
    scales_next: vec4<f32>,
    minima: vec4<f32>,
    minima_next: vec4<f32>,
}

fn halves(pair: vec2<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(pair.x), unpack2x16float(pair.y));
}
