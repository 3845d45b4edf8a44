fn element(row: u32, col: u32) -> f32 {
    if col >= P.cols {
        return 0.0;
    }
    let at = row * P.cols + col;
    let pair = unpack2x16float(w[at / 2u]);
    return select(pair.x, pair.y, (at & 1u) == 1u);
}
