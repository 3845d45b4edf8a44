// What a lane sums of a tile of floats, a block of 32 columns at a time.

// Floats, as bits.
var<workgroup> weights: array<u32, 2048>;
var<workgroup> given: array<f32, 1056>;

fn products(lane: u32, start: u32, place: u32, blocks: u32) -> array<vec4<f32>, 4> {
    let n = lane % 16u;
    let m = lane / 16u;
    var sum: array<vec4<f32>, 4>;
    for (var block = 0u; block < blocks; block++) {
        for (var unit = lane; unit < 256u; unit += 128u) {
            let row = start + unit % 64u;
            let q = unit / 64u;
            var pair = Pair(vec4(0.0), vec4(0.0));
            if row < P.stored {
                pair = load(row, block, q);
            }
            for (var i = 0u; i < 4u; i++) {
                weights[(q * 4u + i) * 64u + unit % 64u] = bitcast<u32>(pair.lo[i]);
                weights[(q * 4u + 16u + i) * 64u + unit % 64u] = bitcast<u32>(pair.hi[i]);
            }
        }
        for (var unit = lane; unit < 256u; unit += 128u) {
            let token = row_at(place + unit / 8u);
            var v = vec4(0.0);
            if token < P.tokens {
                v = inputs(token, block * 32u + unit % 8u * 4u);
            }
            for (var i = 0u; i < 4u; i++) {
                given[(unit % 8u * 4u + i) * 33u + unit / 8u] = v[i];
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < 32u; k++) {
            let a = bitcast<vec4<f32>>(vec4(weights[k * 64u + n], weights[k * 64u + n + 16u],
                weights[k * 64u + n + 32u], weights[k * 64u + n + 48u]));
            sum[0] += a * given[k * 33u + m];
            sum[1] += a * given[k * 33u + m + 8u];
            sum[2] += a * given[k * 33u + m + 16u];
            sum[3] += a * given[k * 33u + m + 24u];
        }
        workgroupBarrier();
    }
    return sum;
}

// Of the tile, the rows of the weight and of the call that a lane has.
fn row_of(n: u32, i: u32) -> u32 {
    return n + i * 16u;
}

fn token_of(m: u32, t: u32) -> u32 {
    return m + t * 8u;
}

fn put_sum(at: u32, sum: f32) {
    weights[at] = bitcast<u32>(sum);
}

fn sum_at(at: u32) -> f32 {
    return bitcast<f32>(weights[at]);
}
