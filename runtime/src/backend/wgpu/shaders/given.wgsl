// Images that the call gives, channel by channel, as rows: of pixels, or of patches after `lead` rows of zeros.

struct Params {
    count: u32,
    // Where they lie in the call.
    start: u32,
    channels: u32,
    height: u32,
    width: u32,
    // Side of a patch; 1 for pixels.
    patch_side: u32,
    lead: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> call: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

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
    let side = P.patch_side;
    let across = P.width / side;
    let cols = P.channels * side * side;
    let rows = P.lead + P.height / side * across;
    let image = i / cols / rows;
    let row = i / cols % rows;
    if row < P.lead {
        out[i] = 0.0;
        return;
    }
    let place = row - P.lead;
    let channel = i % cols / (side * side);
    let y = place / across * side + i % (side * side) / side;
    let at = place % across * side + i % side;
    let pixel = ((image * P.channels + channel) * P.height + y) * P.width + at;
    out[i] = bitcast<f32>(call[P.start + pixel]);
}
