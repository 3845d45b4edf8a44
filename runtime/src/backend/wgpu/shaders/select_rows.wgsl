// Rows that the call names.

struct Params {
    rows: u32,
    cols: u32,
    // Where their numbers lie in the call.
    names: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> call: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat(group, groups) * 64u + lane;
    let row = i / P.cols;
    if row < P.rows {
        out[i] = x[call[P.names + row] * P.cols + i % P.cols];
    }
}
