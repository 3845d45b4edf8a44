fn element(row: u32, col: u32) -> f32 {
    if col >= P.cols {
        return 0.0;
    }
    return bitcast<f32>(w[((row / 16u) * P.cols + col) * 16u + row % 16u]);
}
