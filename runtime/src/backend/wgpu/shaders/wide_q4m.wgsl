// 8 rows of q4m in quads: 10 times four words for 32 columns.

const WORDS: u32 = 8u;
const MINIMA: bool = true;
const OFFSET: i32 = 0;

struct Raw {
    a: vec4<u32>,
    b: vec4<u32>,
    scales: vec4<u32>,
    minima: vec4<u32>,
}

fn raw_of(octet: u32, block: u32, q: u32) -> Raw {
    let at = (octet * P.blocks + block) * 10u;
    return Raw(w[at + 2u * q], w[at + 2u * q + 1u], w[at + 8u], w[at + 9u]);
}

fn eight(raw: Raw) -> Eight {
    let low = vec4(0x0f0f0f0fu);
    let shift = vec4(4u);
    return Eight(raw.a & low, raw.b & low, (raw.a >> shift) & low, (raw.b >> shift) & low,
        halves(raw.scales.xy), halves(raw.scales.zw), halves(raw.minima.xy), halves(raw.minima.zw));
}
