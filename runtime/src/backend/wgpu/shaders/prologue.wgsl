// A norm of the input comes first, where there is one: every group computes it for its rows.

@group(0) @binding(7) var<storage, read> norm_weight: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read> norm_bias: array<vec4<f32>>;

// Of each row: its mean, and one over the root.
var<workgroup> means: array<f32, FEW>;
var<workgroup> inverses: array<f32, FEW>;

fn prologue(at: Invocation, first_token: u32) {
    if !has(64u) {
        return;
    }
    for (var t = 0u; t < FEW; t++) {
        let token = min(first_token + t, P.tokens - 1u);
        var mean = 0.0;
        if has(128u) {
            var sum = 0.0;
            for (var col = at.lane * 4u; col < P.cols; col += LANES * 4u) {
                sum += dot(raw(token, col), vec4(1.0));
            }
            mean = sum_of_group(at, sum) / f32(P.cols);
        }
        var squares = 0.0;
        for (var col = at.lane * 4u; col < P.cols; col += LANES * 4u) {
            let behind = vec4(col, col + 1u, col + 2u, col + 3u) >= vec4(P.cols);
            let d = select(raw(token, col) - mean, vec4(0.0), behind);
            squares += dot(d, d);
        }
        let total = sum_of_group(at, squares);
        if at.lane == 0u {
            means[t] = mean;
            inverses[t] = 1.0 / sqrt(total / f32(P.cols) + P.eps);
        }
    }
    workgroupBarrier();
}

// Four inputs of row `t` of the group, as the weight meets them.
fn given(t: u32, first_token: u32, col: u32) -> vec4<f32> {
    let token = min(first_token + t, P.tokens - 1u);
    if !has(64u) {
        return inputs(token, col);
    }
    if col >= P.cols {
        return vec4(0.0);
    }
    // Weight and bias are 0 behind the last column.
    var v = (raw(token, col) - means[t]) * inverses[t] * norm_weight[col / 4u];
    if has(256u) {
        v += norm_bias[col / 4u];
    }
    return scaled(v, col);
}
