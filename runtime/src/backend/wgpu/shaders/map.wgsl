// Elementwise computation by a small program: an invocation runs it for one element.
//
// A step is four words. 0: element of input a; 1: the bits a; 2: function a of step b; 3: function a of steps b
// and c; 4: step b where step a is not 0, else step c; 5: of the last input, which then holds several in the
// shape of the result, the one that begins at a. Functions from 100 on are of integers.

struct Params {
    count: u32,
    steps: u32,
    unused: vec2<u32>,
    sizes: array<vec4<u32>, 2>,
    strides: array<vec4<i32>, 12>,
    program: array<vec4<u32>, 64>,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> x0: array<u32>;
@group(0) @binding(2) var<storage, read> x1: array<u32>;
@group(0) @binding(3) var<storage, read> x2: array<u32>;
@group(0) @binding(4) var<storage, read> x3: array<u32>;
@group(0) @binding(5) var<storage, read> x4: array<u32>;
@group(0) @binding(6) var<storage, read> x5: array<u32>;
@group(0) @binding(7) var<storage, read_write> out: array<u32>;

fn nan() -> f32 {
    return bitcast<f32>(0x7fc00000u | min(P.steps, 1u));
}

fn infinity() -> f32 {
    return bitcast<f32>(0x7f800000u * min(P.steps, 1u));
}

// Within half a turn, so that devices' sines are precise.
fn turned(x: f32) -> f32 {
    let turns = round(x * 0.15915494);
    return (x - turns * 6.28125) - turns * 0.0019353072;
}

// The nearest number of 16 bits: a multiple of the step between such numbers, which is a power of two.
fn of_f16(x: f32) -> f32 {
    if is_nan(x) || x == 0.0 {
        return x;
    }
    if abs(x) >= 65520.0 {
        return sign(x) * infinity();
    }
    let step = max((bitcast<u32>(x) >> 23u) & 255u, 113u) - 10u;
    return round(x * bitcast<f32>((254u - step) << 23u)) * bitcast<f32>(step << 23u);
}

fn unary(f: u32, word: u32) -> u32 {
    let x = bitcast<f32>(word);
    let n = bitcast<i32>(word);
    var y = 0.0;
    switch f {
        case 0u: { y = -x; }
        case 1u: { y = abs(x); }
        case 2u: { y = select(sign(x), x, is_nan(x)); }
        case 3u: { y = sqrt(x); }
        case 4u: { y = exp(x); }
        case 5u: { y = log(x); }
        case 6u: { y = 1.0 / x; }
        case 7u: { y = select(sign(x) * erf_of(abs(x)), x, is_nan(x)); }
        case 8u: { y = sin(turned(x)); }
        case 9u: { y = cos(turned(x)); }
        case 10u: { y = floor(x); }
        case 11u: { y = ceil(x); }
        case 12u: { y = round(x); }
        case 13u: { return select(0u, 1u, is_nan(x)); }
        case 14u: {
            if is_nan(x) {
                return 0u;
            }
            if x >= 2147483648.0 {
                return 0x7fffffffu;
            }
            return bitcast<u32>(i32(max(trunc(x), -2147483648.0)));
        }
        case 15u: { return select(0u, 1u, x != 0.0); }
        case 100u: { return bitcast<u32>(-n); }
        case 101u: { return bitcast<u32>(abs(n)); }
        case 102u: { return bitcast<u32>(sign(n)); }
        case 103u: { return select(0u, 1u, n == 0); }
        case 104u: { y = f32(n); }
        case 106u: { y = of_f16(x); }
        case 107u: { return select((word + 0x7fffu + ((word >> 16u) & 1u)) & 0xffff0000u, word, is_nan(x)); }
        case 105u: { return select(0u, 1u, n != 0); }
        default: { y = activate(f - 16u, x); }
    }
    return bitcast<u32>(y);
}

fn power(x: f32, y: f32) -> f32 {
    if y == 0.0 || x == 1.0 {
        return 1.0;
    }
    if y == 2.0 {
        return x * x;
    }
    if y == 0.5 {
        return sqrt(x);
    }
    if is_nan(x) || is_nan(y) {
        return nan();
    }
    let size = abs(x);
    var result = 0.0;
    if size > 0.0 {
        result = exp2(y * log2(size));
    } else if y < 0.0 {
        result = infinity();
    }
    if x >= 0.0 {
        return result;
    }
    if floor(y) != y {
        return nan();
    }
    return select(result, -result, floor(y * 0.5) * 2.0 != y);
}

fn floats(f: u32, x: f32, y: f32) -> u32 {
    var z = 0.0;
    switch f {
        case 0u: { z = x + y; }
        case 1u: { z = x - y; }
        case 2u: { z = x * y; }
        case 3u: { z = x / y; }
        case 4u: { z = x - y * floor(x / y); }
        case 5u: { z = x - y * trunc(x / y); }
        case 6u: { z = power(x, y); }
        case 7u: {
            z = min(x, y);
            if is_nan(x) || is_nan(y) {
                z = nan();
            }
        }
        case 8u: {
            z = max(x, y);
            if is_nan(x) || is_nan(y) {
                z = nan();
            }
        }
        case 9u: { return select(0u, 1u, x == y); }
        case 10u: { return select(0u, 1u, x < y); }
        default: { return select(0u, 1u, x <= y); }
    }
    return bitcast<u32>(z);
}

fn integers(f: u32, x: i32, y: i32) -> u32 {
    let by = select(y, 1, y == 0);
    switch f {
        case 100u: { return bitcast<u32>(x + y); }
        case 101u: { return bitcast<u32>(x - y); }
        case 102u: { return bitcast<u32>(x * y); }
        case 103u: { return select(bitcast<u32>(x / by), 0u, y == 0); }
        case 104u: {
            let rest = x % by;
            let turned = select(rest, rest + by, rest != 0 && (rest < 0) != (by < 0));
            return select(bitcast<u32>(turned), 0u, y == 0);
        }
        case 105u: { return select(bitcast<u32>(x % by), 0u, y == 0); }
        case 107u: { return bitcast<u32>(min(x, y)); }
        case 108u: { return bitcast<u32>(max(x, y)); }
        case 109u: { return select(0u, 1u, x == y); }
        case 110u: { return select(0u, 1u, x < y); }
        case 111u: { return select(0u, 1u, x <= y); }
        case 112u: { return select(0u, 1u, x != 0 && y != 0); }
        case 113u: { return select(0u, 1u, x != 0 || y != 0); }
        default: { return select(0u, 1u, (x != 0) != (y != 0)); }
    }
}

fn input(which: u32, index: u32) -> u32 {
    let strides = array<vec4<i32>, 2>(P.strides[2u * which], P.strides[2u * which + 1u]);
    let at = u32(offset(index, P.sizes, strides));
    switch which {
        case 0u: { return x0[at]; }
        case 1u: { return x1[at]; }
        case 2u: { return x2[at]; }
        case 3u: { return x3[at]; }
        case 4u: { return x4[at]; }
        default: { return x5[at]; }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat(group, groups) * 64u + lane;
    if i >= P.count {
        return;
    }
    var values: array<u32, 64>;
    var last = 0u;
    for (var s = 0u; s < P.steps; s++) {
        let step = P.program[s];
        switch step.x {
            case 0u: { last = input(step.y, i); }
            case 1u: { last = step.y; }
            case 2u: { last = unary(step.y, values[step.z]); }
            case 3u: {
                let a = values[step.z];
                let b = values[step.w];
                if step.y < 100u {
                    last = floats(step.y, bitcast<f32>(a), bitcast<f32>(b));
                } else {
                    last = integers(step.y, bitcast<i32>(a), bitcast<i32>(b));
                }
            }
            case 5u: { last = x5[step.y + i]; }
            default: { last = select(values[step.w], values[step.z], values[step.y] != 0u); }
        }
        values[s] = last;
    }
    out[i] = last;
}
