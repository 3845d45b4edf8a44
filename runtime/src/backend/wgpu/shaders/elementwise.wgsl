// Elementwise ops of one or two operands.

struct Params {
    count: u32,
    // 0: a + b, 1: activate(a), 2: activate(a) b, 3: cap tanh(a / cap).
    what: u32,
    activation: u32,
    cap: f32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

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
    let value = a[i];
    switch P.what {
        case 0u: { out[i] = value + b[i]; }
        case 1u: { out[i] = activate(P.activation, value); }
        case 2u: { out[i] = activate(P.activation, value) * b[i]; }
        default: { out[i] = P.cap * bounded_tanh(value / P.cap); }
    }
}
