// A norm over groups of channels at all positions of an image: a group of lanes for each.

struct Params {
    images: u32,
    positions: u32,
    channels: u32,
    groups: u32,
    eps: f32,
    bias: u32,
    activation: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const LANES: u32 = 128u;
var<workgroup> parts: array<f32, LANES>;

fn total(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    parts[lane] = value;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            parts[lane] += parts[lane + step];
        }
    }
    workgroupBarrier();
    return parts[0];
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat(group, groups);
    let each = P.channels / P.groups;
    let first = index % P.groups * each;
    let start = index / P.groups * P.positions * P.channels + first;
    let count = select(0u, P.positions * each, index < P.images * P.groups);
    var sum = 0.0;
    for (var i = lane; i < count; i += LANES) {
        sum += x[start + i / each * P.channels + i % each];
    }
    let mean = total(lane, sum) / f32(P.positions * each);
    var squares = 0.0;
    for (var i = lane; i < count; i += LANES) {
        let d = x[start + i / each * P.channels + i % each] - mean;
        squares += d * d;
    }
    let root = sqrt(total(lane, squares) / f32(P.positions * each) + P.eps);
    for (var i = lane; i < count; i += LANES) {
        let at = start + i / each * P.channels + i % each;
        var y = (x[at] - mean) / root * weight[first + i % each];
        if P.bias != 0u {
            y += bias[first + i % each];
        }
        out[at] = activate(P.activation, y);
    }
}
