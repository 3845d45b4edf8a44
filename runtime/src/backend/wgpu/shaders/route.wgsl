// The experts of each token in the order of their ranks, and how many of them it keeps: an invocation for each
// token. Two words for each token and rank: the expert, or all ones where none is kept, and exp(logit -
// largest); then, for each token, the sum of those of all experts.

struct Params {
    tokens: u32,
    experts: u32,
    top_k: u32,
    // Where the charge and the forced choices lie in the call, where the choices go, and the experts' marks.
    charge: u32,
    forced: u32,
    choices: u32,
    marks: u32,
    // Whether marks are left to capacity.wgsl.
    later: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> call: array<u32>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> routes: array<u32>;
@group(0) @binding(4) var<storage, read_write> made: array<atomic<u32>>;

// Of a logit: NaN is below all.
fn key_of(logit: f32) -> u32 {
    return select(order(bitcast<u32>(logit)), 0u, is_nan(logit));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let token = flat(group, groups) * 64u + lane;
    if token >= P.tokens {
        return;
    }
    let start = token * P.experts;
    var largest = logits[start];
    var any_nan = false;
    for (var e = 0u; e < P.experts; e++) {
        let logit = logits[start + e];
        if key_of(logit) > key_of(largest) {
            largest = logit;
        }
        any_nan = any_nan || key_of(logit) == 0u;
    }
    var sum = 0.0;
    for (var e = 0u; e < P.experts; e++) {
        sum += exp(logits[start + e] - largest);
    }
    let forced = call[P.forced + token];
    let charge = bitcast<f32>(call[P.charge]);
    var kept = 0u;
    var stays = true;
    // Of the rank before: the order of its logit, and its expert.
    var last = 0xffffffffu;
    var before = 0u;
    for (var rank = 0u; rank < P.top_k; rank++) {
        var best = 0u;
        var expert = 0xffffffffu;
        for (var e = 0u; e < P.experts; e++) {
            let key = key_of(logits[start + e]);
            let free = rank == 0u || key < last || (key == last && e > before);
            if free && (expert == 0xffffffffu || key > best) {
                best = key;
                expert = e;
            }
        }
        last = best;
        before = expert;
        let part = exp(logits[start + expert] - largest);
        stays = stays && (rank == 0u || any_nan || part >= charge);
        var keep = stays;
        if forced != 0xffffffffu {
            keep = rank < forced;
        }
        let at = 2u * (token * P.top_k + rank);
        routes[at] = select(0xffffffffu, expert, keep);
        routes[at + 1u] = bitcast<u32>(part);
        if keep {
            kept += 1u;
            if P.later == 0u {
                atomicStore(&made[P.marks + expert], 1u);
            }
        }
    }
    routes[2u * P.tokens * P.top_k + token] = bitcast<u32>(sum);
    atomicStore(&made[P.choices + token], kept);
}
