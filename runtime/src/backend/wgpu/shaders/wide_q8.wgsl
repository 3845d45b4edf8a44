// 8 rows of q8 in quads: 17 times four words for 32 columns.

const WORDS: u32 = 8u;

fn raw_of(octet: u32, block: u32, q: u32) -> Raw {
    let start = (octet * P.blocks + block) * 17u;
    let at = start + 2u * q;
    return Raw(w[at], w[at + 1u], w[at + 8u], w[at + 9u], w[start + 16u]);
}
