// Rows of a table, or of a shard of it: an invocation for 8 columns of a row.

struct Params {
    tokens: u32,
    // Of the table.
    cols: u32,
    blocks: u32,
    // The shard's first row, and how many it has.
    first: u32,
    rows: u32,
    // Where the ids lie: in the call, or in a tensor.
    ids: u32,
    scale: f32,
    // Rows of all shards, the number of the step, and where it is reported.
    all: u32,
    step: u32,
    fault: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> made: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = flat(group, groups) * 64u + lane;
    let token = item / (P.blocks * 4u);
    if token >= P.tokens {
        return;
    }
    let id = ids[P.ids + token];
    if id >= P.all {
        report(id);
        return;
    }
    let row = id - P.first;
    if row >= P.rows {
        return;
    }
    let block = item / 4u % P.blocks;
    let q = item % 4u;
    let pair = load(row, block, q);
    let col = block * 32u + q * 4u;
    let at = token * P.cols + col;
    for (var i = 0u; i < 4u; i++) {
        if col + i < P.cols {
            out[at + i] = pair.lo[i] * P.scale;
        }
        if col + 16u + i < P.cols {
            out[at + 16u + i] = pair.hi[i] * P.scale;
        }
    }
}
