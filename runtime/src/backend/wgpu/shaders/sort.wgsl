// Rows in the order of their keys, those of equal keys in their own: one group counts the rows of each key, then puts
// them there. A key's rows begin at a multiple of `pad`; rows of other keys are left out, and places that are left are
// all ones.

struct Params {
    rows: u32,
    // Keys are below.
    kinds: u32,
    pad: u32,
    // Where keys begin, and from one to the next.
    first: u32,
    stride: u32,
    places: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> keys: array<u32>;
@group(0) @binding(2) var<storage, read_write> ordered: array<u32>;

const LANES: u32 = 256u;

// Where the rows of each key begin, of as many keys as there are lanes, and where those of the next ones do.
var<workgroup> starts: array<u32, LANES>;
var<workgroup> next: u32;

fn key_of(row: u32) -> u32 {
    return keys[P.first + row * P.stride];
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var place = lane; place < P.places; place += LANES) {
        ordered[place] = 0xffffffffu;
    }
    storageBarrier();
    if lane == 0u {
        next = 0u;
    }
    for (var first = 0u; first < P.kinds; first += LANES) {
        let key = first + lane;
        let rows = select(0u, P.rows, key < P.kinds);
        var count = 0u;
        for (var row = 0u; row < rows; row++) {
            count += select(0u, 1u, key_of(row) == key);
        }
        starts[lane] = (count + P.pad - 1u) / P.pad * P.pad;
        workgroupBarrier();
        if lane == 0u {
            var sum = next;
            for (var i = 0u; i < LANES; i++) {
                let places = starts[i];
                starts[i] = sum;
                sum += places;
            }
            next = sum;
        }
        workgroupBarrier();
        var place = starts[lane];
        for (var row = 0u; row < rows && place < P.places; row++) {
            if key_of(row) == key {
                ordered[place] = row;
                place++;
            }
        }
        workgroupBarrier();
    }
}
