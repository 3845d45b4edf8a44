// Axes of tensors, eight of them, those in front of size 1.

fn offset(index: u32, sizes: array<vec4<u32>, 2>, strides: array<vec4<i32>, 2>) -> i32 {
    var rest = index;
    var at = 0;
    for (var k = 0u; k < 8u; k++) {
        let axis = 7u - k;
        let size = select(sizes[1][axis % 4u], sizes[0][axis % 4u], axis < 4u);
        let stride = select(strides[1][axis % 4u], strides[0][axis % 4u], axis < 4u);
        at += i32(rest % size) * stride;
        rest /= size;
    }
    return at;
}
