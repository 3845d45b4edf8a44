// What a lane sums of 16 rows of bytes, for each row of the call: activations are rounded in shared memory, some
// blocks at a time. Precise ones come in two parts, the second for what the first leaves over.

// Blocks of 32 columns at a time: two for each four lanes.
const CHUNK: u32 = LANES / 2u;

// Of each row of the call: the bytes of a block, four words twice.
fn word_at(t: u32, block: u32, q: u32) -> vec2<u32> {
    let at = t * LANES + block * 2u;
    return vec2(fours[at][q], fours[at + 1u][q]);
}

var<workgroup> magnitudes: array<u32, LANES * FEW>;
var<workgroup> steps: array<f32, CHUNK * FEW>;

// Rounds 16 columns of each row for a lane.
fn take(lane: u32, first_token: u32, first: u32, part: u32) {
    workgroupBarrier();
    let block = lane / 2u;
    for (var t = 0u; t < FEW; t++) {
        let at = t * LANES + lane;
        let col = first * 32u + lane * 16u;
        var v0 = given(t, first_token, col);
        var v1 = given(t, first_token, col + 4u);
        var v2 = given(t, first_token, col + 8u);
        var v3 = given(t, first_token, col + 12u);
        if part == 1u {
            let step = steps[t * CHUNK + block];
            let had = fours[at];
            v0 -= step * bytes_of(had.x);
            v1 -= step * bytes_of(had.y);
            v2 -= step * bytes_of(had.z);
            v3 -= step * bytes_of(had.w);
        }
        magnitudes[at] = max(max(magnitude(v0), magnitude(v1)), max(magnitude(v2), magnitude(v3)));
        workgroupBarrier();
        // A scale is for as many lanes as hold WORDS.
        var most = max(magnitudes[at], magnitudes[at ^ 1u]);
        if WORDS == 16u {
            most = max(most, max(magnitudes[at ^ 2u], magnitudes[at ^ 3u]));
        }
        fours[at] = rounded16(v0, v1, v2, v3, most);
        if lane % 2u == 0u {
            steps[t * CHUNK + block] = step_of(most);
        }
    }
    workgroupBarrier();
}

fn dots(lo: vec4<u32>, hi: vec4<u32>, v: vec2<u32>) -> vec4<i32> {
    return vec4(dot4I8Packed(lo.x, v.x) + dot4I8Packed(hi.x, v.y),
        dot4I8Packed(lo.y, v.x) + dot4I8Packed(hi.y, v.y),
        dot4I8Packed(lo.z, v.x) + dot4I8Packed(hi.z, v.y),
        dot4I8Packed(lo.w, v.x) + dot4I8Packed(hi.w, v.y));
}

// Adds products of 16 rows with row `t` of the call.
fn add(sums: Sums, e: Eight, f: Eight, t: u32, block: u32, q: u32, there: bool) -> Sums {
    let v = word_at(t, block, q);
    let step = select(0.0, steps[t * CHUNK + block], there);
    var total = 0;
    if MINIMA || OFFSET != 0 {
        total = dot4I8Packed(ONES, v.x) + dot4I8Packed(ONES, v.y);
    }
    let less = vec4(OFFSET * total);
    var s = sums;
    s.a += vec4<f32>(dots(e.lo, e.hi, v) - less) * (e.scales * step);
    s.b += vec4<f32>(dots(e.lo_next, e.hi_next, v) - less) * (e.scales_next * step);
    s.c += vec4<f32>(dots(f.lo, f.hi, v) - less) * (f.scales * step);
    s.d += vec4<f32>(dots(f.lo_next, f.hi_next, v) - less) * (f.scales_next * step);
    if MINIMA {
        let shift = step * f32(total);
        s.a += e.minima * shift;
        s.b += e.minima_next * shift;
        s.c += f.minima * shift;
        s.d += f.minima_next * shift;
    }
    return s;
}

fn products(at: Invocation, row: u32, first_token: u32, blocks: u32) -> Few {
    let lane = at.lane;
    let q = lane % 4u;
    let octet = row / 8u;
    let next = min(octet + 1u, P.stored / 8u - 1u);
    var few: Few;
    for (var first = 0u; first < blocks; first += CHUNK) {
        let last = min(CHUNK, blocks - first) - 1u;
        let there = lane / 4u <= last;
        let there_too = lane / 4u + CHUNK / 2u <= last;
        let block = min(lane / 4u, last);
        let block_too = min(lane / 4u + CHUNK / 2u, last);
        // On their way while activations are made ready.
        let a = raw_of(octet, first + block, q);
        let b = raw_of(next, first + block, q);
        let c = raw_of(octet, first + block_too, q);
        let d = raw_of(next, first + block_too, q);
        if first == 0u {
            prologue(at, first_token);
        }
        for (var part = 0u; part < select(1u, 2u, has(32u)); part++) {
            take(lane, first_token, first, part);
            let e = eight(a);
            let f = eight(b);
            few.t0 = add(few.t0, e, f, 0u, block, q, there);
            if FEW > 1u {
                few.t1 = add(few.t1, e, f, 1u, block, q, there);
                few.t2 = add(few.t2, e, f, 2u, block, q, there);
                few.t3 = add(few.t3, e, f, 3u, block, q, there);
            }
            if last >= CHUNK / 2u {
                let g = eight(c);
                let h = eight(d);
                few.t0 = add(few.t0, g, h, 0u, block_too, q, there_too);
                if FEW > 1u {
                    few.t1 = add(few.t1, g, h, 1u, block_too, q, there_too);
                    few.t2 = add(few.t2, g, h, 2u, block_too, q, there_too);
                    few.t3 = add(few.t3, g, h, 3u, block_too, q, there_too);
                }
            }
        }
    }
    return few;
}
