// What a lane sums of a tile of bytes where a row is what a window sees, which is rounded in shared memory: a block that
// shares scales at a time. Precise ones come in two parts, the second for what the first leaves over.

// Bytes `[WORDS, 64]` of the weight, and of the call's rows, `[WORDS, 33]`.
var<workgroup> weights: array<u32, 2048>;
var<workgroup> bytes: array<u32, 33u * WORDS>;
var<workgroup> magnitudes: array<u32, 32u * WORDS>;
var<workgroup> scales: array<f32, 64>;
var<workgroup> minima: array<f32, 64>;
var<workgroup> steps: array<f32, 64>;

// Four values of row `t` of the tile.
fn given(first_token: u32, t: u32, block: u32, word: u32, part: u32) -> vec4<f32> {
    if first_token + t >= P.tokens {
        return vec4(0.0);
    }
    let v = inputs(first_token + t, block * 32u + word * 4u);
    if part == 0u {
        return v;
    }
    return v - steps[t] * bytes_of(bytes[word * 33u + t]);
}

fn take(lane: u32, first_token: u32, block: u32, part: u32) {
    for (var unit = lane; unit < 32u * WORDS; unit += 128u) {
        magnitudes[unit] = magnitude(given(first_token, unit / WORDS, block, unit % WORDS, part));
    }
    workgroupBarrier();
    for (var unit = lane; unit < 32u * WORDS; unit += 128u) {
        let t = unit / WORDS;
        let word = unit % WORDS;
        var most = 0u;
        for (var i = 0u; i < WORDS; i++) {
            most = max(most, magnitudes[t * WORDS + i]);
        }
        bytes[word * 33u + t] = rounded(given(first_token, t, block, word, part), most);
        if word == 0u {
            steps[part * 32u + t] = step_of(most);
        }
    }
}

fn take_weights(lane: u32, first_row: u32, block: u32) {
    for (var unit = lane; unit < 32u * WORDS; unit += 128u) {
        let row = first_row + unit % 64u;
        let q = unit / 64u % 4u;
        let part = unit / 256u;
        var v = vec2(0u);
        if row < P.stored {
            v = ints(row, block + part, q);
        }
        weights[(part * 8u + q) * 64u + unit % 64u] = v.x;
        weights[(part * 8u + q + 4u) * 64u + unit % 64u] = v.y;
    }
    if lane < 64u {
        let row = min(first_row + lane, P.stored - 1u);
        scales[lane] = scale(row, block);
        minima[lane] = minimum(row, block);
    }
}

fn products(lane: u32, first_row: u32, first_token: u32, blocks: u32) -> array<vec4<f32>, 4> {
    let n = lane % 16u;
    let m = lane / 16u;
    var sum: array<vec4<f32>, 4>;
    for (var block = 0u; block < blocks; block += WORDS / 8u) {
        take_weights(lane, first_row, block);
        for (var part = 0u; part < select(1u, 2u, has(32u)); part++) {
            take(lane, first_token, block, part);
            workgroupBarrier();
            var dots: array<vec4<i32>, 4>;
            var totals = vec4(0);
            for (var word = 0u; word < WORDS; word++) {
                let a = vec4(weights[word * 64u + n], weights[word * 64u + n + 16u],
                    weights[word * 64u + n + 32u], weights[word * 64u + n + 48u]);
                for (var t = 0u; t < 4u; t++) {
                    let b = bytes[word * 33u + m + t * 8u];
                    dots[t] += vec4(dot4I8Packed(a.x, b), dot4I8Packed(a.y, b),
                        dot4I8Packed(a.z, b), dot4I8Packed(a.w, b));
                    if MINIMA {
                        totals[t] += dot4I8Packed(ONES, b);
                    }
                }
            }
            let d = vec4(scales[n], scales[n + 16u], scales[n + 32u], scales[n + 48u]);
            let least = vec4(minima[n], minima[n + 16u], minima[n + 32u], minima[n + 48u]);
            for (var t = 0u; t < 4u; t++) {
                let step = steps[part * 32u + m + t * 8u];
                sum[t] += vec4<f32>(dots[t]) * (d * step);
                if MINIMA {
                    sum[t] += least * (step * f32(totals[t]));
                }
            }
            workgroupBarrier();
        }
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
