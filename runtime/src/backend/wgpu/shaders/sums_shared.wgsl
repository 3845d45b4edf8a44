// Sums over the lanes of a group, and largest values, in shared memory.

struct Invocation {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
}

var<workgroup> of_lanes: array<f32, LANES>;

fn sum_of_group(at: Invocation, value: f32) -> f32 {
    workgroupBarrier();
    of_lanes[at.lane] = value;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if at.lane < step {
            of_lanes[at.lane] += of_lanes[at.lane + step];
        }
    }
    workgroupBarrier();
    return of_lanes[0];
}

fn largest_of_group(at: Invocation, value: f32) -> f32 {
    workgroupBarrier();
    of_lanes[at.lane] = value;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if at.lane < step {
            of_lanes[at.lane] = max(of_lanes[at.lane], of_lanes[at.lane + step]);
        }
    }
    workgroupBarrier();
    return of_lanes[0];
}
