fn column(row: u32, col: u32) -> Sums {
    let at = (row / 16u * P.cols + col) * 4u;
    return Sums(bitcast<vec4<f32>>(w[at]), bitcast<vec4<f32>>(w[at + 1u]), bitcast<vec4<f32>>(w[at + 2u]),
        bitcast<vec4<f32>>(w[at + 3u]));
}
