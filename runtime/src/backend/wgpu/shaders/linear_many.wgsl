// A linear of many rows: a group sums a tile of 64 rows of the weight by 32 of the call, a block of columns
// at a time; a lane has 4 by 4 of them.

var<workgroup> weights: array<f32, 2048>;
var<workgroup> inputs: array<f32, 1056>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tiles = (P.rows + 63u) / 64u;
    let index = flat(group, groups);
    let first_row = index % tiles * 64u;
    let first_token = index / tiles * 32u;
    let n = lane % 16u;
    let m = lane / 16u;
    var sum: array<vec4<f32>, 4>;
    var blocks = blocks_of(first_token, 32u);
    if first_row >= rows_of(first_token, 32u) {
        blocks = 0u;
    }
    for (var block = 0u; block < blocks; block++) {
        for (var unit = lane; unit < 256u; unit += 128u) {
            let row = first_row + unit % 64u;
            let q = unit / 64u;
            var pair = Pair(vec4(0.0), vec4(0.0));
            if row < P.stored {
                pair = load(row, block, q);
            }
            for (var i = 0u; i < 4u; i++) {
                weights[(q * 4u + i) * 64u + unit % 64u] = pair.lo[i];
                weights[(q * 4u + 16u + i) * 64u + unit % 64u] = pair.hi[i];
            }
        }
        for (var unit = lane; unit < 1024u; unit += 128u) {
            let token = first_token + unit / 32u;
            var value = 0.0;
            if token < P.tokens {
                value = input(token, block * 32u + unit % 32u);
            }
            inputs[unit % 32u * 33u + unit / 32u] = value;
        }
        workgroupBarrier();
        for (var k = 0u; k < 32u; k++) {
            let a = vec4(weights[k * 64u + n], weights[k * 64u + n + 16u],
                weights[k * 64u + n + 32u], weights[k * 64u + n + 48u]);
            sum[0] += a * inputs[k * 33u + m];
            sum[1] += a * inputs[k * 33u + m + 8u];
            sum[2] += a * inputs[k * 33u + m + 16u];
            sum[3] += a * inputs[k * 33u + m + 24u];
        }
        workgroupBarrier();
    }
    if !has(1u) {
        for (var t = 0u; t < 4u; t++) {
            for (var i = 0u; i < 4u; i++) {
                write(first_token + m + t * 8u, first_row + n + i * 16u, sum[t][i]);
            }
        }
        return;
    }
    for (var t = 0u; t < 4u; t++) {
        for (var i = 0u; i < 4u; i++) {
            weights[(m + t * 8u) * 64u + n + i * 16u] = sum[t][i];
        }
    }
    workgroupBarrier();
    for (var unit = lane; unit < 1024u; unit += 128u) {
        let r = unit % 32u / 8u * 16u + unit % 8u;
        let at = unit / 32u * 64u + r;
        write_gated(first_token + unit / 32u, first_row + r, weights[at], weights[at + 8u]);
    }
}
