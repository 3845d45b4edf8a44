// The size of so many rows of so many blocks: blocks of a row.
fn size_of(rows: u32, blocks: u32) -> u32 {
    return rows * blocks;
}
