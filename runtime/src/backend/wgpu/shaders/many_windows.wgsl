// Rows of the call that are what windows see, which lanes round: four lanes each a row. Precise ones come in two parts,
// the second for what the first leaves over. A scale is for a block: weights of which two share one are no convolution's.

// Fewer than of rounded rows: there is less room.
const BLOCKS: u32 = 2u;
const LANES: u32 = 128u;

// Columns 4 q to 4 q + 3 of a block, and those 16 further on.
struct Cols {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

// Of the row at a place, less what the first part has.
fn cols_at(lane: u32, place: u32, part: u32, first: u32, block: u32) -> Cols {
    let t = lane / 4u;
    let q = lane % 4u;
    if place + t >= P.tokens {
        return Cols(vec4(0.0), vec4(0.0));
    }
    let col = (first + block) * 32u + q * 4u;
    var c = Cols(inputs(place + t, col), inputs(place + t, col + 16u));
    if part == 1u {
        let step = bitcast<f32>(steps[block * 32u + t].x);
        let word = (block * 8u + q) * 8u + t / 4u;
        c.lo -= step * bytes_of(bytes[word][t % 4u]);
        c.hi -= step * bytes_of(bytes[word + 32u][t % 4u]);
    }
    return c;
}

fn put_block(lane: u32, block: u32, c: Cols) {
    let t = lane / 4u;
    let q = lane % 4u;
    let most = most_of(lane, max(magnitude(c.lo), magnitude(c.hi)));
    let words = rounded8(c.lo, c.hi, most);
    let word = (block * 8u + q) * 8u + t / 4u;
    bytes[word][t % 4u] = words.x;
    bytes[word + 32u][t % 4u] = words.y;
    let total = total_of_block(lane, words);
    if q == 0u {
        steps[block * 32u + t] = vec2(bitcast<u32>(step_of(most)), bitcast<u32>(total));
    }
}

fn put_inputs(lane: u32, place: u32, part: u32, first: u32, count: u32) {
    for (var block = 0u; block < count; block++) {
        put_block(lane, block, cols_at(lane, place, part, first, block));
    }
}
