// Rows of a tile of a weight of `rows` in columns: as few tiles as can be, of at most 4096 rows.
fn tile_rows(rows: u32) -> u32 {
    let tiles = (rows + 4095u) / 4096u;
    return ((rows + tiles - 1u) / tiles + 31u) / 32u * 32u;
}
