// Rows of the call in the order that sort.wgsl gives them, where ORDERED says that tiles are of such.

@group(0) @binding(5) var<storage, read> ordered: array<u32>;

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
