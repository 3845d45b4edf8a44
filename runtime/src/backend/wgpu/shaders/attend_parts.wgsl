// Puts together what groups of attend.wgsl found of their parts of a row's positions: a group for each head of a
// row.

struct Params {
    items: u32,
    dim: u32,
    padded: u32,
    parts: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> found: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = flat(group, groups);
    if item >= P.items {
        return;
    }
    let size = P.padded + 4u;
    let start = item * P.parts * size;
    var most = found[start + P.padded];
    for (var i = 1u; i < P.parts; i++) {
        most = max(most, found[start + i * size + P.padded]);
    }
    for (var d = lane; d < P.dim; d += LANES) {
        var total = 0.0;
        var sum = 0.0;
        for (var i = 0u; i < P.parts; i++) {
            let at = start + i * size;
            let kept = exp(found[at + P.padded] - most);
            total += kept * found[at + P.padded + 1u];
            sum += kept * found[at + d];
        }
        out[item * P.dim + d] = select(0.0, sum / total, total > 0.0);
    }
}
