// A linear of many rows: a group sums a tile of 64 rows of the weight by 32 of the call, some columns at a time;
// a lane has 4 by 4 of them, side by side.

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tiles = (P.rows + 63u) / 64u;
    let index = flat(group, groups);
    let first_row = index % tiles * 64u;
    let first = index / tiles * 32u;
    let n = lane % 16u;
    let m = lane / 16u;
    var blocks = blocks_of(first, 32u);
    let rows = rows_of(first, 32u);
    let start = start_of(first, first_row);
    // Of an expert's rows those before the shard or behind it may be in others: `start` is up to 63 before it.
    if first_row >= rows || (start >= P.stored && start < 0xffffffc1u) {
        blocks = 0u;
    }
    if lane == 0u && blocks > 0u {
        count_read(size_of(min(rows - first_row, 64u), blocks));
    }
    var sum = products(lane, start, first, blocks);
    if !has(1u) {
        for (var t = 0u; t < 4u; t++) {
            for (var i = 0u; i < 4u; i++) {
                write(row_at(first + 4u * m + t), first_row + 4u * n + i, sum[t][i], 0.0);
            }
        }
        return;
    }
    for (var t = 0u; t < 4u; t++) {
        for (var i = 0u; i < 4u; i++) {
            put_sum((4u * m + t) * 64u + 4u * n + i, sum[t][i]);
        }
    }
    workgroupBarrier();
    for (var unit = lane; unit < 1024u; unit += 128u) {
        let r = unit % 32u / 8u * 16u + unit % 8u;
        let at = unit / 32u * 64u + r;
        write(row_at(first + unit / 32u), first_row + r, sum_at(at), sum_at(at + 8u));
    }
}
