// 8 rows of q8w in quads: 33 times four words for 64 columns.

const WORDS: u32 = 16u;

fn raw_of(octet: u32, block: u32, q: u32) -> Raw {
    let start = (octet * ((P.blocks + 1u) / 2u) + block / 2u) * 33u;
    let at = start + block % 2u * 16u + 2u * q;
    return Raw(w[at], w[at + 1u], w[at + 8u], w[at + 9u], w[start + 32u]);
}
