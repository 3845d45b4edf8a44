// Rows of inputs, behind a norm where there is one, become bytes as quantised weights meet them. Of a row there are for
// each block of 32 columns four pairs of words, of columns 4 q to 4 q + 3 and of the same 16 further on, then a pair for
// each block: its scale, and what its bytes add up to. Precise ones come in two parts, the second for what the first
// leaves over: pairs of the second part lie behind the same of the first.

struct Params {
    tokens: u32,
    cols: u32,
    blocks: u32,
    // Where choices begin, and how many columns one stands for where they limit a row, or 0; see limited.wgsl.
    choices: u32,
    unit_cols: u32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read_write> out: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> norm_weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> norm_bias: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> made: array<u32>;

const LANES: u32 = 128u;
// Blocks of a group, some at a time: one for each four lanes.
const SLICE: u32 = 128u;
const CHUNK: u32 = LANES / 4u;
const PARTS: u32 = select(1u, 2u, (FLAGS & 32u) != 0u);

fn input_row(token: u32) -> u32 {
    return token;
}

fn cols_of(token: u32) -> u32 {
    if P.unit_cols == 0u {
        return P.cols;
    }
    return min(P.cols, made[P.choices + token] * P.unit_cols);
}

@compute @workgroup_size(LANES)
fn main(at: Invocation) {
    let lane = at.lane;
    let q = lane % 4u;
    let slices = (P.blocks + SLICE - 1u) / SLICE;
    let index = flat(at.group, at.groups);
    let here = index / slices < P.tokens;
    let token = min(index / slices, P.tokens - 1u);
    let start = token * (PARTS * P.blocks * 5u);
    let slice = index % slices * SLICE;
    let end = min(slice + SLICE, P.blocks);
    let norm = norm_of(at, token, vec4(0.0), vec4(0.0), P.cols, 0u);
    for (var first = slice; first < end; first += CHUNK) {
        let block = first + lane / 4u;
        let col = block * 32u + q * 4u;
        var lo = met(given(token, col), norm, weight_of(col), col);
        var hi = met(given(token, col + 16u), norm, weight_of(col + 16u), col + 16u);
        for (var part = 0u; part < PARTS; part++) {
            let most = most_of(lane, max(magnitude(lo), magnitude(hi)));
            let words = rounded8(lo, hi, most);
            let step = step_of(most);
            let total = total_of_block(lane, words);
            if here && block < end {
                let of_part = part * P.blocks + block;
                out[start + of_part * 4u + q] = words;
                if q == 0u {
                    out[start + PARTS * P.blocks * 4u + of_part] = vec2(bitcast<u32>(step), bitcast<u32>(total));
                }
            }
            lo -= step * bytes_of(words.x);
            hi -= step * bytes_of(words.y);
        }
    }
}
