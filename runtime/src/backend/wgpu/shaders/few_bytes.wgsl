// What a lane sums of 16 rows of bytes for one row of the call: it rounds the columns itself that it has of some blocks
// at a time. Precise ones come in two parts, the second for what the first leaves over.

// Blocks of 32 columns at a time: one for each four lanes.
const CHUNK: u32 = LANES / 4u;

fn products(at: Invocation, row: u32, token: u32, blocks: u32) -> Few {
    let lane = at.lane;
    let q = lane % 4u;
    let octet = row / 8u;
    let next = min(octet + 1u, P.stored / 8u - 1u);
    var few: Few;
    var norm = vec2(0.0);
    for (var first = 0u; first < blocks; first += CHUNK) {
        let block = min(first + lane / 4u, blocks - 1u);
        // On their way while activations are made ready.
        let a = raw_of(octet, block, q);
        let b = raw_of(next, block, q);
        // Those behind the last block are 0.
        let col = (first + lane / 4u) * 32u + q * 4u;
        var lo = given(token, col);
        var hi = given(token, col + 16u);
        let weight_lo = weight_of(col);
        let weight_hi = weight_of(col + 16u);
        if first == 0u {
            norm = norm_of(at, token, lo, hi, col, CHUNK * 32u);
        }
        lo = met(lo, norm, weight_lo, col);
        hi = met(hi, norm, weight_hi, col + 16u);
        for (var part = 0u; part < select(1u, 2u, has(32u)); part++) {
            let most = most_of(lane, max(magnitude(lo), magnitude(hi)));
            let words = rounded8(lo, hi, most);
            let step = step_of(most);
            few.t0 = add(few.t0, eight(a), eight(b), Bytes(words.x, words.y, step));
            lo -= step * bytes_of(words.x);
            hi -= step * bytes_of(words.y);
        }
    }
    return few;
}
