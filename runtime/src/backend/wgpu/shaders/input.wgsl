// Input `col` of a row.
fn input(token: u32, col: u32) -> f32 {
    if col >= P.cols {
        return 0.0;
    }
    if P.unit_cols > 0u && col >= limit(token) * P.unit_cols {
        return 0.0;
    }
    let value = x[token / P.share * P.cols + col];
    if has(8u) {
        return value * factors[col];
    }
    return value;
}
