// Before attention: the norm and the rotation of each head of a row; queries go to a buffer of their own,
// keys and values to blocks of 32 positions. A group for each head of a row.
//
// Four words of the call describe a row: its position in the blocks, how many positions it sees where it sees
// all, where its block table lies in the call, and 1 where it belongs to a sequence.

struct Params {
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    dim: u32,
    // `dim` up to a multiple of 4.
    padded: u32,
    eps: f32,
    // 1: norm, 2: rotation, 4: of neighbours, 8: fused operands.
    flags: u32,
    rotary: u32,
    // Where cosines and sines of the rows lie in the call, and the rows' words.
    turns: u32,
    rows: u32,
    // Words of a head in a block, and those of its keys.
    head_words: u32,
    key_words: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> call: array<u32>;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read> q_norm: array<f32>;
@group(0) @binding(6) var<storage, read> k_norm: array<f32>;
@group(0) @binding(7) var<storage, read_write> queries: array<f32>;
@group(0) @binding(8) var<storage, read_write> cache: array<u32>;

var<workgroup> head: array<f32, MOST>;
var<workgroup> parts: array<f32, LANES>;

fn given(token: u32, unit: u32, d: u32) -> f32 {
    let q_width = P.heads * P.dim;
    let kv_width = P.kv_heads * P.dim;
    if (P.flags & 8u) != 0u {
        return q[token * (q_width + 2u * kv_width) + unit * P.dim + d];
    }
    if unit < P.heads {
        return q[token * q_width + unit * P.dim + d];
    }
    if unit < P.heads + P.kv_heads {
        return k[token * kv_width + (unit - P.heads) * P.dim + d];
    }
    return v[token * kv_width + (unit - P.heads - P.kv_heads) * P.dim + d];
}

fn normalise(lane: u32, is_query: bool) {
    var squares = 0.0;
    for (var d = lane; d < P.dim; d += LANES) {
        squares += head[d] * head[d];
    }
    parts[lane] = squares;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            parts[lane] += parts[lane + step];
        }
    }
    workgroupBarrier();
    let root = sqrt(parts[0] / f32(P.dim) + P.eps);
    for (var d = lane; d < P.dim; d += LANES) {
        if is_query {
            head[d] = head[d] / root * q_norm[d];
        } else {
            head[d] = head[d] / root * k_norm[d];
        }
    }
    workgroupBarrier();
}

fn turn(lane: u32, token: u32) {
    let half = P.rotary / 2u;
    for (var i = lane; i < half; i += LANES) {
        var a = i;
        var b = i + half;
        if (P.flags & 4u) != 0u {
            a = 2u * i;
            b = 2u * i + 1u;
        }
        let at = P.turns + token * P.rotary + 2u * i;
        let c = bitcast<f32>(call[at]);
        let s = bitcast<f32>(call[at + 1u]);
        let x = head[a];
        let y = head[b];
        head[a] = x * c - y * s;
        head[b] = y * c + x * s;
    }
    workgroupBarrier();
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let units = P.heads + 2u * P.kv_heads;
    let index = flat(group, groups);
    let token = min(index / units, P.tokens - 1u);
    let unit = index % units;
    for (var d = lane; d < MOST; d += LANES) {
        var value = 0.0;
        if d < P.dim {
            value = given(token, unit, d);
        }
        head[d] = value;
    }
    workgroupBarrier();
    let is_query = unit < P.heads;
    if unit < P.heads + P.kv_heads {
        if (P.flags & 1u) != 0u {
            normalise(lane, is_query);
        }
        if (P.flags & 2u) != 0u {
            turn(lane, token);
        }
    }
    if index / units >= P.tokens {
        return;
    }
    if is_query {
        for (var d = lane; d < P.dim; d += LANES) {
            queries[(token * P.heads + unit) * P.dim + d] = head[d];
        }
        return;
    }
    let row = P.rows + token * 4u;
    if call[row + 3u] == 0u {
        return;
    }
    let position = call[row];
    let block = call[call[row + 2u] + position / 32u];
    let kv = (unit - P.heads) % P.kv_heads;
    let base = (block * P.kv_heads + kv) * P.head_words;
    store(lane, base, position % 32u, unit >= P.heads + P.kv_heads);
}
