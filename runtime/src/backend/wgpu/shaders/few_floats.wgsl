// What a lane sums of 16 rows of floats, for each row of the call: a column at a time. A format has its own
// `column`, which gives one of 16 rows.

fn add(sums: Sums, c: Sums, t: u32, first_token: u32, col: u32) -> Sums {
    let v = given(t, first_token, col / 4u * 4u)[col % 4u];
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
        let c = column(row, col);
        few.t0 = add(few.t0, c, 0u, first_token, col);
        if FEW > 1u {
            few.t1 = add(few.t1, c, 1u, first_token, col);
            few.t2 = add(few.t2, c, 2u, first_token, col);
            few.t3 = add(few.t3, c, 3u, first_token, col);
        }
    }
    return few;
}
