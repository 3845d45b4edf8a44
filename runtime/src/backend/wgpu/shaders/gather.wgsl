// Words by indices that are computed: where they lie is steps along axes, but for one axis, where an index says
// which. Negative indices count from the end; one that does not exist gives 0 and is reported.

struct Params {
    count: u32,
    // Elements along the axis that is indexed, and words from one to the next.
    along: u32,
    stride: u32,
    // The number of the step, and where it is reported.
    step: u32,
    fault: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
    sizes: array<vec4<u32>, 2>,
    x_steps: array<vec4<i32>, 2>,
    index_steps: array<vec4<i32>, 2>,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;
@group(0) @binding(4) var<storage, read_write> made: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat(group, groups) * 64u + lane;
    if i >= P.count {
        return;
    }
    let given = bitcast<i32>(indices[u32(offset(i, P.sizes, P.index_steps))]);
    // One that is negative still after this is beyond all elements as an unsigned number.
    let index = bitcast<u32>(select(given, given + i32(P.along), given < 0));
    if index >= P.along {
        report(bitcast<u32>(given));
        out[i] = 0u;
        return;
    }
    out[i] = x[u32(offset(i, P.sizes, P.x_steps)) + index * P.stride];
}
