// No norm comes first; see prologue.wgsl.

fn given(token: u32, col: u32) -> vec4<f32> {
    return inputs(token, col);
}

fn weight_of(col: u32) -> vec4<f32> {
    return vec4(0.0);
}

fn norm_of(at: Invocation, token: u32, a: vec4<f32>, b: vec4<f32>, col: u32, next: u32) -> vec2<f32> {
    return vec2(0.0);
}

fn met(v: vec4<f32>, norm: vec2<f32>, weight: vec4<f32>, col: u32) -> vec4<f32> {
    return v;
}
