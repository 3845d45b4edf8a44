// What inputs are multiplied by, column by column.
@group(0) @binding(5) var<storage, read> factors: array<vec4<f32>>;

// Four inputs with their factors; what comes behind the last column is 0.
fn scaled(v: vec4<f32>, col: u32) -> vec4<f32> {
    if has(8u) && col < P.cols {
        return v * factors[col / 4u];
    }
    return v;
}
