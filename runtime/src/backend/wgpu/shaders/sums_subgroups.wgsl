// Sums over the lanes of a group, and largest values: over those of each subgroup first.

struct Invocation {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) sublane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
}

// Of each subgroup, which has a lane at least.
var<workgroup> of_subgroups: array<f32, LANES>;

fn sum_of_group(at: Invocation, value: f32) -> f32 {
    let mine = subgroupAdd(value);
    workgroupBarrier();
    if at.sublane == 0u {
        of_subgroups[at.subgroup] = mine;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < at.subgroups; i++) {
        sum += of_subgroups[i];
    }
    return sum;
}

fn largest_of_group(at: Invocation, value: f32) -> f32 {
    let mine = subgroupMax(value);
    workgroupBarrier();
    if at.sublane == 0u {
        of_subgroups[at.subgroup] = mine;
    }
    workgroupBarrier();
    var most = of_subgroups[0];
    for (var i = 1u; i < at.subgroups; i++) {
        most = max(most, of_subgroups[i]);
    }
    return most;
}
