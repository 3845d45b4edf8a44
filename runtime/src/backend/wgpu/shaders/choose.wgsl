// The choice that a gate makes for each token: a group for each.

struct Params {
    tokens: u32,
    cols: u32,
    // Of the gate.
    count: u32,
    first: u32,
    // 0: as it is, 1: -exp(2 x).
    transform: u32,
    // Where the charges and the forced choices lie in the call, and where the choices go.
    charges: u32,
    forced: u32,
    choices: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> call: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> gate: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> made: array<u32>;

var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat(group, groups);
    let token = min(index, P.tokens - 1u);
    var best = 0.0;
    var found = false;
    var choice = P.count - 1u;
    for (var k = 0u; k < P.count; k++) {
        var sum = 0.0;
        for (var c = lane; c < P.cols; c += LANES) {
            sum += x[token * P.cols + c] * gate[k * P.cols + c];
        }
        sums[lane] = sum;
        for (var step = LANES / 2u; step > 0u; step /= 2u) {
            workgroupBarrier();
            if lane < step {
                sums[lane] += sums[lane + step];
            }
        }
        workgroupBarrier();
        var gain = sums[0] + bias[k];
        if P.transform == 1u {
            gain = -exp(2.0 * gain);
        }
        let value = gain - bitcast<f32>(call[P.charges + k]);
        if !is_nan(value) && (!found || value > best) {
            best = value;
            found = true;
            choice = k;
        }
        workgroupBarrier();
    }
    if lane == 0u && index < P.tokens {
        let forced = call[P.forced + token];
        made[P.choices + token] = select(forced, P.first + choice, forced == 0xffffffffu);
    }
}
