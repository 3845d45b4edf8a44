// A linear of few rows: a group sums 16 rows of the weight for FEW rows of the call, each lane over blocks of
// its own.

const LANES: u32 = 128u;
const PARTS: u32 = LANES / 64u;

var<workgroup> sums: array<f32, LANES * FEW>;
var<workgroup> totals: array<f32, 16u * FEW>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tiles = (P.rows + 15u) / 16u;
    let index = flat(group, groups);
    let first_row = index % tiles * 16u;
    let first_token = index / tiles * FEW;
    let row = weight_row(first_token, first_row + lane % 16u);
    let rows = rows_of(first_token, FEW);
    var blocks = blocks_of(first_token, FEW);
    if first_token >= P.tokens || first_row >= rows || weight_row(first_token, first_row) >= P.stored {
        blocks = 0u;
    }
    if lane == 0u && blocks > 0u {
        count_read(size_of(min(rows - first_row, 16u), blocks));
    }
    var sum = products(lane, row, first_token, blocks);
    for (var t = 0u; t < FEW; t++) {
        sums[t * LANES + lane] = sum[t];
    }
    workgroupBarrier();
    if lane < 16u * FEW {
        var total = 0.0;
        for (var i = 0u; i < LANES / 16u; i++) {
            total += sums[lane / 16u * LANES + i * 16u + lane % 16u];
        }
        totals[lane] = total;
    }
    workgroupBarrier();
    if lane < 16u * FEW {
        let token = first_token + lane / 16u;
        let r = lane % 16u;
        if !has(1u) {
            write(token, first_row + r, totals[lane]);
        } else if r < 8u {
            write_gated(token, first_row + r, totals[lane], totals[lane + 8u]);
        }
    }
}
