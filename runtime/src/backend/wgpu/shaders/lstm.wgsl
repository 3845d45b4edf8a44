// A long short-term memory: a group for each direction of each sequence of a batch, which goes through time.
// Gates come in the order input, output, forget, cell. The cells lie after the states of all times.

struct Params {
    time: u32,
    batch: u32,
    inputs: u32,
    hidden: u32,
    directions: u32,
    // A bit for each direction that begins at the end.
    reverse: u32,
    // 1: bias, 2: a state to begin with.
    flags: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> r: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> first_state: array<f32>;
@group(0) @binding(6) var<storage, read> first_cells: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

const LANES: u32 = 128u;

// The sums of the four gates of a unit.
fn gates(direction: u32, sequence: u32, unit: u32, t: u32, before: u32, begins: bool) -> vec4<f32> {
    let at = (direction * P.batch + sequence) * P.hidden;
    var sums = vec4(0.0);
    for (var g = 0u; g < 4u; g++) {
        let row = (direction * 4u + g) * P.hidden + unit;
        var sum = 0.0;
        if (P.flags & 1u) != 0u {
            let b = direction * 8u * P.hidden + g * P.hidden + unit;
            sum = bias[b] + bias[b + 4u * P.hidden];
        }
        for (var k = 0u; k < P.inputs; k++) {
            sum += w[row * P.inputs + k] * x[(t * P.batch + sequence) * P.inputs + k];
        }
        if !begins {
            for (var k = 0u; k < P.hidden; k++) {
                sum += r[row * P.hidden + k] * out[before + k];
            }
        } else if (P.flags & 2u) != 0u {
            for (var k = 0u; k < P.hidden; k++) {
                sum += r[row * P.hidden + k] * first_state[at + k];
            }
        }
        sums[g] = sum;
    }
    return sums;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat(group, groups);
    let direction = min(index / P.batch, P.directions - 1u);
    let sequence = index % P.batch;
    let units = select(0u, P.hidden, index < P.directions * P.batch);
    let row = P.directions * P.batch * P.hidden;
    let at = (direction * P.batch + sequence) * P.hidden;
    let cells = P.time * row + at;
    for (var i = lane; i < units; i += LANES) {
        out[cells + i] = 0.0;
        if (P.flags & 2u) != 0u {
            out[cells + i] = first_cells[at + i];
        }
    }
    let backwards = ((P.reverse >> direction) & 1u) != 0u;
    var before = 0u;
    for (var step = 0u; step < P.time; step++) {
        let t = select(step, P.time - 1u - step, backwards);
        for (var i = lane; i < units; i += LANES) {
            let sums = gates(direction, sequence, i, t, before, step == 0u);
            let cell = sigmoid(sums[2]) * out[cells + i] + sigmoid(sums[0]) * bounded_tanh(sums[3]);
            out[cells + i] = cell;
            out[t * row + at + i] = sigmoid(sums[1]) * bounded_tanh(cell);
        }
        storageBarrier();
        before = t * row + at;
    }
}
