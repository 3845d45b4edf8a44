// What a lane sums of 16 rows of floats, for each row of the call: a column at a time. A format has its own
// `column`, which gives one of 16 rows; SKIPS_ZEROS says that none is read which meets nothing but zeros.

fn value(t: u32, first_token: u32, col: u32) -> f32 {
    return given(t, first_token, col / 4u * 4u)[col % 4u];
}

fn add(sums: Sums, c: Sums, v: f32) -> Sums {
    return Sums(sums.a + c.a * v, sums.b + c.b * v, sums.c + c.c * v, sums.d + c.d * v);
}

fn products(at: Invocation, row: u32, first_token: u32, blocks: u32) -> Few {
    var few: Few;
    if blocks == 0u {
        return few;
    }
    prologue(at, first_token);
    let cols = min(P.cols, blocks * 32u);
    for (var col = at.lane; col < cols; col += LANES) {
        var v = vec4(value(0u, first_token, col), 0.0, 0.0, 0.0);
        if FEW > 1u {
            v.y = value(1u, first_token, col);
            v.z = value(2u, first_token, col);
            v.w = value(3u, first_token, col);
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
