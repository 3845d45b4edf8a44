// Rows with zeros in the place of channels that are small beside the threshold of the row's choice; the others
// are counted.

struct Params {
    count: u32,
    cols: u32,
    // Where the choices lie in the call, and where the count goes.
    choices: u32,
    kept: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> call: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> channels: array<f32>;
@group(0) @binding(4) var<storage, read> thresholds: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> made: array<atomic<u32>>;

var<workgroup> total: atomic<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if lane == 0u {
        atomicStore(&total, 0u);
    }
    workgroupBarrier();
    let i = flat(group, groups) * 64u + lane;
    if i < P.count {
        let threshold = thresholds[call[P.choices + i / P.cols]];
        let value = x[i];
        let small = threshold > 0.0 && abs(value) * channels[i % P.cols] < threshold;
        out[i] = select(value, 0.0, small);
        if !small {
            atomicAdd(&total, 1u);
        }
    }
    workgroupBarrier();
    if lane == 0u {
        atomicAdd(&made[P.kept], atomicLoad(&total));
    }
}
