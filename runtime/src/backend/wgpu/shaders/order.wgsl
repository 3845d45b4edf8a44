// Numbers in the order of floats, above 0, from their bits: zeros are equal, and NaN is above all.
fn order(bits: u32) -> u32 {
    if is_nan(bitcast<f32>(bits)) {
        return 0xffffffffu;
    }
    if bits == 0x80000000u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}
