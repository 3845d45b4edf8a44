// Softmax of rows, or its logarithm: a group for each row.

struct Params {
    rows: u32,
    cols: u32,
    logarithm: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

var<workgroup> parts: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat(group, groups);
    let start = min(row, P.rows - 1u) * P.cols;
    var most = x[start];
    for (var c = lane; c < P.cols; c += LANES) {
        most = max(most, x[start + c]);
    }
    parts[lane] = most;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            parts[lane] = max(parts[lane], parts[lane + step]);
        }
    }
    workgroupBarrier();
    most = parts[0];
    workgroupBarrier();
    var sum = 0.0;
    for (var c = lane; c < P.cols; c += LANES) {
        sum += exp(x[start + c] - most);
    }
    parts[lane] = sum;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            parts[lane] += parts[lane + step];
        }
    }
    workgroupBarrier();
    if row >= P.rows {
        return;
    }
    for (var c = lane; c < P.cols; c += LANES) {
        let v = x[start + c] - most;
        out[start + c] = select(exp(v) / parts[0], v - log(parts[0]), P.logarithm != 0u);
    }
}
