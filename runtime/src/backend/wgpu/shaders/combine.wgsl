// The weighted sum of what a token's experts give, in the order of their ranks.

struct Params {
    tokens: u32,
    cols: u32,
    top_k: u32,
    // 0: weights are shares of what is kept, 1: of all experts.
    rule: u32,
    residual: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> routes: array<u32>;
@group(0) @binding(2) var<storage, read> parts: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat(group, groups) * 64u + lane;
    let token = i / P.cols;
    if token >= P.tokens {
        return;
    }
    var kept = 0.0;
    for (var rank = 0u; rank < P.top_k; rank++) {
        let at = 2u * (token * P.top_k + rank);
        if routes[at] != 0xffffffffu {
            kept += bitcast<f32>(routes[at + 1u]);
        }
    }
    if P.rule == 1u {
        kept = bitcast<f32>(routes[2u * P.tokens * P.top_k + token]);
    }
    var y = 0.0;
    for (var rank = 0u; rank < P.top_k; rank++) {
        let pair = token * P.top_k + rank;
        if routes[2u * pair] != 0xffffffffu {
            y += bitcast<f32>(routes[2u * pair + 1u]) / kept * parts[pair * P.cols + i % P.cols];
        }
    }
    if P.residual != 0u {
        y += residual[i];
    }
    out[i] = y;
}
