// The largest of some logits in turn, each with its id: of equals the lowest id comes first, and NaN is larger than
// all. `pick_slice.wgsl` has those of a slice of a row, `pick_row.wgsl` those of all slices' lists; `pick_masses.wgsl`
// adds masses to these.

struct Params {
    rows: u32,
    cols: u32,
    // Logits to find, at most LANES.
    count: u32,
    slices: u32,
    // Words of what is found of a row.
    size: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> given: array<u32>;
@group(0) @binding(2) var<storage, read_write> found: array<u32>;

const LANES: u32 = 256u;
// Logits of a slice, and room for those that may be among the largest.
const ROOM: u32 = 1024u;
// The id that stands where there is no other logit.
const NONE: u32 = 0xffffffffu;

// Of each lane the largest that it meets: its place in the order of floats, and its id.
var<workgroup> best: array<vec2<u32>, LANES>;
// Of what lanes met, the last of as many as are wanted: no logit that is wanted is behind it.
var<workgroup> bound: vec2<u32>;
var<workgroup> largest: vec2<u32>;
// What is at or before the bound, with the logits.
var<workgroup> kept: array<vec2<u32>, ROOM>;
var<workgroup> logits: array<u32, ROOM>;
var<workgroup> met: atomic<u32>;

// What a lane has met if it has met nothing: behind all others.
fn nothing(lane: u32) -> vec2<u32> {
    return vec2(0u, 0x80000000u | lane);
}

fn before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

// From what each lane has met, `largest` and `bound`.
fn find_bound(lane: u32, mine: vec2<u32>) {
    best[lane] = mine;
    if lane == 0u {
        atomicStore(&met, 0u);
    }
    workgroupBarrier();
    if P.count > 1u {
        var rank = 0u;
        for (var i = 0u; i < LANES; i++) {
            rank += u32(before(best[i], mine));
        }
        if rank == P.count - 1u {
            bound = mine;
        }
        if rank == 0u {
            largest = mine;
        }
        workgroupBarrier();
        return;
    }
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        if lane < step && before(best[lane + step], best[lane]) {
            best[lane] = best[lane + step];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        largest = best[0];
        bound = best[0];
    }
    workgroupBarrier();
}

// Keeps a logit that is not behind the bound.
fn keep(item: vec2<u32>, bits: u32) {
    if before(bound, item) {
        return;
    }
    let at = atomicAdd(&met, 1u);
    if at < ROOM {
        kept[at] = item;
        logits[at] = bits;
    }
}

// Writes the first of what is kept in turn from word `at` on; no ids where more was met than there is room for.
fn write_list(lane: u32, at: u32) {
    workgroupBarrier();
    var count = atomicLoad(&met);
    if count > ROOM {
        count = 0u;
    }
    for (var slot = count + lane; slot < P.count; slot += LANES) {
        found[at + 2u * slot] = NONE;
        found[at + 2u * slot + 1u] = 0u;
    }
    for (var i = lane; i < count; i += LANES) {
        let item = kept[i];
        var slot = 0u;
        for (var j = 0u; j < count; j++) {
            slot += u32(before(kept[j], item));
        }
        if slot < P.count {
            found[at + 2u * slot] = item.y;
            found[at + 2u * slot + 1u] = logits[i];
        }
    }
}
