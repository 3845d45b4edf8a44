// What a lane sums of a row of floats, for each row of the call.

fn products(lane: u32, row: u32, first_token: u32, blocks: u32) -> array<f32, FEW> {
    let q = lane / 16u % 4u;
    var sum: array<f32, FEW>;
    if row >= P.stored {
        return sum;
    }
    for (var block = lane / 64u; block < blocks; block += PARTS) {
        let pair = load(row, block, q);
        let col = block * 32u + q * 4u;
        for (var t = 0u; t < FEW; t++) {
            let token = min(first_token + t, P.tokens - 1u);
            sum[t] += dot(pair.lo, inputs(token, col)) + dot(pair.hi, inputs(token, col + 16u));
        }
    }
    return sum;
}
