// Images in another size. Three words for each line, then for each column, of the result: two of the image's
// and the share of the second.

struct Params {
    count: u32,
    channels: u32,
    height: u32,
    width: u32,
    down: u32,
    across: u32,
}
@group(0) @binding(0) var<uniform> P: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> places: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

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
    let channel = i % P.channels;
    let pixel = i / P.channels;
    let line = pixel / P.across % P.down * 3u;
    let column = (P.down + pixel % P.across) * 3u;
    let image = pixel / P.across / P.down * P.height;
    let first = (image + places[line]) * P.width;
    let second = (image + places[line + 1u]) * P.width;
    let left = places[column];
    let right = places[column + 1u];
    let a = x[(first + left) * P.channels + channel];
    let b = x[(first + right) * P.channels + channel];
    let c = x[(second + left) * P.channels + channel];
    let d = x[(second + right) * P.channels + channel];
    let share = bitcast<f32>(places[column + 2u]);
    let above = a + (b - a) * share;
    let below = c + (d - c) * share;
    out[i] = above + (below - above) * bitcast<f32>(places[line + 2u]);
}
