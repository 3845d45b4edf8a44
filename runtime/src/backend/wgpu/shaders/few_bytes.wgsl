// What a lane sums of a row of bytes, for each row of the call: activations are rounded in shared memory, some
// blocks at a time. Precise ones come in two parts, the second for what the first leaves over.

// Blocks of 32 columns, and words of four.
const CHUNK: u32 = 128u / FEW;
const CHUNK_WORDS: u32 = CHUNK * 8u;

var<workgroup> bytes: array<u32, CHUNK_WORDS * FEW>;
var<workgroup> magnitudes: array<u32, CHUNK_WORDS * FEW>;
var<workgroup> steps: array<f32, 2u * CHUNK * FEW>;

// Four values of a row of the call, word `word` of the chunk from block `first` on.
fn given(token: u32, first: u32, word: u32, at: u32, part: u32) -> vec4<f32> {
    let v = inputs(min(token, P.tokens - 1u), first * 32u + word * 4u);
    if part == 0u {
        return v;
    }
    return v - steps[at / CHUNK_WORDS * CHUNK + at % CHUNK_WORDS / WORDS] * bytes_of(bytes[at]);
}

fn take(lane: u32, first_token: u32, first: u32, words: u32, part: u32) {
    workgroupBarrier();
    for (var t = 0u; t < FEW; t++) {
        for (var word = lane; word < words; word += LANES) {
            let at = t * CHUNK_WORDS + word;
            magnitudes[at] = magnitude(given(first_token + t, first, word, at, part));
        }
    }
    workgroupBarrier();
    for (var t = 0u; t < FEW; t++) {
        for (var word = lane; word < words; word += LANES) {
            let at = t * CHUNK_WORDS + word;
            var most = 0u;
            for (var i = 0u; i < WORDS; i++) {
                most = max(most, magnitudes[at / WORDS * WORDS + i]);
            }
            bytes[at] = rounded(given(first_token + t, first, word, at, part), most);
            if at % WORDS == 0u {
                steps[(part * FEW + t) * CHUNK + word / WORDS] = step_of(most);
            }
        }
    }
    workgroupBarrier();
}

// The product of eight columns with word `at` and the fourth after it.
fn dots(v: vec2<u32>, at: u32) -> i32 {
    return dot4I8Packed(v.x, bytes[at]) + dot4I8Packed(v.y, bytes[at + 4u]);
}

fn products(lane: u32, row: u32, first_token: u32, blocks: u32) -> array<f32, FEW> {
    let q = lane / 16u % 4u;
    var sum: array<f32, FEW>;
    for (var first = 0u; first < blocks; first += CHUNK) {
        let count = min(CHUNK, blocks - first);
        for (var part = 0u; part < select(1u, 2u, has(32u)); part++) {
            take(lane, first_token, first, (count * 8u + WORDS - 1u) / WORDS * WORDS, part);
            if row < P.stored {
                // Four blocks at a time: a lane waits once for what it reads of them.
                for (var block = lane / 64u; block < count; block += 4u * PARTS) {
                    let wanted = vec4(block) + PARTS * vec4(0u, 1u, 2u, 3u);
                    let b = min(wanted, vec4(count - 1u));
                    let there = select(vec4(0.0), vec4(1.0), wanted == b);
                    let v0 = ints(row, first + b.x, q);
                    let v1 = ints(row, first + b.y, q);
                    let v2 = ints(row, first + b.z, q);
                    let v3 = ints(row, first + b.w, q);
                    let d = there * vec4(scale(row, first + b.x), scale(row, first + b.y),
                        scale(row, first + b.z), scale(row, first + b.w));
                    let m = there * vec4(minimum(row, first + b.x), minimum(row, first + b.y),
                        minimum(row, first + b.z), minimum(row, first + b.w));
                    for (var t = 0u; t < FEW; t++) {
                        let at = t * CHUNK_WORDS + b * 8u + q;
                        let s = (part * FEW + t) * CHUNK + b * 8u / WORDS;
                        let step = vec4(steps[s.x], steps[s.y], steps[s.z], steps[s.w]);
                        let found = vec4(dots(v0, at.x), dots(v1, at.y), dots(v2, at.z), dots(v3, at.w));
                        sum[t] += dot(vec4<f32>(found), d * step);
                        if MINIMA {
                            let ones = vec2(ONES);
                            let totals = vec4(dots(ones, at.x), dots(ones, at.y), dots(ones, at.z),
                                dots(ones, at.w));
                            sum[t] += dot(vec4<f32>(totals), m * step);
                        }
                    }
                }
            }
        }
    }
    return sum;
}
