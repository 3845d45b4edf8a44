// Weights of signed bytes, with a scale for each row of a block and a minimum where MINIMA says so. A format has
// its own `ints`, which gives the bytes of columns 4 q to 4 q + 3 of block `block` of 32, and of the same 16
// further on, its `scale` and its `minimum`. WORDS is how many words of four columns share a scale.

const ROUNDED: bool = true;

// The low nibbles of a word's bytes, less 8.
fn centred(word: u32) -> u32 {
    return ((word & 0x0f0f0f0fu) + 0x78787878u) ^ 0x80808080u;
}

fn load(row: u32, block: u32, q: u32) -> Pair {
    let bytes = ints(row, block, q);
    let d = scale(row, block);
    let m = minimum(row, block);
    return Pair(d * bytes_of(bytes.x) + m, d * bytes_of(bytes.y) + m);
}
