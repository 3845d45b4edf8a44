// Floats, element by element.

const WORDS: u32 = 8u;
const ROUNDED: bool = false;

fn load(row: u32, block: u32, q: u32) -> Pair {
    let c = block * 32u + q * 4u;
    return Pair(
        vec4(element(row, c), element(row, c + 1u), element(row, c + 2u), element(row, c + 3u)),
        vec4(element(row, c + 16u), element(row, c + 17u), element(row, c + 18u), element(row, c + 19u)),
    );
}
