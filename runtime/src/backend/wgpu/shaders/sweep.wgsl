// Reads memory once: a group has RUN pieces of a vector for each lane, and writes what keeps them read.

const LANES: u32 = 256u;
const RUN: u32 = 16u;

struct Params {
    // Vectors of four words.
    count: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let start = flat(group, groups) * LANES * RUN + lane;
    var seen = vec4(0u);
    for (var i = 0u; i < RUN; i++) {
        seen |= words[min(start + i * LANES, P.count - 1u)];
    }
    // Never so: the memory is 0.
    if any(seen != vec4(0u)) {
        out[0] = seen.x;
    }
}
