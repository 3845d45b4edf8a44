// Products of 16 rows of bytes with columns 4 q to 4 q + 3 of a block, and the same 16 further on.

// Those of a row of the call, which the scale multiplies.
struct Bytes {
    lo: u32,
    hi: u32,
    step: f32,
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
        total = sum_of_bytes(v.lo, v.hi);
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
