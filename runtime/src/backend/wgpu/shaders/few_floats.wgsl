// What a lane sums of 16 rows of floats, for each row of the call: a column at a time. A format has its own
// `column`, which gives one of 16 rows; SKIPS_ZEROS says that none is read which meets nothing but zeros.

fn value(token: u32, norm: vec2<f32>, col: u32) -> f32 {
    let four = col / 4u * 4u;
    return met(given(token, four), norm, weight_of(four), four)[col % 4u];
}

// The norm of a row of which a lane reads its share.
fn norm_for(at: Invocation, token: u32) -> vec2<f32> {
    return norm_of(at, token, vec4(0.0), vec4(0.0), P.cols, 0u);
}

fn add(sums: Sums, c: Sums, v: f32) -> Sums {
    return Sums(sums.a + c.a * v, sums.b + c.b * v, sums.c + c.c * v, sums.d + c.d * v);
}

fn products(at: Invocation, row: u32, first_token: u32, blocks: u32) -> Few {
    var few: Few;
    if blocks == 0u {
        return few;
    }
    let tokens = min(vec4(first_token) + vec4(0u, 1u, 2u, 3u), vec4(P.tokens - 1u));
    var norms: array<vec2<f32>, 4>;
    norms[0] = norm_for(at, tokens.x);
    if FEW > 1u {
        norms[1] = norm_for(at, tokens.y);
        norms[2] = norm_for(at, tokens.z);
        norms[3] = norm_for(at, tokens.w);
    }
    let cols = min(P.cols, blocks * 32u);
    for (var col = at.lane; col < cols; col += LANES) {
        var v = vec4(value(tokens.x, norms[0], col), 0.0, 0.0, 0.0);
        if FEW > 1u {
            v.y = value(tokens.y, norms[1], col);
            v.z = value(tokens.z, norms[2], col);
            v.w = value(tokens.w, norms[3], col);
        }
        if SKIPS_ZEROS && all(v == vec4(0.0)) {
            continue;
        }
        let c = column(row, col);
        few.t0 = add(few.t0, c, v.x);
        if FEW > 1u {
            few.t1 = add(few.t1, c, v.y);
            few.t2 = add(few.t2, c, v.z);
            few.t3 = add(few.t3, c, v.w);
        }
    }
    return few;
}
