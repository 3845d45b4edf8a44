// Inputs of a row.

@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;

// Four of them from column `col` on, a multiple of 4, as they lie there.
fn raw(token: u32, col: u32) -> vec4<f32> {
    if col >= cols_of(token) {
        return vec4(0.0);
    }
    let at = input_row(token) * P.cols + col;
    if !has(512u) {
        return x[at / 4u];
    }
    var v = vec4(x[at / 4u][at % 4u], 0.0, 0.0, 0.0);
    for (var i = 1u; i < 4u; i++) {
        if col + i < P.cols {
            v[i] = x[(at + i) / 4u][(at + i) % 4u];
        }
    }
    return v;
}

// With its factors.
fn inputs(token: u32, col: u32) -> vec4<f32> {
    return scaled(raw(token, col), col);
}
