// 8 rows of values of 8 bits: what is read is what they are.

const MINIMA: bool = false;
const OFFSET: i32 = 0;

struct Raw {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
    scales: vec4<u32>,
}

fn eight(raw: Raw) -> Eight {
    return Eight(raw.a, raw.b, raw.c, raw.d, halves(raw.scales.xy), halves(raw.scales.zw), vec4(0.0), vec4(0.0));
}
