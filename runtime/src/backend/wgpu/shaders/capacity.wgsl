// Takes away the experts that have no room: rank by rank, token by token, one expert an invocation.

struct Params {
    tokens: u32,
    experts: u32,
    top_k: u32,
    room: u32,
    // Where the experts' marks go.
    marks: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read_write> routes: array<u32>;
@group(0) @binding(2) var<storage, read_write> made: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let expert = flat(group, groups) * 64u + lane;
    if expert >= P.experts {
        return;
    }
    var load = 0u;
    for (var rank = 0u; rank < P.top_k; rank++) {
        for (var token = 0u; token < P.tokens; token++) {
            let at = 2u * (token * P.top_k + rank);
            if routes[at] == expert {
                load += 1u;
                if load > P.room {
                    routes[at] = 0xffffffffu;
                }
            }
        }
    }
    made[P.marks + expert] = select(0u, 1u, min(load, P.room) > 0u);
}
