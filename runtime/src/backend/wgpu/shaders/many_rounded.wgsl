// Rows of the call that are rounded; see round.wgsl.

@group(0) @binding(2) var<storage, read> x: array<vec2<u32>>;

const BLOCKS: u32 = 4u;

// Where what is rounded of the row of the call at a place begins.
fn inputs_at(place: u32) -> u32 {
    return input_row(min(row_at(place), P.tokens - 1u)) * (PARTS * P.blocks * 5u);
}

fn put_inputs(lane: u32, place: u32, part: u32, first: u32, count: u32) {
    let t = lane / 4u;
    let q = lane % 4u;
    let start = inputs_at(place + t) + (part * P.blocks + first) * 4u + q;
    for (var block = 0u; block < count; block++) {
        let words = x[start + block * 4u];
        bytes[(block * 8u + q) * 8u + t / 4u][t % 4u] = words.x;
        bytes[(block * 8u + 4u + q) * 8u + t / 4u][t % 4u] = words.y;
    }
    let block = lane / 32u;
    if block < count {
        let scale = PARTS * P.blocks * 4u + part * P.blocks + first + block;
        steps[lane] = x[inputs_at(place + lane % 32u) + scale];
    }
}
