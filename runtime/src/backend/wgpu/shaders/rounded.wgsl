// Activations rounded to 8 bits, as the CPU's kernels have them: a block is bytes times a scale, its largest
// magnitude being 127.

// Of the largest magnitude: up to here 127 over it is no number, and the block becomes zero.
const LEAST: u32 = 0x02fe0000u;
const INFINITE: u32 = 0x7f800000u;

// The largest magnitude of some values, as bits, which are in the same order; NaN above all.
fn magnitude(v: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(v) & vec4(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// 127 over a largest magnitude, rounded to the nearest, which a device's division need not be: what is left of 127
// times a power of two is a small integer, whose low bits are those of the mantissas' product.
fn inverse(largest: u32) -> f32 {
    var bits = bitcast<u32>(127.0 / bitcast<f32>(largest));
    let divisor = (largest & 0x007fffffu) | 0x00800000u;
    for (var i = 0u; i < 2u; i++) {
        let left = -2 * bitcast<i32>(((bits & 0x007fffffu) | 0x00800000u) * divisor);
        if left > i32(divisor) {
            bits += 1u;
        } else if left < -i32(divisor) {
            bits -= 1u;
        }
    }
    return bitcast<f32>(bits);
}

// The bytes of four values in a block of this largest magnitude.
fn rounded(v: vec4<f32>, largest: u32) -> u32 {
    return rounded8(v, vec4(0.0), largest).x;
}

fn rounded8(a: vec4<f32>, b: vec4<f32>, largest: u32) -> vec2<u32> {
    if largest <= LEAST || largest >= INFINITE {
        return vec2(0u);
    }
    let by = inverse(largest);
    return vec2(pack4xI8(vec4<i32>(round(a * by))), pack4xI8(vec4<i32>(round(b * by))));
}

// What the bytes of two words add up to.
fn sum_of_bytes(a: u32, b: u32) -> i32 {
    return dot4I8Packed(0x01010101u, a) + dot4I8Packed(0x01010101u, b);
}

// The scale of such a block.
fn step_of(largest: u32) -> f32 {
    if largest <= LEAST {
        return 0.0;
    }
    if largest >= INFINITE {
        return bitcast<f32>(largest | 0x00400000u);
    }
    return bitcast<f32>(largest) / 127.0;
}

// What bytes stand for.
fn bytes_of(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}
