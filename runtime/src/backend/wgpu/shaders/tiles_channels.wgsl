// Rows of a tile of a weight of `rows` in channels: an even number of tiles of at most 1024 rows.
fn tile_rows(rows: u32) -> u32 {
    let tiles = (rows + 2047u) / 2048u * 2u;
    return ((rows + tiles - 1u) / tiles + 31u) / 32u * 32u;
}
