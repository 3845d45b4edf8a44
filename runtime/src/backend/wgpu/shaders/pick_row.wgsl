// Of the lists of a row's slices: the sum of exp(logit - largest) over all logits, and the list. A group for each
// row.

// Whether more was kept than there is room for.
var<workgroup> full: u32;

// Where item `i` of the lists lies. First the first of all lists, then the second: so the largest of many slices fall
// to different lanes. The other way one list after the other: so those of few slices do.
fn word_of(start: u32, i: u32, way: u32) -> u32 {
    let size = 2u * P.count + 2u;
    if way == 0u {
        return start + i % P.slices * size + 2u + 2u * (i / P.slices);
    }
    return start + i / P.count * size + 2u + 2u * (i % P.count);
}

@compute @workgroup_size(LANES)
fn main(at: Invocation) {
    let lane = at.lane;
    let index = flat(at.group, at.groups);
    let row = min(index, P.rows - 1u);
    let size = 2u * P.count + 2u;
    let start = row * P.slices * size;
    let items = P.slices * P.count;
    for (var way = 0u; way < 2u; way++) {
        var mine = nothing(lane);
        for (var i = lane; i < items; i += LANES) {
            let word = word_of(start, i, way);
            let item = vec2(order(given[word + 1u]), given[word]);
            if item.y != NONE && before(item, mine) {
                mine = item;
            }
        }
        find_bound(lane, mine);
        for (var i = lane; i < items; i += LANES) {
            let word = word_of(start, i, way);
            if given[word] != NONE {
                keep(vec2(order(given[word + 1u]), given[word]), given[word + 1u]);
            }
        }
        workgroupBarrier();
        if lane == 0u {
            full = u32(atomicLoad(&met) > ROOM);
        }
        if workgroupUniformLoad(&full) == 0u {
            break;
        }
    }
    // The largest of the slice that the largest is in.
    let top = bitcast<f32>(given[start + largest.y / ROOM * size + 1u]);
    var sum = 0.0;
    for (var i = lane; i < P.slices; i += LANES) {
        let part = bitcast<f32>(given[start + i * size]);
        let most = bitcast<f32>(given[start + i * size + 1u]);
        sum += part * exp(max(most - top, -87.0));
    }
    sum = sum_of_group(at, sum);
    if index >= P.rows {
        return;
    }
    let to = index * P.size;
    if lane == 0u {
        found[to] = bitcast<u32>(sum);
    }
    write_list(lane, to + 1u);
}
