// What a lane sums of a tile of floats, a block of 32 columns at a time, which lie in shared memory: it has four rows of
// the weight, side by side, by four of the call.

// From a column of 64 rows to the next, and of 32 rows of the call: lanes that write side by side meet other banks.
const WEIGHTS: u32 = 17u;
const GIVEN: u32 = 9u;

var<workgroup> weights: array<vec4<f32>, 32u * WEIGHTS>;
var<workgroup> given: array<vec4<f32>, 32u * GIVEN>;

// Puts four columns of a row of the call there.
fn put_inputs(t: u32, col: u32, v: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        given[(col + i) * GIVEN + t / 4u][t % 4u] = v[i];
    }
}

fn products(lane: u32, start: u32, place: u32, blocks: u32) -> array<vec4<f32>, 4> {
    let n = lane % 16u;
    let m = lane / 16u;
    // Of the weight a lane reads a column of 16 rows, of the call eight columns of a row.
    let mine = lane % 32u;
    let sixteen = lane / 32u;
    let row = min(start + 16u * sixteen, (P.stored - 1u) / 16u * 16u);
    let t = lane / 4u;
    let eight = lane % 4u * 8u;
    let token = row_at(place + t);
    var sum: array<vec4<f32>, 4>;
    for (var block = 0u; block < blocks; block++) {
        let sums = column(row, min(block * 32u + mine, P.cols - 1u));
        let at = mine * WEIGHTS + sixteen * 4u;
        weights[at] = sums.a;
        weights[at + 1u] = sums.b;
        weights[at + 2u] = sums.c;
        weights[at + 3u] = sums.d;
        var lo = vec4(0.0);
        var hi = vec4(0.0);
        if token < P.tokens {
            lo = inputs(token, block * 32u + eight);
            hi = inputs(token, block * 32u + eight + 4u);
        }
        put_inputs(t, eight, lo);
        put_inputs(t, eight + 4u, hi);
        workgroupBarrier();
        for (var k = 0u; k < 32u; k++) {
            let w = weights[k * WEIGHTS + n];
            let v = given[k * GIVEN + m];
            sum[0] += w * v.x;
            sum[1] += w * v.y;
            sum[2] += w * v.z;
            sum[3] += w * v.w;
        }
        workgroupBarrier();
    }
    return sum;
}

fn put_sum(at: u32, sum: f32) {
    weights[at / 4u][at % 4u] = sum;
}

fn sum_at(at: u32) -> f32 {
    return weights[at / 4u][at % 4u];
}
