// A linear whose rows each meet an expert's rows of a stacked weight; see route.wgsl. `rows` are an expert's.

@group(0) @binding(7) var<storage, read> routes: array<u32>;

fn input_row(token: u32) -> u32 {
    return token / P.share;
}

fn cols_of(token: u32) -> u32 {
    return P.cols;
}

fn bias_row(token: u32) -> u32 {
    return 0u;
}

// Beyond all rows where there is no expert, or where its row is in another shard.
fn weight_row(token: u32, row: u32) -> u32 {
    let expert = routes[2u * min(token, P.tokens - 1u)];
    let at = expert * P.rows + row;
    if expert == 0xffffffffu || row >= P.rows || at < P.base {
        return 0xffffffffu;
    }
    return at - P.base;
}

// Rows of the call in a tile have one expert. Where rows before a shard come first this wraps around.
fn start_of(place: u32, row: u32) -> u32 {
    let token = row_at(place);
    if token >= P.tokens {
        return 0x80000000u;
    }
    return routes[2u * token] * P.rows + row - P.base;
}

fn rows_of(place: u32, count: u32) -> u32 {
    return P.rows;
}

fn blocks_of(place: u32, count: u32) -> u32 {
    return P.blocks;
}

// Whether a row of the call has its result from this shard.
fn owns(token: u32, row: u32) -> bool {
    return weight_row(token, row) < P.stored;
}
