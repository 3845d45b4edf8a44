// A convolution in groups: an invocation for each output of a place.

struct Params {
    count: u32,
    // Of the weight, and blocks of 32 of them.
    cols: u32,
    blocks: u32,
    outputs: u32,
    groups: u32,
    activation: u32,
    // 1: bias, 2: residual.
    flags: u32,
    channels: u32,
    height: u32,
    width: u32,
    down: u32,
    across: u32,
    kernel_y: u32,
    kernel_x: u32,
    stride_y: u32,
    stride_x: u32,
    pad_y: u32,
    pad_x: u32,
    step_y: u32,
    step_x: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

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
    let output = i % P.outputs;
    let place = i / P.outputs;
    let image = place / (P.down * P.across);
    let each = P.channels / P.groups;
    let first = output / (P.outputs / P.groups) * each;
    let top = place / P.across % P.down * P.stride_y - P.pad_y;
    let left = place % P.across * P.stride_x - P.pad_x;
    var sum = 0.0;
    for (var unit = 0u; unit < P.blocks * 4u; unit++) {
        let pair = load(output, unit / 4u, unit % 4u);
        for (var e = 0u; e < 8u; e++) {
            let col = unit / 4u * 32u + unit % 4u * 4u + e / 4u * 16u + e % 4u;
            let tap = col / each;
            let y = top + tap / P.kernel_x * P.step_y;
            let at = left + tap % P.kernel_x * P.step_x;
            // Above and at the left numbers wrap around.
            if col < P.cols && y < P.height && at < P.width {
                let pixel = ((image * P.height + y) * P.width + at) * P.channels;
                sum += select(pair.hi[e % 4u], pair.lo[e % 4u], e < 4u) * x[pixel + first + col % each];
            }
        }
    }
    if (P.flags & 1u) != 0u {
        sum += bias[output];
    }
    if (P.flags & 2u) != 0u {
        sum += residual[i];
    }
    out[i] = activate(P.activation, sum);
}
