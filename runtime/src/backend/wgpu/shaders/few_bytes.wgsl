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

fn products(lane: u32, row: u32, first_token: u32, blocks: u32) -> array<f32, FEW> {
    let q = lane / 16u % 4u;
    var sum: array<f32, FEW>;
    for (var first = 0u; first < blocks; first += CHUNK) {
        let count = min(CHUNK, blocks - first);
        for (var part = 0u; part < select(1u, 2u, has(32u)); part++) {
            take(lane, first_token, first, (count * 8u + WORDS - 1u) / WORDS * WORDS, part);
            if row < P.stored {
                for (var block = lane / 64u; block < count; block += PARTS) {
                    let at = block * 8u + q;
                    let v = ints(row, first + block, q);
                    let d = scale(row, first + block);
                    let m = minimum(row, first + block);
                    for (var t = 0u; t < FEW; t++) {
                        let a = bytes[t * CHUNK_WORDS + at];
                        let b = bytes[t * CHUNK_WORDS + at + 4u];
                        let step = steps[(part * FEW + t) * CHUNK + at / WORDS];
                        sum[t] += f32(dot4I8Packed(v.x, a) + dot4I8Packed(v.y, b)) * (d * step);
                        if MINIMA {
                            let total = dot4I8Packed(ONES, a) + dot4I8Packed(ONES, b);
                            sum[t] += m * (step * f32(total));
                        }
                    }
                }
            }
        }
    }
    return sum;
}
