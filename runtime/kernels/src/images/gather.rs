//! The pixels that a window sees, side by side: the rows of the matrix product that a convolution is.

use super::seen;
use limbeck_plan::Window;

/// Where the rows of a convolution come from.
#[derive(Clone, Copy)]
pub(super) struct Gather<'a> {
    pub window: &'a Window,
    /// Height and width of the result.
    pub out: [usize; 2],
    /// Values of a pixel, in whatever units they are.
    pub pixel: usize,
    /// The first of these that a row has, and how many.
    pub first: usize,
    pub take: usize,
}

impl Gather<'_> {
    /// Writes row `row` of the images in `x`: for each pixel of the window its values, `zero` in the
    /// place of those outside the image. `out` holds that many.
    pub fn row<T: Copy>(&self, x: &[T], row: usize, zero: T, out: &mut [T]) {
        let Gather { window, take, .. } = *self;
        let [height, width] = window.image;
        let (place, across) = (row / self.out[1], row % self.out[1]);
        let (image, down) = (place / self.out[0], place % self.out[0]);
        let (top, inside) = seen(window, 0, down);
        let (left, columns) = seen(window, 1, across);
        let line = window.kernel[1] * take;
        for (i, out) in out.chunks_exact_mut(line.max(1)).enumerate() {
            if !inside.contains(&i) {
                out.fill(zero);
                continue;
            }
            let y = (top + (i * window.dilation[0]) as isize) as usize;
            let start = (image * height + y) * width;
            let (before, rest) = out.split_at_mut(columns.start * take);
            let (seen, after) = rest.split_at_mut(columns.len() * take);
            before.fill(zero);
            after.fill(zero);
            let at = |j: usize| {
                let x = (left + (j * window.dilation[1]) as isize) as usize;
                (start + x) * self.pixel + self.first
            };
            if window.dilation[1] == 1 && take == self.pixel {
                // Neighbours of the image are neighbours of the row.
                let first = if columns.is_empty() { 0 } else { at(columns.start) };
                let len = seen.len();
                seen.copy_from_slice(&x[first..first + len]);
                continue;
            }
            for (j, out) in columns.clone().zip(seen.chunks_exact_mut(take)) {
                out.copy_from_slice(&x[at(j)..][..take]);
            }
        }
    }
}
