fn element(row: u32, col: u32) -> f32 {
    if col >= P.cols {
        return 0.0;
    }
    return bitcast<f32>(w[row * P.cols + col]);
}
