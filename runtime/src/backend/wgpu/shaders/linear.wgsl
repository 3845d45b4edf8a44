// What both kernels of a linear share: operands, and what comes after the sums.

struct Params {
    // Rows of the call.
    tokens: u32,
    // Of the weight: columns, blocks of 32 of them, and rows of this shard.
    cols: u32,
    blocks: u32,
    rows: u32,
    // The shard's first row, and the rows of all shards.
    first: u32,
    all: u32,
    activation: u32,
    // 1: gated, 2: bias, 4: residual, 8: factors, 16: the activation comes after the residual,
    // 32: precise, 64: a norm comes first, 128: around the mean, 256: with a bias.
    flags: u32,
    // Rows that the shard's bytes hold.
    stored: u32,
    // Rows of the call that share a row of the input.
    share: u32,
    // Where choices begin, and how many rows or columns of the weight a choice stands for; see limited.wgsl.
    choices: u32,
    unit_rows: u32,
    unit_cols: u32,
    // The shard's first row among those of all experts; see routed.wgsl.
    base: u32,
    // Where what is read of the weight is counted.
    counter: u32,
    // Of images, see window.wgsl: channels, sides, sides of the result, then of the window: columns, strides,
    // pixels added above and at the left, distances.
    channels: u32,
    height: u32,
    width: u32,
    down: u32,
    across: u32,
    kernel: u32,
    stride_y: u32,
    stride_x: u32,
    pad_y: u32,
    pad_x: u32,
    step_y: u32,
    step_x: u32,
    // Of a norm.
    eps: f32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read> factors: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

fn has(flag: u32) -> bool {
    return (P.flags & flag) != 0u;
}

// A sum with its bias; `row` counts within the shard. A bias may be one for each choice.
fn biased(sum: f32, token: u32, row: u32) -> f32 {
    if has(2u) && row < P.rows {
        return sum + bias[bias_row(token) * P.all + P.first + row];
    }
    return sum;
}

// Writes output `at` of all.
fn finish(value: f32, at: u32) {
    if has(4u) {
        out[at] = value + residual[at];
    } else {
        out[at] = value;
    }
}

// The result for a row of the shard.
fn write(token: u32, row: u32, sum: f32) {
    if token < P.tokens && row < P.rows && owns(token, row) {
        let at = token * P.all + P.first + row;
        let value = biased(sum, token, row);
        if has(16u) {
            out[at] = activate(P.activation, value + residual[at]);
        } else {
            finish(activate(P.activation, value), at);
        }
    }
}

// The result for a gate's row, which its up row is 8 behind.
fn write_gated(token: u32, row: u32, gate: f32, up: f32) {
    if token < P.tokens && row + 8u < P.rows && owns(token, row) {
        let value = activate(P.activation, biased(gate, token, row)) * biased(up, token, row + 8u);
        finish(value, token * (P.all / 2u) + (P.first + row) / 16u * 8u + row % 8u);
    }
}
