// Ops over windows of images but dense convolutions: an invocation for each channel of a place.

struct Params {
    count: u32,
    // 0: depthwise convolution, 1: the largest, 2: the mean.
    what: u32,
    activation: u32,
    // 1: bias, 2: what lies outside counts.
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
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

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
    let channel = i % P.channels;
    let place = i / P.channels;
    let image = place / (P.down * P.across);
    let top = place / P.across % P.down * P.stride_y - P.pad_y;
    let left = place % P.across * P.stride_x - P.pad_x;
    var sum = 0.0;
    var largest = bitcast<f32>(select(0xff800000u, 0u, P.channels == 0u));
    var seen = 0u;
    for (var tap = 0u; tap < P.kernel_y * P.kernel_x; tap++) {
        let y = top + tap / P.kernel_x * P.step_y;
        let at = left + tap % P.kernel_x * P.step_x;
        // Above and at the left numbers wrap around.
        if y < P.height && at < P.width {
            let value = x[((image * P.height + y) * P.width + at) * P.channels + channel];
            seen += 1u;
            if P.what == 0u {
                sum += value * weight[tap * P.channels + channel];
            } else {
                sum += value;
                if value > largest || is_nan(value) {
                    largest = value;
                }
            }
        }
    }
    switch P.what {
        case 0u: {
            if (P.flags & 1u) != 0u {
                sum += bias[channel];
            }
            out[i] = activate(P.activation, sum);
        }
        case 1u: { out[i] = largest; }
        default: {
            let count = select(seen, P.kernel_y * P.kernel_x, (P.flags & 2u) != 0u);
            out[i] = sum / f32(count);
        }
    }
}
