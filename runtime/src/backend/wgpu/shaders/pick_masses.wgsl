// Of a slice of a row of logits: the sum of exp((logit - largest) / temperature), which goes behind the row's list, and
// for each logit of the list that is in the slice the sum over those before it, which go behind the sums of the slices.
// A group for each slice.

struct Params {
    rows: u32,
    cols: u32,
    // Logits of a list.
    count: u32,
    slices: u32,
    // Words of what is found of a row.
    size: u32,
    // Where the temperature lies in the call.
    temperature: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> call: array<u32>;
@group(0) @binding(3) var<storage, read_write> found: array<u32>;

const LANES: u32 = 256u;
const SLICE: u32 = 1024u;
// Logits of a lane, one after the other.
const EACH: u32 = SLICE / LANES;

// Of each lane the sum, then that of it and of those before it.
var<workgroup> sums: array<f32, LANES>;
// Of each logit the sum over those before it that its lane has.
var<workgroup> before: array<f32, SLICE>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat(group, groups);
    let row = min(index / P.slices, P.rows - 1u);
    let slice = index % P.slices;
    let first = slice * SLICE;
    let list = row * P.size + 1u;
    let largest = bitcast<f32>(found[list + 1u]);
    let temperature = bitcast<f32>(call[P.temperature]);
    var own = 0.0;
    for (var i = 0u; i < EACH; i++) {
        let at = EACH * lane + i;
        before[at] = own;
        if first + at < P.cols {
            let difference = logits[row * P.cols + first + at] - largest;
            own += exp(max(difference, -87.0 * temperature) / temperature);
        }
    }
    sums[lane] = own;
    for (var step = 1u; step < LANES; step *= 2u) {
        workgroupBarrier();
        let other = select(0.0, sums[max(lane, step) - step], lane >= step);
        workgroupBarrier();
        sums[lane] += other;
    }
    workgroupBarrier();
    if index >= P.rows * P.slices {
        return;
    }
    let masses = list + 2u * P.count;
    if lane == 0u {
        found[masses + slice] = bitcast<u32>(sums[LANES - 1u]);
    }
    for (var i = lane; i < P.count; i += LANES) {
        let id = found[list + 2u * i];
        if id >= first && id - first < SLICE {
            let at = id - first;
            let others = at / EACH;
            let sum = select(0.0, sums[max(others, 1u) - 1u], others > 0u);
            found[masses + P.slices + i] = bitcast<u32>(sum + before[at]);
        }
    }
}
