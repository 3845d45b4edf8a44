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
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

// Whether there is an output for a row of the shard, or for a gate's row, which its up row is 8 behind.
fn gives(token: u32, row: u32) -> bool {
    return token < P.tokens && row + select(0u, 8u, has(1u)) < P.rows && owns(token, row);
}

// Where that lies among all.
fn place_of(token: u32, row: u32) -> u32 {
    if has(1u) {
        return token * (P.all / 2u) + (P.first + row) / 16u * 8u + row % 8u;
    }
    return token * P.all + P.first + row;
}

// What comes to a row's sum: its bias, which may be one for each choice, that of its up row, and the residual.
fn added(token: u32, row: u32, place: u32) -> vec3<f32> {
    var v = vec3(0.0);
    if has(2u) {
        let start = bias_row(token) * P.all + P.first + row;
        v.x = bias[start];
        if has(1u) {
            v.y = bias[start + 8u];
        }
    }
    if has(4u) {
        v.z = residual[place];
    }
    return v;
}

// The output for a row's sum, and that of its up row where it is a gate's.
fn result(sum: f32, up: f32, add: vec3<f32>) -> f32 {
    if has(16u) {
        return activate(ACTIVATION, sum + add.x + add.z);
    }
    var value = activate(ACTIVATION, sum + add.x);
    if has(1u) {
        value *= up + add.y;
    }
    if has(4u) {
        value += add.z;
    }
    return value;
}

fn write(token: u32, row: u32, sum: f32, up: f32) {
    if gives(token, row) {
        let place = place_of(token, row);
        out[place] = result(sum, up, added(token, row, place));
    }
}
