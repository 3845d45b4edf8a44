// Attention of one head of one row over 256 positions at a time: a group for each head of a row. A lane scores a
// key, then sums some elements of the values of 64 positions.

struct Params {
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    dim: u32,
    padded: u32,
    scale: f32,
    // 0 for none.
    softcap: f32,
    // 0 for none.
    window: u32,
    causal: u32,
    // Where the rows' words lie in the call; see prepare.wgsl.
    rows: u32,
    head_words: u32,
    key_words: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> call: array<u32>;
@group(0) @binding(2) var<storage, read> queries: array<f32>;
@group(0) @binding(3) var<storage, read> cache: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const LOWEST: f32 = -3.0e38;
const KEYS: u32 = 256u;
// Elements of a head that a lane has.
const EACH: u32 = MOST / 64u;
var<workgroup> query: array<f32, MOST>;
var<workgroup> lanes_of: array<f32, KEYS>;
var<workgroup> weights: array<f32, KEYS>;

// The largest of the lanes' values.
fn largest_of(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    lanes_of[lane] = value;
    for (var step = KEYS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            lanes_of[lane] = max(lanes_of[lane], lanes_of[lane + step]);
        }
    }
    workgroupBarrier();
    return lanes_of[0];
}

// The sum of the values of four lanes, 64 apart.
fn sum_of(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    lanes_of[lane] = value;
    workgroupBarrier();
    let at = lane % 64u;
    return lanes_of[at] + lanes_of[at + 64u] + lanes_of[at + 128u] + lanes_of[at + 192u];
}

@compute @workgroup_size(KEYS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat(group, groups);
    let here = index < P.tokens * P.heads;
    let token = min(index / P.heads, P.tokens - 1u);
    let head = index % P.heads;
    for (var d = lane; d < MOST; d += KEYS) {
        query[d] = select(0.0, queries[(token * P.heads + head) * P.dim + min(d, P.dim - 1u)], d < P.dim);
    }
    let row = P.rows + token * 4u;
    let table = call[row + 2u];
    var end = call[row + 1u];
    if P.causal != 0u {
        end = call[row] + 1u;
    }
    if !here || call[row + 3u] == 0u {
        end = 0u;
    }
    var start = 0u;
    if P.causal != 0u && P.window != 0u && end > P.window {
        start = end - P.window;
    }
    let kv = head / (P.heads / P.kv_heads) * P.head_words;
    let block_words = P.kv_heads * P.head_words;
    // Of the 64 positions that a lane sums: the first in a tile.
    let part = lane / 64u * 64u;
    var most = LOWEST;
    var total = 0.0;
    var sum: array<f32, EACH>;
    for (var first = start / KEYS * KEYS; first < end; first += KEYS) {
        let key = first + lane;
        var score = LOWEST;
        workgroupBarrier();
        if key >= start && key < end {
            let base = call[table + key / 32u] * block_words + kv;
            score = key_dot(base, key % 32u) * P.scale;
            if P.softcap > 0.0 {
                score = P.softcap * bounded_tanh(score / P.softcap);
            }
        }
        let highest = max(most, largest_of(lane, score));
        weights[lane] = select(0.0, exp(score - highest), key >= start && key < end);
        workgroupBarrier();
        let kept = exp(most - highest);
        most = highest;
        total *= kept;
        for (var j = 0u; j < EACH; j++) {
            sum[j] *= kept;
        }
        let last = min(end - first, part + 64u);
        for (var i = part; i < last; i += 4u) {
            let base = call[table + (first + i) / 32u] * block_words + kv;
            let w = vec4(weights[i], weights[i + 1u], weights[i + 2u], weights[i + 3u]);
            total += w.x + w.y + w.z + w.w;
            // What is behind the last position has the weight 0, and may hold anything.
            let at = min(vec4(i, i + 1u, i + 2u, i + 3u), vec4(last - 1u)) % vec4(32u);
            for (var j = 0u; j < EACH; j++) {
                let d = lane % 64u + j * 64u;
                if d < P.dim {
                    sum[j] += dot(w, vec4(value_at(base, at.x, d), value_at(base, at.y, d),
                        value_at(base, at.z, d), value_at(base, at.w, d)));
                }
            }
        }
    }
    total = sum_of(lane, total);
    for (var j = 0u; j < EACH; j++) {
        let value = sum_of(lane, sum[j]);
        let d = lane + j * 64u;
        if here && lane < 64u && d < P.dim {
            out[(token * P.heads + head) * P.dim + d] = select(0.0, value / total, total > 0.0);
        }
    }
}
