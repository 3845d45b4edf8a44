// Attention of one head of one row over 256 positions at a time: a group for each head of a row, or for some of
// its positions. A lane scores a key, then sums four elements of the values of some positions.

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
    // Groups that share a row's positions: with more than one, `out` has what attend_parts.wgsl reads.
    parts: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> call: array<u32>;
@group(0) @binding(2) var<storage, read> queries: array<f32>;
@group(0) @binding(3) var<storage, read> cache: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const LOWEST: f32 = -3.0e38;
const LANES: u32 = 256u;
var<workgroup> query: array<vec4<f32>, MOST / 4u>;
var<workgroup> weights: array<f32, LANES>;
var<workgroup> sums: array<vec4<f32>, LANES>;
var<workgroup> totals: array<f32, LANES>;
// Where the blocks of a tile begin.
var<workgroup> bases: array<u32, LANES / 32u>;

// Adds four positions of the tile from `i` on, each `step` further; those from `last` on have the weight 0, and may
// hold anything.
fn add(sum: vec4<f32>, i: u32, step: u32, last: u32, four: u32) -> vec4<f32> {
    let at = min(vec4(i, i + step, i + 2u * step, i + 3u * step), vec4(last - 1u));
    let there = vec4(i, i + step, i + 2u * step, i + 3u * step) < vec4(last);
    let w = select(vec4(0.0), vec4(weights[at.x], weights[at.y], weights[at.z], weights[at.w]), there);
    let a = value_at(bases[at.x / 32u], at.x % 32u, four);
    let b = value_at(bases[at.y / 32u], at.y % 32u, four);
    let c = value_at(bases[at.z / 32u], at.z % 32u, four);
    let d = value_at(bases[at.w / 32u], at.w % 32u, four);
    return sum + (w.x * a + w.y * b) + (w.z * c + w.w * d);
}

@compute @workgroup_size(LANES)
fn main(at: Invocation) {
    let lane = at.lane;
    let index = flat(at.group, at.groups);
    let part = index % P.parts;
    let item = index / P.parts;
    let here = item < P.tokens * P.heads;
    let token = min(item / P.heads, P.tokens - 1u);
    let head = item % P.heads;
    let start_of = (token * P.heads + head) * P.dim;
    for (var i = lane; i < MOST / 4u; i += LANES) {
        var v = vec4(0.0);
        for (var e = 0u; e < 4u; e++) {
            if 4u * i + e < P.dim {
                v[e] = queries[start_of + 4u * i + e];
            }
        }
        query[i] = v;
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
    var first = start / LANES * LANES;
    if P.parts > 1u {
        // Whole tiles for each part.
        let tiles = (end - first + LANES - 1u) / LANES;
        let share = (tiles + P.parts - 1u) / P.parts * LANES;
        first = min(first + part * share, end);
        end = min(end, first + share);
    }
    let kv = head / (P.heads / P.kv_heads) * P.head_words;
    let block_words = P.kv_heads * P.head_words;
    // Lanes that have a row of values together, and how many rows there are at a time.
    let fours = P.padded / 4u;
    let step = LANES / fours;
    let mine = lane / fours;
    let four = lane % fours;
    var most = LOWEST;
    var total = 0.0;
    var sum = vec4(0.0);
    for (; first < end; first += LANES) {
        workgroupBarrier();
        let count = min(end - first, LANES);
        if lane * 32u < count {
            bases[lane] = call[table + first / 32u + lane] * block_words + kv;
        }
        workgroupBarrier();
        let there = first + lane >= start && lane < count;
        var score = LOWEST;
        if there {
            score = key_dot(bases[lane / 32u], lane % 32u) * P.scale;
            if P.softcap > 0.0 {
                score = P.softcap * bounded_tanh(score / P.softcap);
            }
        }
        let highest = max(most, largest_of_group(at, score));
        let weight = select(0.0, exp(score - highest), there);
        weights[lane] = weight;
        let kept = exp(most - highest);
        most = highest;
        total = total * kept + weight;
        sum *= kept;
        workgroupBarrier();
        if mine < step {
            for (var i = mine; i < count; i += 8u * step) {
                sum = add(sum, i, step, count, four);
                sum = add(sum, i + 4u * step, step, count, four);
            }
        }
    }
    total = sum_of_group(at, total);
    sums[lane] = sum;
    workgroupBarrier();
    if lane >= fours || !here {
        return;
    }
    var value = vec4(0.0);
    for (var i = 0u; i < step; i++) {
        value += sums[i * fours + lane];
    }
    if P.parts > 1u {
        let to = index * (P.padded + 4u);
        for (var e = 0u; e < 4u; e++) {
            out[to + 4u * lane + e] = value[e];
        }
        if lane == 0u {
            out[to + P.padded] = most;
            out[to + P.padded + 1u] = total;
        }
        return;
    }
    for (var e = 0u; e < 4u; e++) {
        if 4u * lane + e < P.dim {
            out[start_of + 4u * lane + e] = select(0.0, value[e] / total, total > 0.0);
        }
    }
}
