// 8 rows of q8w in quads: 33 times four words for 64 columns.

const WORDS: u32 = 16u;
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
    let start = (octet * ((P.blocks + 1u) / 2u) + block / 2u) * 33u;
    let at = start + block % 2u * 16u + 2u * q;
    return Raw(w[at], w[at + 1u], w[at + 8u], w[at + 9u], w[start + 32u]);
}

fn eight(raw: Raw) -> Eight {
    return Eight(raw.a, raw.b, raw.c, raw.d, halves(raw.scales.xy), halves(raw.scales.zw), vec4(0.0), vec4(0.0));
}
