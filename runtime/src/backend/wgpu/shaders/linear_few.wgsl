// A linear of few rows: a group sums 16 rows of the weight for FEW rows of the call, each lane over columns of
// its own.

const LANES: u32 = 128u;

// Of each row of the call: those behind the first are left alone where there is one.
struct Few {
    t0: Sums,
    t1: Sums,
    t2: Sums,
    t3: Sums,
}

// What lanes sum, and eighths of the rows' sums.
var<workgroup> fours: array<vec4<f32>, 4u * LANES>;
var<workgroup> totals: array<f32, LANES>;

// Adds up the lanes' sums for a row of the call, and gives each of the first 16 lanes its row's and its up row's.
fn gather(lane: u32, sums: Sums) -> vec2<f32> {
    fours[lane] = sums.a;
    fours[LANES + lane] = sums.b;
    fours[2u * LANES + lane] = sums.c;
    fours[3u * LANES + lane] = sums.d;
    workgroupBarrier();
    // 8 lanes for each row.
    let i = lane / 8u % 4u;
    let start = lane / 32u * LANES + lane % 8u;
    var sum = 0.0;
    for (var at = start; at < start + LANES; at += 32u) {
        sum += (fours[at][i] + fours[at + 8u][i]) + (fours[at + 16u][i] + fours[at + 24u][i]);
    }
    totals[lane] = sum;
    workgroupBarrier();
    if lane >= 16u {
        return vec2(0.0);
    }
    return vec2(total_of(lane), total_of((lane + 8u) % 16u));
}

fn total_of(row: u32) -> f32 {
    let at = row * 8u;
    return ((totals[at] + totals[at + 1u]) + (totals[at + 2u] + totals[at + 3u]))
        + ((totals[at + 4u] + totals[at + 5u]) + (totals[at + 6u] + totals[at + 7u]));
}

@compute @workgroup_size(LANES)
fn main(at: Invocation) {
    let lane = at.lane;
    // Groups that read the same rows of the weight lie side by side.
    let index = flat(at.group, at.groups);
    let parts = (P.tokens + FEW - 1u) / FEW;
    let first_row = index / parts * 16u;
    let first_token = index % parts * FEW;
    let row = weight_row(first_token, first_row);
    let rows = rows_of(first_token, FEW);
    var blocks = blocks_of(first_token, FEW);
    if first_row >= rows || row >= P.stored {
        blocks = 0u;
    }
    if lane == 0u && blocks > 0u {
        count_read(size_of(min(rows - first_row, 16u), blocks));
    }
    let mine = first_row + lane;
    let place = place_of(first_token, mine);
    let writes = lane < select(16u, 8u, has(1u)) && gives(first_token, mine);
    // On its way meanwhile.
    var add = vec3(0.0);
    if writes {
        add = added(first_token, mine, place);
    }
    let few = products(at, row, first_token, blocks);
    let sum = gather(lane, few.t0);
    if writes {
        out[place] = result(sum.x, sum.y, add);
    }
    if FEW > 1u {
        finish(lane, first_token + 1u, mine, few.t1);
        finish(lane, first_token + 2u, mine, few.t2);
        finish(lane, first_token + 3u, mine, few.t3);
    }
}

fn finish(lane: u32, token: u32, row: u32, sums: Sums) {
    let sum = gather(lane, sums);
    if lane < select(16u, 8u, has(1u)) {
        write(token, row, sum.x, sum.y);
    }
}
