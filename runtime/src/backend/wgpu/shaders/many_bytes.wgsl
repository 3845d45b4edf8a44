// What a lane sums of a tile of bytes: BLOCKS blocks of 32 columns at a time, of which shared memory holds words of four
// columns: those of columns 4 q to 4 q + 3 first, then of those 16 further on. A lane has four rows of the weight, side
// by side, by four of the call. `put_inputs` puts blocks of the call's rows there, and their scales.

const PARTS: u32 = select(1u, 2u, (FLAGS & 32u) != 0u);
// From a word of 64 rows to the next, and from a block to the next: lanes that write side by side meet other banks.
const WORD: u32 = 17u;
const BLOCK: u32 = 8u * WORD + 1u;

var<workgroup> weights: array<vec4<u32>, BLOCKS * BLOCK>;
var<workgroup> bytes: array<vec4<u32>, BLOCKS * 64u>;
var<workgroup> scales: array<vec4<f32>, BLOCKS * 16u>;
var<workgroup> minima: array<vec4<f32>, BLOCKS * 16u>;
// Scales of the call's rows, and sums of their bytes.
var<workgroup> steps: array<vec2<u32>, BLOCKS * 32u>;

// Puts a block of 8 rows there, of which four lanes each have a quarter of the columns.
fn put_weights(octet: u32, block: u32, q: u32, e: Eight) {
    let at = block * BLOCK + q * WORD + octet * 2u;
    weights[at] = e.lo;
    weights[at + 1u] = e.lo_next;
    weights[at + 4u * WORD] = e.hi;
    weights[at + 4u * WORD + 1u] = e.hi_next;
    if q == 0u {
        let to = block * 16u + octet * 2u;
        scales[to] = e.scales;
        scales[to + 1u] = e.scales_next;
        if MINIMA {
            minima[to] = e.minima;
            minima[to + 1u] = e.minima_next;
        }
    }
}

fn dots(w: vec4<u32>, v: u32) -> vec4<i32> {
    return vec4(dot4I8Packed(w.x, v), dot4I8Packed(w.y, v), dot4I8Packed(w.z, v), dot4I8Packed(w.w, v));
}

fn scaled_dots(dots: vec4<i32>, block: u32, n: u32, token: u32) -> vec4<f32> {
    let pair = steps[block * 32u + token];
    let step = bitcast<f32>(pair.x);
    let total = bitcast<i32>(pair.y);
    var sum = vec4<f32>(dots - vec4(OFFSET * total)) * (scales[block * 16u + n] * step);
    if MINIMA {
        sum += minima[block * 16u + n] * (step * f32(total));
    }
    return sum;
}

fn products(lane: u32, start: u32, place: u32, blocks: u32) -> array<vec4<f32>, 4> {
    let n = lane % 16u;
    let m = lane / 16u;
    // Of the weight, what a lane reads.
    let octet = min((start + 8u * m) / 8u, P.stored / 8u - 1u);
    var sum: array<vec4<f32>, 4>;
    for (var first = 0u; first < blocks; first += BLOCKS) {
        let count = min(BLOCKS, blocks - first);
        let block = lane / 4u % 4u;
        if block < count {
            put_weights(m, block, lane % 4u, eight(raw_of(octet, first + block, lane % 4u)));
        }
        for (var part = 0u; part < PARTS; part++) {
            put_inputs(lane, place, part, first, count);
            workgroupBarrier();
            for (var b = 0u; b < count; b++) {
                var d0 = vec4(0);
                var d1 = vec4(0);
                var d2 = vec4(0);
                var d3 = vec4(0);
                for (var word = 0u; word < 8u; word++) {
                    let w = weights[b * BLOCK + word * WORD + n];
                    let v = bytes[(b * 8u + word) * 8u + m];
                    d0 += dots(w, v.x);
                    d1 += dots(w, v.y);
                    d2 += dots(w, v.z);
                    d3 += dots(w, v.w);
                }
                sum[0] += scaled_dots(d0, b, n, 4u * m);
                sum[1] += scaled_dots(d1, b, n, 4u * m + 1u);
                sum[2] += scaled_dots(d2, b, n, 4u * m + 2u);
                sum[3] += scaled_dots(d3, b, n, 4u * m + 3u);
            }
            workgroupBarrier();
        }
    }
    return sum;
}

fn put_sum(at: u32, sum: f32) {
    weights[at / 4u][at % 4u] = bitcast<u32>(sum);
}

fn sum_at(at: u32) -> f32 {
    return bitcast<f32>(weights[at / 4u][at % 4u]);
}
