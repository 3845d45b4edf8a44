// FLAGS are 1: gated, 2: bias, 4: residual, 8: factors, 16: the activation comes after the residual, 32: precise,
// 64: a norm comes first, 128: around the mean, 256: with a bias, 512: columns are no multiple of four. They and
// ACTIVATION are the shader's own: what it has not, it has no text for.
fn has(flag: u32) -> bool {
    return (FLAGS & flag) != 0u;
}
