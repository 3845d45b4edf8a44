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
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

// A place of the result and what its group of channels sees: the image, the window's first pixel, which may wrap
// around, and the group's first channel.
struct Place {
    image: u32,
    top: u32,
    left: u32,
    channel: u32,
}

// Four columns of what a place sees.
fn seen(place: Place, col: u32) -> vec4<f32> {
    let each = P.channels / P.groups;
    var values = vec4(0.0);
    for (var i = 0u; i < 4u; i++) {
        let tap = (col + i) / each;
        let y = place.top + tap / P.kernel_x * P.step_y;
        let at = place.left + tap % P.kernel_x * P.step_x;
        if col + i < P.cols && y < P.height && at < P.width {
            let pixel = ((place.image * P.height + y) * P.width + at) * P.channels;
            values[i] = x[pixel + place.channel + (col + i) % each];
        }
    }
    return values;
}

// The same in 8 bits, in a block of this largest magnitude, where the weight is quantised.
fn taken(place: Place, col: u32, largest: u32) -> vec4<f32> {
    let values = seen(place, col);
    if !ROUNDED {
        return values;
    }
    return step_of(largest) * bytes_of(rounded(values, largest));
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
    let p = i / P.outputs;
    let place = Place(
        p / (P.down * P.across),
        p / P.across % P.down * P.stride_y - P.pad_y,
        p % P.across * P.stride_x - P.pad_x,
        output / (P.outputs / P.groups) * (P.channels / P.groups),
    );
    var sum = 0.0;
    for (var first = 0u; first < P.blocks; first += WORDS / 8u) {
        var largest = 0u;
        for (var word = 0u; ROUNDED && word < WORDS; word++) {
            largest = max(largest, magnitude(seen(place, first * 32u + word * 4u)));
        }
        for (var unit = 0u; unit < WORDS / 2u; unit++) {
            let pair = load(output, first + unit / 4u, unit % 4u);
            let col = (first + unit / 4u) * 32u + unit % 4u * 4u;
            sum += dot(pair.lo, taken(place, col, largest));
            sum += dot(pair.hi, taken(place, col + 16u, largest));
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
