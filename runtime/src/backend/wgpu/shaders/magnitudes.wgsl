// Activations of a block lie with four lanes, or with eight where WORDS says that two blocks share a scale.

var<workgroup> magnitudes: array<u32, LANES>;

// The largest magnitude of the lanes that share a scale, as bits.
fn most_of(lane: u32, mine: u32) -> u32 {
    workgroupBarrier();
    magnitudes[lane] = mine;
    workgroupBarrier();
    var most = max(max(mine, magnitudes[lane ^ 1u]), max(magnitudes[lane ^ 2u], magnitudes[lane ^ 3u]));
    if WORDS == 16u {
        most = max(most, max(max(magnitudes[lane ^ 4u], magnitudes[lane ^ 5u]),
            max(magnitudes[lane ^ 6u], magnitudes[lane ^ 7u])));
    }
    return most;
}
