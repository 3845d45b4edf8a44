// Products of matrices: a group for 16 by 16 elements of one.

struct Params {
    m: u32,
    k: u32,
    n: u32,
    transposed: u32,
    scale: f32,
    matrices: u32,
    unused: vec2<u32>,
    sizes: array<vec4<u32>, 2>,
    a_steps: array<vec4<i32>, 2>,
    b_steps: array<vec4<i32>, 2>,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> left: array<f32, 256>;
var<workgroup> right: array<f32, 272>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let down = (P.m + 15u) / 16u;
    let across = (P.n + 15u) / 16u;
    let index = flat(group, groups);
    let matrix = min(index / (down * across), P.matrices - 1u);
    let top = index / across % down * 16u;
    let first = index % across * 16u;
    let i = lane / 16u;
    let j = lane % 16u;
    let a_start = u32(offset(matrix, P.sizes, P.a_steps));
    let b_start = u32(offset(matrix, P.sizes, P.b_steps));
    var sum = 0.0;
    for (var start = 0u; start < P.k; start += 16u) {
        var x = 0.0;
        if top + i < P.m && start + j < P.k {
            x = a[a_start + (top + i) * P.k + start + j];
        }
        left[i * 16u + j] = x;
        var y = 0.0;
        if P.transposed != 0u {
            if first + i < P.n && start + j < P.k {
                y = b[b_start + (first + i) * P.k + start + j];
            }
            right[j * 17u + i] = y;
        } else {
            if start + i < P.k && first + j < P.n {
                y = b[b_start + (start + i) * P.n + first + j];
            }
            right[i * 17u + j] = y;
        }
        workgroupBarrier();
        for (var l = 0u; l < 16u; l++) {
            sum += left[i * 16u + l] * right[l * 17u + j];
        }
        workgroupBarrier();
    }
    if index < P.matrices * down * across && top + i < P.m && first + j < P.n {
        out[(matrix * P.m + top + i) * P.n + first + j] = sum * P.scale;
    }
}
