// What a lane sums of 16 rows of bytes, for each row of the call: it rounds the columns itself that it has of some
// blocks at a time. Precise ones come in two parts, the second for what the first leaves over.

// Blocks of 32 columns at a time: one for each four lanes.
const CHUNK: u32 = LANES / 4u;

// Of a row of the call: columns 4 q to 4 q + 3 of a block, and the same 16 further on.
struct Cols {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

// They in bytes, which the scale multiplies.
struct Bytes {
    lo: u32,
    hi: u32,
    step: f32,
}

var<workgroup> magnitudes: array<u32, LANES * FEW>;

fn cols_at(token: u32, col: u32) -> Cols {
    return Cols(given(token, col), given(token, col + 16u));
}

fn met_cols(c: Cols, norm: vec2<f32>, weights: Cols, col: u32) -> Cols {
    return Cols(met(c.lo, norm, weights.lo, col), met(c.hi, norm, weights.hi, col + 16u));
}

fn show(lane: u32, t: u32, c: Cols) {
    magnitudes[t * LANES + lane] = max(magnitude(c.lo), magnitude(c.hi));
}

fn bytes_for(lane: u32, t: u32, c: Cols) -> Bytes {
    let at = t * LANES + lane;
    // A scale is for as many lanes as hold WORDS.
    var most = max(max(magnitudes[at], magnitudes[at ^ 1u]), max(magnitudes[at ^ 2u], magnitudes[at ^ 3u]));
    if WORDS == 16u {
        most = max(most, max(max(magnitudes[at ^ 4u], magnitudes[at ^ 5u]), max(magnitudes[at ^ 6u], magnitudes[at ^ 7u])));
    }
    let words = rounded16(c.lo, c.hi, vec4(0.0), vec4(0.0), most);
    return Bytes(words.x, words.y, step_of(most));
}

fn left(c: Cols, b: Bytes) -> Cols {
    return Cols(c.lo - b.step * bytes_of(b.lo), c.hi - b.step * bytes_of(b.hi));
}

fn dots(lo: vec4<u32>, hi: vec4<u32>, v: Bytes) -> vec4<i32> {
    return vec4(dot4I8Packed(lo.x, v.lo) + dot4I8Packed(hi.x, v.hi),
        dot4I8Packed(lo.y, v.lo) + dot4I8Packed(hi.y, v.hi),
        dot4I8Packed(lo.z, v.lo) + dot4I8Packed(hi.z, v.hi),
        dot4I8Packed(lo.w, v.lo) + dot4I8Packed(hi.w, v.hi));
}

// Adds products of 16 rows.
fn add(sums: Sums, e: Eight, f: Eight, v: Bytes) -> Sums {
    var total = 0;
    if MINIMA || OFFSET != 0 {
        total = dot4I8Packed(ONES, v.lo) + dot4I8Packed(ONES, v.hi);
    }
    let less = vec4(OFFSET * total);
    var s = sums;
    s.a += vec4<f32>(dots(e.lo, e.hi, v) - less) * (e.scales * v.step);
    s.b += vec4<f32>(dots(e.lo_next, e.hi_next, v) - less) * (e.scales_next * v.step);
    s.c += vec4<f32>(dots(f.lo, f.hi, v) - less) * (f.scales * v.step);
    s.d += vec4<f32>(dots(f.lo_next, f.hi_next, v) - less) * (f.scales_next * v.step);
    if MINIMA {
        let shift = v.step * f32(total);
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
    let tokens = min(vec4(first_token) + vec4(0u, 1u, 2u, 3u), vec4(P.tokens - 1u));
    var few: Few;
    var norms: array<vec2<f32>, 4>;
    for (var first = 0u; first < blocks; first += CHUNK) {
        let block = min(first + lane / 4u, blocks - 1u);
        // On their way while activations are made ready.
        let a = raw_of(octet, block, q);
        let b = raw_of(next, block, q);
        // Those behind the last block are 0.
        let col = (first + lane / 4u) * 32u + q * 4u;
        var c0 = cols_at(tokens.x, col);
        var c1: Cols;
        var c2: Cols;
        var c3: Cols;
        if FEW > 1u {
            c1 = cols_at(tokens.y, col);
            c2 = cols_at(tokens.z, col);
            c3 = cols_at(tokens.w, col);
        }
        let weights = Cols(weight_of(col), weight_of(col + 16u));
        if first == 0u {
            norms[0] = norm_of(at, tokens.x, c0.lo, c0.hi, col, CHUNK * 32u);
            if FEW > 1u {
                norms[1] = norm_of(at, tokens.y, c1.lo, c1.hi, col, CHUNK * 32u);
                norms[2] = norm_of(at, tokens.z, c2.lo, c2.hi, col, CHUNK * 32u);
                norms[3] = norm_of(at, tokens.w, c3.lo, c3.hi, col, CHUNK * 32u);
            }
        }
        c0 = met_cols(c0, norms[0], weights, col);
        if FEW > 1u {
            c1 = met_cols(c1, norms[1], weights, col);
            c2 = met_cols(c2, norms[2], weights, col);
            c3 = met_cols(c3, norms[3], weights, col);
        }
        for (var part = 0u; part < select(1u, 2u, has(32u)); part++) {
            workgroupBarrier();
            show(lane, 0u, c0);
            if FEW > 1u {
                show(lane, 1u, c1);
                show(lane, 2u, c2);
                show(lane, 3u, c3);
            }
            workgroupBarrier();
            let e = eight(a);
            let f = eight(b);
            let v = bytes_for(lane, 0u, c0);
            few.t0 = add(few.t0, e, f, v);
            c0 = left(c0, v);
            if FEW > 1u {
                let v1 = bytes_for(lane, 1u, c1);
                few.t1 = add(few.t1, e, f, v1);
                c1 = left(c1, v1);
                let v2 = bytes_for(lane, 2u, c2);
                few.t2 = add(few.t2, e, f, v2);
                c2 = left(c2, v2);
                let v3 = bytes_for(lane, 3u, c3);
                few.t3 = add(few.t3, e, f, v3);
                c3 = left(c3, v3);
            }
        }
    }
    return few;
}
