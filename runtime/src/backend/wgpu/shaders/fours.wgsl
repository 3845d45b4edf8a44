// A weight as words, four at a time.
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
