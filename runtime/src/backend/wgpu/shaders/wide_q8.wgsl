// 8 rows of q8 in quads: 17 times four words for 32 columns.

const WORDS: u32 = 8u;
const MINIMA: bool = false;
const OFFSET: i32 = 0;

struct Raw {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
    scales: vec4<u32>,
}

fn raw_of(octet: u32, block: u32, q: u32) -> Raw {
    let start = (octet * P.blocks + block) * 17u;
    let at = start + 2u * q;
    return Raw(w[at], w[at + 1u], w[at + 8u], w[at + 9u], w[start + 16u]);
}

fn eight(raw: Raw) -> Eight {
    return Eight(raw.a, raw.b, raw.c, raw.d, halves(raw.scales.xy), halves(raw.scales.zw), vec4(0.0), vec4(0.0));
}
