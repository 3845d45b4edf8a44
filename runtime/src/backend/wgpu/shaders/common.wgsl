// Shared by all shaders. Groups beyond the limit of a dimension continue in the second.

fn flat(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
