// Each sequence's rows to one: a group for each sequence.

struct Params {
    sequences: u32,
    cols: u32,
    // 0: mean, 1: first, 2: last.
    rule: u32,
    normalise: u32,
    // Where first rows and counts lie in the call; with `each`, every sequence has so many rows.
    names: u32,
    each: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> call: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let sequence = flat(group, groups);
    let here = sequence < P.sequences;
    var first = sequence * P.each;
    var count = P.each;
    if P.each == 0u && here {
        first = call[P.names + 2u * sequence];
        count = call[P.names + 2u * sequence + 1u];
    }
    let cols = select(0u, P.cols, here);
    var squares = 0.0;
    for (var c = lane; c < cols; c += LANES) {
        var y = 0.0;
        switch P.rule {
            case 0u: {
                for (var r = 0u; r < count; r++) {
                    y += x[(first + r) * P.cols + c];
                }
                y /= f32(count);
            }
            case 1u: { y = x[first * P.cols + c]; }
            default: { y = x[(first + count - 1u) * P.cols + c]; }
        }
        squares += y * y;
        out[sequence * P.cols + c] = y;
    }
    if P.normalise == 0u {
        return;
    }
    sums[lane] = squares;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            sums[lane] += sums[lane + step];
        }
    }
    workgroupBarrier();
    let length = max(sqrt(sums[0]), 1e-12);
    for (var c = lane; c < cols; c += LANES) {
        out[sequence * P.cols + c] /= length;
    }
}
