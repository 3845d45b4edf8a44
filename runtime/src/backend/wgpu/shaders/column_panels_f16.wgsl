fn column(row: u32, col: u32) -> Sums {
    let at = (row / 16u * P.cols + col) * 2u;
    let a = w[at];
    let b = w[at + 1u];
    return Sums(vec4(unpack2x16float(a.x), unpack2x16float(a.y)), vec4(unpack2x16float(a.z), unpack2x16float(a.w)),
        vec4(unpack2x16float(b.x), unpack2x16float(b.y)), vec4(unpack2x16float(b.z), unpack2x16float(b.w)));
}
