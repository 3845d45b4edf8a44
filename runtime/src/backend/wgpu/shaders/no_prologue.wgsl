fn prologue(at: Invocation, first_token: u32) {
}

// Four inputs of row `t` of the group.
fn given(t: u32, first_token: u32, col: u32) -> vec4<f32> {
    return inputs(min(first_token + t, P.tokens - 1u), col);
}
