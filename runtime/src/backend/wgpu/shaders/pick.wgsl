// Of each row of logits the sum of exp(logit - largest), and the largest in turn, each with its id: of equals the
// lowest id comes first, and NaN is larger than all. A group for each row. An id of NONE stands where there is no
// other logit; all ids are NONE where more than ROOM logits are at or before the bound.

struct Params {
    rows: u32,
    cols: u32,
    // Logits to find, at most LANES.
    count: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read_write> picked: array<u32>;

const LANES: u32 = 256u;
const ROOM: u32 = 1024u;
const NONE: u32 = 0xffffffffu;

// Of each lane the largest that it meets: its place in the order of floats, and its id.
var<workgroup> best: array<vec2<u32>, LANES>;
var<workgroup> largest: u32;
// Of what lanes met, the last of as many as are wanted: no logit that is wanted is behind it.
var<workgroup> bound: vec2<u32>;
var<workgroup> kept: array<vec2<u32>, ROOM>;
var<workgroup> found: atomic<u32>;
var<workgroup> sums: array<f32, LANES>;

// Numbers in the order of floats, above 0.
fn order(bits: u32) -> u32 {
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return 0xffffffffu;
    }
    if bits == 0x80000000u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

fn before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat(group, groups);
    let start = min(index, P.rows - 1u) * P.cols;
    // A lane that meets none is behind all others.
    var mine = vec2(0u, 0x80000000u | lane);
    for (var i = lane; i < P.cols; i += LANES) {
        let key = order(logits[start + i]);
        if key > mine.x {
            mine = vec2(key, i);
        }
    }
    best[lane] = mine;
    if lane == 0u {
        atomicStore(&found, 0u);
    }
    workgroupBarrier();
    var rank = 0u;
    for (var i = 0u; i < LANES; i += 1u) {
        rank += u32(before(best[i], mine));
    }
    if rank == 0u {
        largest = mine.y;
    }
    if rank == P.count - 1u {
        bound = mine;
    }
    workgroupBarrier();
    let top = bitcast<f32>(logits[start + largest]);
    let last = bound;
    var sum = 0.0;
    for (var i = lane; i < P.cols; i += LANES) {
        let bits = logits[start + i];
        sum += exp(max(bitcast<f32>(bits) - top, -87.0));
        let item = vec2(order(bits), i);
        if !before(last, item) {
            let at = atomicAdd(&found, 1u);
            if at < ROOM {
                kept[at] = item;
            }
        }
    }
    sums[lane] = sum;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            sums[lane] += sums[lane + step];
        }
    }
    if index >= P.rows {
        return;
    }
    let row = index * (2u * P.count + 1u);
    if lane == 0u {
        picked[row] = bitcast<u32>(sums[0]);
    }
    var count = atomicLoad(&found);
    if count > ROOM {
        count = 0u;
    }
    for (var slot = count + lane; slot < P.count; slot += LANES) {
        picked[row + 1u + 2u * slot] = NONE;
        picked[row + 2u + 2u * slot] = 0u;
    }
    for (var i = lane; i < count; i += LANES) {
        let item = kept[i];
        var slot = 0u;
        for (var j = 0u; j < count; j += 1u) {
            slot += u32(before(kept[j], item));
        }
        if slot < P.count {
            picked[row + 1u + 2u * slot] = item.y;
            picked[row + 2u + 2u * slot] = logits[start + item.y];
        }
    }
}
