// One part of a weighted sum: the first begins it, with the residual, the others add to it.

struct Params {
    count: u32,
    cols: u32,
    parts: u32,
    part: u32,
    // 0: sigmoid, 1: softmax.
    rule: u32,
    residual: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
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
    let start = i / P.cols * P.parts;
    var weight = sigmoid(logits[start + P.part]);
    if P.rule == 1u {
        var largest = logits[start];
        for (var p = 1u; p < P.parts; p++) {
            largest = max(largest, logits[start + p]);
        }
        var sum = 0.0;
        for (var p = 0u; p < P.parts; p++) {
            sum += exp(logits[start + p] - largest);
        }
        weight = exp(logits[start + P.part] - largest) / sum;
    }
    var y = weight * x[i];
    if P.part > 0u {
        y += out[i];
    } else if P.residual != 0u {
        y += residual[i];
    }
    out[i] = y;
}
