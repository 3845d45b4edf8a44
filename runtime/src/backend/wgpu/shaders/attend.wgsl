// Attention of one head of one row over 64 positions at a time: a group for each head of a row.

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
// Elements of a head that a lane has.
const EACH: u32 = MOST / LANES;
var<workgroup> query: array<f32, MOST>;
var<workgroup> scores: array<f32, LANES>;
var<workgroup> weights: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat(group, groups);
    let here = index < P.tokens * P.heads;
    let token = min(index / P.heads, P.tokens - 1u);
    let head = index % P.heads;
    for (var d = lane; d < MOST; d += LANES) {
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
    var most = LOWEST;
    var total = 0.0;
    var sum: array<f32, EACH>;
    for (var first = start / LANES * LANES; first < end; first += LANES) {
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
        scores[lane] = score;
        workgroupBarrier();
        var highest = most;
        for (var i = 0u; i < LANES; i++) {
            highest = max(highest, scores[i]);
        }
        let weight = exp(score - highest);
        weights[lane] = select(0.0, weight, key >= start && key < end);
        workgroupBarrier();
        let kept = exp(most - highest);
        most = highest;
        total *= kept;
        for (var j = 0u; j < EACH; j++) {
            sum[j] *= kept;
        }
        let count = min(LANES, end - first);
        for (var i = 0u; i < count; i++) {
            let weight = weights[i];
            total += weight;
            let base = call[table + (first + i) / 32u] * block_words + kv;
            let position = i % 32u;
            for (var j = 0u; j < EACH; j++) {
                let d = lane + j * LANES;
                if d < P.dim {
                    sum[j] += weight * value_at(base, position, d);
                }
            }
        }
    }
    if here {
        for (var j = 0u; j < EACH; j++) {
            let d = lane + j * LANES;
            if d < P.dim {
                out[(token * P.heads + head) * P.dim + d] = select(0.0, sum[j] / total, total > 0.0);
            }
        }
    }
}
