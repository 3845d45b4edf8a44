// Of the norm before a linear.
@group(0) @binding(7) var<storage, read> norm_weight: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read> norm_bias: array<vec4<f32>>;
