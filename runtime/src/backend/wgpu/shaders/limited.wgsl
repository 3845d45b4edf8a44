// A linear of which each row of the call uses as much as its choice at a site says: the first rows of the
// weight, or the first columns.

@group(0) @binding(7) var<storage, read> made: array<u32>;

fn limit(token: u32) -> u32 {
    return made[P.choices + min(token, P.tokens - 1u)];
}

fn input_row(token: u32) -> u32 {
    return token;
}

fn cols_of(token: u32) -> u32 {
    return select(P.cols, min(P.cols, limit(token) * P.unit_cols), P.unit_cols > 0u);
}

// A bias for each choice comes with limited columns.
fn bias_row(token: u32) -> u32 {
    return select(0u, limit(token), P.unit_cols > 0u);
}

fn weight_row(token: u32, row: u32) -> u32 {
    return row;
}

fn start_of(place: u32, row: u32) -> u32 {
    return row;
}

fn largest(place: u32, count: u32) -> u32 {
    var most = 0u;
    for (var i = 0u; i < count; i++) {
        let token = row_at(place + i);
        if token < P.tokens {
            most = max(most, limit(token));
        }
    }
    return most;
}

fn rows_of(place: u32, count: u32) -> u32 {
    if P.unit_rows == 0u {
        return P.rows;
    }
    let needed = largest(place, count) * P.unit_rows;
    return min(P.rows, needed - min(needed, P.first));
}

fn blocks_of(place: u32, count: u32) -> u32 {
    if P.unit_cols == 0u {
        return P.blocks;
    }
    return min(P.blocks, largest(place, count) * P.unit_cols / 32u);
}

// Whether a row of the call has its result from this shard.
fn owns(token: u32, row: u32) -> bool {
    return true;
}
