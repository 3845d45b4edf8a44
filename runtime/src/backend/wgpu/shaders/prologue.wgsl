// A norm of the input comes first, where there is one: every group computes it for its rows. Its weight and bias are
// `norm_weight` and `norm_bias`.

// Four inputs, and what a norm multiplies them by.
fn given(token: u32, col: u32) -> vec4<f32> {
    return raw(token, col);
}

fn weight_of(col: u32) -> vec4<f32> {
    if has(64u) && col < P.cols {
        return norm_weight[col / 4u];
    }
    return vec4(0.0);
}

// The squares of four inputs around a mean, of those before the last column.
fn squares(v: vec4<f32>, col: u32, mean: f32) -> f32 {
    let behind = vec4(col, col + 1u, col + 2u, col + 3u) >= vec4(P.cols);
    let d = select(v - mean, vec4(0.0), behind);
    return dot(d, d);
}

// The mean of a row and one over its root: a lane has `a` of it from column `col` on and `b` from 16 further, and reads
// its share of what comes from column `next` on.
fn norm_of(at: Invocation, token: u32, a: vec4<f32>, b: vec4<f32>, col: u32, next: u32) -> vec2<f32> {
    if !has(64u) {
        return vec2(0.0);
    }
    let start = next + at.lane * 4u;
    var mean = 0.0;
    if has(128u) {
        var sum = dot(a + b, vec4(1.0));
        for (var i = start; i < P.cols; i += LANES * 4u) {
            sum += dot(raw(token, i), vec4(1.0));
        }
        mean = sum_of_group(at, sum) / f32(P.cols);
    }
    var sum = squares(a, col, mean) + squares(b, col + 16u, mean);
    for (var i = start; i < P.cols; i += LANES * 4u) {
        sum += squares(raw(token, i), i, mean);
    }
    return vec2(mean, 1.0 / sqrt(sum_of_group(at, sum) / f32(P.cols) + P.eps));
}

// Four inputs as the weight meets them.
fn met(v: vec4<f32>, norm: vec2<f32>, weight: vec4<f32>, col: u32) -> vec4<f32> {
    if !has(64u) {
        return scaled(v, col);
    }
    // Weight and bias are 0 behind the last column.
    var u = (v - norm.x) * norm.y * weight;
    if has(256u) && col < P.cols {
        u += norm_bias[col / 4u];
    }
    return scaled(u, col);
}
