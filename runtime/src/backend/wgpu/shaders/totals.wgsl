var<workgroup> totals: array<i32, LANES>;

// What the bytes of a block add up to, of which four lanes have two words each: every lane is given it.
fn total_of_block(lane: u32, words: vec2<u32>) -> i32 {
    totals[lane] = sum_of_bytes(words.x, words.y);
    workgroupBarrier();
    let first = lane / 4u * 4u;
    return totals[first] + totals[first + 1u] + totals[first + 2u] + totals[first + 3u];
}
