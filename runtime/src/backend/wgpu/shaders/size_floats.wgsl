// The size of so many rows of so many blocks: floats.
fn size_of(rows: u32, blocks: u32) -> u32 {
    return rows * min(blocks * 32u, P.cols);
}
