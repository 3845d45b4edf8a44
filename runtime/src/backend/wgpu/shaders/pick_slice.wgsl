// Of a slice of a row of logits: the sum of exp(logit - largest), the largest, and the list. A group for each
// slice.

@compute @workgroup_size(LANES)
fn main(at: Invocation) {
    let lane = at.lane;
    let index = flat(at.group, at.groups);
    let row = min(index / P.slices, P.rows - 1u);
    let first = index % P.slices * ROOM;
    let start = row * P.cols;
    let end = min(first + ROOM, P.cols);
    var mine = nothing(lane);
    for (var i = first + lane; i < end; i += LANES) {
        let item = vec2(order(given[start + i]), i);
        if before(item, mine) {
            mine = item;
        }
    }
    find_bound(lane, mine);
    let top = given[start + largest.y];
    var sum = 0.0;
    for (var i = first + lane; i < end; i += LANES) {
        let bits = given[start + i];
        sum += exp(max(bitcast<f32>(bits) - bitcast<f32>(top), -87.0));
        keep(vec2(order(bits), i), bits);
    }
    sum = sum_of_group(at, sum);
    if index >= P.rows * P.slices {
        return;
    }
    let to = index * (2u * P.count + 2u);
    if lane == 0u {
        found[to] = bitcast<u32>(sum);
        found[to + 1u] = top;
    }
    write_list(lane, to + 2u);
}
