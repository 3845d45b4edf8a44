// 8 rows of q4 in quads: 9 times four words for 32 columns.

const WORDS: u32 = 8u;
const MINIMA: bool = false;
const OFFSET: i32 = 8;

struct Raw {
    a: vec4<u32>,
    b: vec4<u32>,
    scales: vec4<u32>,
}

fn raw_of(octet: u32, block: u32, q: u32) -> Raw {
    let at = (octet * P.blocks + block) * 9u;
    return Raw(w[at + 2u * q], w[at + 2u * q + 1u], w[at + 8u]);
}

fn eight(raw: Raw) -> Eight {
    let low = vec4(0x0f0f0f0fu);
    let shift = vec4(4u);
    return Eight(raw.a & low, raw.b & low, (raw.a >> shift) & low, (raw.b >> shift) & low,
        halves(raw.scales.xy), halves(raw.scales.zw), vec4(0.0), vec4(0.0));
}
