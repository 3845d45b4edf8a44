// A linear of few rows: a group sums 16 rows of the weight for FEW rows of the call, each lane over columns of
// its own.

const LANES: u32 = 128u;

// Of 16 rows of the weight.
struct Sums {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

// Of each row of the call: those behind the first are left alone where there is one.
struct Few {
    t0: Sums,
    t1: Sums,
    t2: Sums,
    t3: Sums,
}

// Activations, then what lanes sum, as bits.
var<workgroup> fours: array<vec4<u32>, 4u * LANES>;
var<workgroup> totals: array<vec4<f32>, 4u * FEW>;

fn part_at(i: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(fours[i]);
}

// Adds up the lanes' sums for row `t` of the call.
fn gather(lane: u32, t: u32, sums: Sums) {
    workgroupBarrier();
    fours[lane] = bitcast<vec4<u32>>(sums.a);
    fours[LANES + lane] = bitcast<vec4<u32>>(sums.b);
    fours[2u * LANES + lane] = bitcast<vec4<u32>>(sums.c);
    fours[3u * LANES + lane] = bitcast<vec4<u32>>(sums.d);
    workgroupBarrier();
    // 32 lanes for each four rows.
    let start = lane / 32u * LANES + lane % 32u;
    let sum = part_at(start) + part_at(start + 32u) + (part_at(start + 64u) + part_at(start + 96u));
    fours[start] = bitcast<vec4<u32>>(sum);
    workgroupBarrier();
    if lane < 16u {
        let at = lane / 4u * LANES + lane % 4u;
        let sum = part_at(at) + part_at(at + 4u) + (part_at(at + 8u) + part_at(at + 12u))
            + (part_at(at + 16u) + part_at(at + 20u) + (part_at(at + 24u) + part_at(at + 28u)));
        fours[at] = bitcast<vec4<u32>>(sum);
    }
    workgroupBarrier();
    if lane < 4u {
        let at = lane * LANES;
        totals[t * 4u + lane] = part_at(at) + part_at(at + 1u) + (part_at(at + 2u) + part_at(at + 3u));
    }
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
    let few = products(at, row, first_token, blocks);
    gather(lane, 0u, few.t0);
    if FEW > 1u {
        gather(lane, 1u, few.t1);
        gather(lane, 2u, few.t2);
        gather(lane, 3u, few.t3);
    }
    workgroupBarrier();
    if lane < 16u * FEW {
        let token = first_token + lane / 16u;
        let r = lane % 16u;
        let total = totals[lane / 4u][r % 4u];
        if !has(1u) {
            write(token, first_row + r, total);
        } else if r < 8u {
            write_gated(token, first_row + r, total, totals[lane / 4u + 2u][r % 4u]);
        }
    }
}
