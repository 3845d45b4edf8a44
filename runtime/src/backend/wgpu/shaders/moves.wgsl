// Words from some places to others, which both are steps along axes.

struct Params {
    count: u32,
    from_start: u32,
    to_start: u32,
    unused: u32,
    sizes: array<vec4<u32>, 2>,
    from_steps: array<vec4<i32>, 2>,
    to_steps: array<vec4<i32>, 2>,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

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
    let source = i32(P.from_start) + offset(i, P.sizes, P.from_steps);
    let target_at = i32(P.to_start) + offset(i, P.sizes, P.to_steps);
    out[u32(target_at)] = x[u32(source)];
}
