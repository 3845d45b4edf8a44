// A norm: a group for each row.

struct Params {
    rows: u32,
    cols: u32,
    eps: f32,
    // 1: around the mean, 2: bias.
    flags: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const LANES: u32 = 256u;

@compute @workgroup_size(LANES)
fn main(at: Invocation) {
    let lane = at.lane;
    let row = flat(at.group, at.groups);
    let start = row * P.cols;
    let here = row < P.rows;
    let cols = select(0u, P.cols, here);
    var mean = 0.0;
    if (P.flags & 1u) != 0u {
        var sum = 0.0;
        for (var i = lane; i < cols; i += LANES) {
            sum += x[start + i];
        }
        mean = sum_of_group(at, sum) / f32(P.cols);
    }
    var squares = 0.0;
    for (var i = lane; i < cols; i += LANES) {
        let d = x[start + i] - mean;
        squares += d * d;
    }
    let root = sqrt(sum_of_group(at, squares) / f32(P.cols) + P.eps);
    for (var i = lane; i < cols; i += LANES) {
        var y = (x[start + i] - mean) / root * weight[i];
        if (P.flags & 2u) != 0u {
            y += bias[i];
        }
        out[start + i] = y;
    }
}
