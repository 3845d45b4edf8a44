// A transposed convolution: an invocation for each output of a pixel.

struct Params {
    count: u32,
    cols: u32,
    blocks: u32,
    outputs: u32,
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
    bias: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn pixel(at: u32, col: u32) -> f32 {
    if col >= P.cols {
        return 0.0;
    }
    return x[at * P.cols + col];
}

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
    let image = place / P.across / P.down;
    var sum = 0.0;
    for (var tap = 0u; tap < P.kernel_y * P.kernel_x; tap++) {
        // Before the first numbers wrap around.
        let y = place / P.across % P.down + P.pad_y - tap / P.kernel_x * P.step_y;
        let at = place % P.across + P.pad_x - tap % P.kernel_x * P.step_x;
        if y % P.stride_y != 0u || at % P.stride_x != 0u {
            continue;
        }
        if y / P.stride_y >= P.height || at / P.stride_x >= P.width || y > 0x7fffffffu || at > 0x7fffffffu {
            continue;
        }
        let from_pixel = (image * P.height + y / P.stride_y) * P.width + at / P.stride_x;
        for (var unit = 0u; unit < P.blocks * 4u; unit++) {
            let pair = load(tap * P.outputs + output, unit / 4u, unit % 4u);
            let col = unit / 4u * 32u + unit % 4u * 4u;
            for (var e = 0u; e < 4u; e++) {
                sum += pair.lo[e] * pixel(from_pixel, col + e) + pair.hi[e] * pixel(from_pixel, col + 16u + e);
            }
        }
    }
    if P.bias != 0u {
        sum += bias[output];
    }
    out[i] = sum;
}
