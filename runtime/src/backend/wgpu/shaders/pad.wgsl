// A tensor with elements added at the ends of its axes.

struct Params {
    count: u32,
    // 0: a value, 1: the nearest element, 2: mirrored, 3: from the other end.
    rule: u32,
    value: u32,
    unused: u32,
    sizes: array<vec4<u32>, 2>,
    inner: array<vec4<u32>, 2>,
    before: array<vec4<u32>, 2>,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

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
    var rest = i;
    var at = 0u;
    var stride = 1u;
    for (var k = 0u; k < 8u; k++) {
        let axis = 7u - k;
        let size = select(P.sizes[1][axis % 4u], P.sizes[0][axis % 4u], axis < 4u);
        let inner = i32(select(P.inner[1][axis % 4u], P.inner[0][axis % 4u], axis < 4u));
        let before = i32(select(P.before[1][axis % 4u], P.before[0][axis % 4u], axis < 4u));
        var c = i32(rest % size) - before;
        rest /= size;
        if c < 0 || c >= inner {
            switch P.rule {
                case 0u: {
                    out[i] = P.value;
                    return;
                }
                case 1u: { c = clamp(c, 0, inner - 1); }
                case 2u: {
                    let period = max(2 * (inner - 1), 1);
                    c = ((c % period) + period) % period;
                    c = min(c, period - c);
                }
                default: { c = ((c % inner) + inner) % inner; }
            }
        }
        at += u32(c) * stride;
        stride *= u32(inner);
    }
    out[i] = x[at];
}
