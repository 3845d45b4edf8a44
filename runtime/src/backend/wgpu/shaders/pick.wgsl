// Of each row of logits the lowest id with the largest, that logit, and the sum of exp(logit - largest): a group
// for each row, three words. NaN is larger than all.

struct Params {
    rows: u32,
    cols: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> picked: array<u32>;

const LANES: u32 = 256u;
var<workgroup> keys: array<u32, LANES>;
var<workgroup> ids: array<u32, LANES>;
var<workgroup> sums: array<f32, LANES>;

// Numbers in the order of floats.
fn order(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return 0xffffffffu;
    }
    if bits == 0x80000000u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat(group, groups);
    let start = min(index, P.rows - 1u) * P.cols;
    var key = 0u;
    var id = 0u;
    for (var i = lane; i < P.cols; i += LANES) {
        let found = order(logits[start + i]);
        if found > key {
            key = found;
            id = i;
        }
    }
    keys[lane] = key;
    ids[lane] = id;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            let other = keys[lane + step];
            if other > keys[lane] || (other == keys[lane] && ids[lane + step] < ids[lane]) {
                keys[lane] = other;
                ids[lane] = ids[lane + step];
            }
        }
    }
    workgroupBarrier();
    let largest = logits[start + ids[0]];
    var sum = 0.0;
    for (var i = lane; i < P.cols; i += LANES) {
        sum += exp(max(logits[start + i] - largest, -87.0));
    }
    sums[lane] = sum;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            sums[lane] += sums[lane + step];
        }
    }
    if lane == 0u && index < P.rows {
        picked[3u * index] = ids[0];
        picked[3u * index + 1u] = bitcast<u32>(largest);
        picked[3u * index + 2u] = bitcast<u32>(sums[0]);
    }
}
