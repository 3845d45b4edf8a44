// Axes to one number each: a group for each result.

struct Params {
    count: u32,
    // Elements of a result.
    each: u32,
    // 0: sum, 1: mean, 2: product, 3: largest, 4: smallest, 5: root of squares, 6: magnitudes, 7: squares, 8:
    // index of the largest, 9: index of the smallest.
    rule: u32,
    integers: u32,
    kept: array<vec4<u32>, 2>,
    kept_steps: array<vec4<i32>, 2>,
    reduced: array<vec4<u32>, 2>,
    reduced_steps: array<vec4<i32>, 2>,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

const NONE: u32 = 0xffffffffu;
var<workgroup> values: array<u32, LANES>;
var<workgroup> places: array<u32, LANES>;

// Whether the second goes before the first; NaN before all.
fn before(a: u32, b: u32) -> bool {
    let most = P.rule == 3u || P.rule == 8u;
    if P.integers != 0u {
        let x = bitcast<i32>(a);
        let y = bitcast<i32>(b);
        return select((y < x), (y > x), most);
    }
    let x = bitcast<f32>(a);
    let y = bitcast<f32>(b);
    if is_nan(x) {
        return false;
    }
    return is_nan(y) || select((y < x), (y > x), most);
}

fn joined(a: u32, b: u32) -> u32 {
    if P.integers != 0u {
        return select(a + b, a * b, P.rule == 2u);
    }
    let x = bitcast<f32>(a);
    let y = bitcast<f32>(b);
    return bitcast<u32>(select(x + y, x * y, P.rule == 2u));
}

fn taken(word: u32) -> u32 {
    let v = bitcast<f32>(word);
    switch P.rule {
        case 5u, 7u: { return bitcast<u32>(v * v); }
        case 6u: { return bitcast<u32>(abs(v)); }
        default: { return word; }
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat(group, groups);
    let start = offset(min(index, P.count - 1u), P.kept, P.kept_steps);
    let ordered = P.rule == 3u || P.rule == 4u || P.rule >= 8u;
    var value = 0u;
    if P.rule == 2u {
        value = select(bitcast<u32>(1.0), 1u, P.integers != 0u);
    }
    var place = NONE;
    for (var j = lane; j < P.each; j += LANES) {
        let word = x[u32(start + offset(j, P.reduced, P.reduced_steps))];
        if !ordered {
            value = joined(value, taken(word));
        } else if place == NONE || before(value, word) {
            value = word;
            place = j;
        }
    }
    values[lane] = value;
    places[lane] = place;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            let other = values[lane + step];
            let at = places[lane + step];
            if !ordered {
                values[lane] = joined(values[lane], other);
            } else if at != NONE {
                let first = at < places[lane] && !before(other, values[lane]);
                if places[lane] == NONE || before(values[lane], other) || first {
                    values[lane] = other;
                    places[lane] = at;
                }
            }
        }
    }
    workgroupBarrier();
    if lane == 0u && index < P.count {
        var result = values[0];
        switch P.rule {
            case 1u: { result = bitcast<u32>(bitcast<f32>(result) / f32(P.each)); }
            case 5u: { result = bitcast<u32>(sqrt(bitcast<f32>(result))); }
            case 8u, 9u: { result = places[0]; }
            default: {}
        }
        out[index] = result;
    }
}
