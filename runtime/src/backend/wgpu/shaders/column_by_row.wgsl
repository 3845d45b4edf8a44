// A column of rows that are read each by itself.

fn at_row(row: u32, col: u32) -> f32 {
    return element(min(row, P.stored - 1u), col);
}

fn four(row: u32, col: u32) -> vec4<f32> {
    return vec4(at_row(row, col), at_row(row + 1u, col), at_row(row + 2u, col), at_row(row + 3u, col));
}

fn column(row: u32, col: u32) -> Sums {
    return Sums(four(row, col), four(row + 4u, col), four(row + 8u, col), four(row + 12u, col));
}
