// A convolution as a linear: a row of its input is what a window sees of an image, pixel by pixel.

fn input(token: u32, col: u32) -> f32 {
    if col >= P.cols {
        return 0.0;
    }
    let tap = col / P.channels;
    let image = token / (P.down * P.across);
    let y = token / P.across % P.down * P.stride_y + tap / P.kernel * P.step_y - P.pad_y;
    let at = token % P.across * P.stride_x + tap % P.kernel * P.step_x - P.pad_x;
    // Above and at the left numbers wrap around.
    if y >= P.height || at >= P.width {
        return 0.0;
    }
    return x[((image * P.height + y) * P.width + at) * P.channels + col % P.channels];
}
