// What linears of rows that choose share: rows in the order that sort.wgsl gives them, where ORDERED says that tiles are
// of such, and the count of what is read.

@group(0) @binding(5) var<storage, read> ordered: array<u32>;
@group(0) @binding(8) var<storage, read_write> counted: array<atomic<u32>>;

// The row of the call at a place of the tiles; all ones where there is none.
fn row_at(place: u32) -> u32 {
    if ORDERED {
        return ordered[place];
    }
    return place;
}

// There are no factors.
fn scaled(v: vec4<f32>, col: u32) -> vec4<f32> {
    return v;
}

// Adds to what the weight's groups read: a low word, whose carries the high one counts.
fn count_read(read: u32) {
    let had = atomicAdd(&counted[P.counter], read);
    if had + read < had {
        atomicAdd(&counted[P.counter + 1u], 1u);
    }
}
