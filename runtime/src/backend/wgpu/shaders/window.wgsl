// A convolution as a linear: a row of its input is what a window sees of an image, pixel by pixel.

@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;

// Where the channel of a column lies in the images; all ones where a window sees beyond them.
fn seen(token: u32, col: u32) -> u32 {
    let tap = col / P.channels;
    let image = token / (P.down * P.across);
    let y = token / P.across % P.down * P.stride_y + tap / P.kernel * P.step_y - P.pad_y;
    let at = token % P.across * P.stride_x + tap % P.kernel * P.step_x - P.pad_x;
    // Above and at the left numbers wrap around.
    if col >= P.cols || y >= P.height || at >= P.width {
        return 0xffffffffu;
    }
    return ((image * P.height + y) * P.width + at) * P.channels + col % P.channels;
}

fn input(token: u32, col: u32) -> f32 {
    let i = seen(token, col);
    if i == 0xffffffffu {
        return 0.0;
    }
    return x[i / 4u][i % 4u];
}

fn inputs(token: u32, col: u32) -> vec4<f32> {
    if P.channels % 4u == 0u {
        // Side by side.
        let i = seen(token, col);
        if i == 0xffffffffu {
            return vec4(0.0);
        }
        return x[i / 4u];
    }
    return vec4(input(token, col), input(token, col + 1u), input(token, col + 2u), input(token, col + 3u));
}
