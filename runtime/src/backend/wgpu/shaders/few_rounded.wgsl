// What a lane sums of 16 rows of bytes for four rows of the call, whose activations are rounded; see round.wgsl.

@group(0) @binding(2) var<storage, read> x: array<vec2<u32>>;

const PARTS: u32 = select(1u, 2u, (FLAGS & 32u) != 0u);

// Of the row that begins there, columns of a block of all parts.
fn bytes_at(start: u32, block: u32, q: u32) -> Bytes {
    let words = x[start + block * 4u + q];
    return Bytes(words.x, words.y, bitcast<f32>(x[start + PARTS * P.blocks * 4u + block].x));
}

fn products(at: Invocation, row: u32, first_token: u32, blocks: u32) -> Few {
    let q = at.lane % 4u;
    let octet = row / 8u;
    let next = min(octet + 1u, P.stored / 8u - 1u);
    let tokens = min(vec4(first_token) + vec4(0u, 1u, 2u, 3u), vec4(P.tokens - 1u));
    let starts = tokens * (PARTS * P.blocks * 5u);
    var few: Few;
    for (var block = at.lane / 4u; block < blocks; block += LANES / 4u) {
        let e = eight(raw_of(octet, block, q));
        let f = eight(raw_of(next, block, q));
        for (var part = 0u; part < PARTS; part++) {
            let of_part = part * P.blocks + block;
            few.t0 = add(few.t0, e, f, bytes_at(starts.x, of_part, q));
            few.t1 = add(few.t1, e, f, bytes_at(starts.y, of_part, q));
            few.t2 = add(few.t2, e, f, bytes_at(starts.z, of_part, q));
            few.t3 = add(few.t3, e, f, bytes_at(starts.w, of_part, q));
        }
    }
    return few;
}
