//! Samples as pictures: PNG files, and a shaded preview of heights.

use std::path::Path;

use crate::output::{Failure, write_result};

/// Pixels of a preview for one of the sample, each way.
const ZOOM: usize = 3;
/// How steep the heights are drawn: the whole range over so many pixels of the sample.
const RELIEF: f32 = 40.0;
/// Where the light comes from: left, above, and up. Of length 1.
const LIGHT: [f32; 3] = [-0.5, -0.5, std::f32::consts::FRAC_1_SQRT_2];
/// Colours of heights from 0 to 1.
const COLOURS: [(f32, [f32; 3]); 6] = [
    (0.0, [52.0, 92.0, 110.0]),
    (0.25, [96.0, 132.0, 96.0]),
    (0.5, [158.0, 160.0, 108.0]),
    (0.7, [166.0, 134.0, 100.0]),
    (0.88, [190.0, 178.0, 170.0]),
    (1.0, [250.0, 250.0, 252.0]),
];

/// A sample of one or three channels, its values from 0 to 1, `[channels, height, width]`.
pub struct Picture {
    channels: usize,
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl Picture {
    /// Of a sample's sizes without the batch, whose values `low` and `high` are the ends of what is shown.
    ///
    /// # Errors
    /// Sizes that are no picture.
    pub fn new(shape: &[usize], values: &[f32], [low, high]: [f32; 2]) -> Result<Picture, Failure> {
        let (channels, height, width) = match *shape {
            [height, width] => (1, height, width),
            [channels @ (1 | 3), height, width] => (channels, height, width),
            _ => {
                let message =
                    format!("a sample of sizes {shape:?} is no picture: write an .npz file");
                return Err(Failure::new(message));
            }
        };
        let unit = |v: &f32| ((v - low) / (high - low)).clamp(0.0, 1.0);
        Ok(Picture { channels, height, width, values: values.iter().map(unit).collect() })
    }

    /// Writes one channel in 16 bits, or three in 8.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let (colour, depth, bytes) = if self.channels == 1 {
            let sample = |v: &f32| ((v * 65535.0).round() as u16).to_be_bytes();
            let bytes = self.values.iter().flat_map(sample).collect();
            (png::ColorType::Grayscale, png::BitDepth::Sixteen, bytes)
        } else {
            let plane = self.height * self.width;
            let at = |i: usize| self.values.get(i).map_or(0, |v| (v * 255.0).round() as u8);
            let bytes: Vec<u8> = (0..plane)
                .flat_map(|i| (0..self.channels).map(move |c| at(c * plane + i)))
                .collect();
            (png::ColorType::Rgb, png::BitDepth::Eight, bytes)
        };
        write_png(path, (self.width, self.height), (colour, depth), &bytes)
    }

    /// Writes its first channel as heights in the light.
    pub fn write_preview(&self, path: &Path) -> Result<(), Failure> {
        let (width, height) = (self.width * ZOOM, self.height * ZOOM);
        let mut bytes = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                let centre = |i: usize| (i as f32 + 0.5) / ZOOM as f32 - 0.5;
                bytes.extend(self.shaded(centre(x), centre(y)));
            }
        }
        let kind = (png::ColorType::Rgb, png::BitDepth::Eight);
        write_png(path, (width, height), kind, &bytes)
    }

    /// The height at a place between pixels, by two linear interpolations; at the edge that of the edge.
    fn height_at(&self, x: f32, y: f32) -> f32 {
        let along = |place: f32, size: usize| {
            let place = place.clamp(0.0, size.saturating_sub(1) as f32);
            let low = place.floor() as usize;
            (low, (low + 1).min(size.saturating_sub(1)), place.fract())
        };
        let ((left, right, part_x), (top, bottom, part_y)) =
            (along(x, self.width), along(y, self.height));
        let at = |x: usize, y: usize| self.values.get(y * self.width + x).copied().unwrap_or(0.0);
        let mix = |a: f32, b: f32, part: f32| a + (b - a) * part;
        let above = mix(at(left, top), at(right, top), part_x);
        mix(above, mix(at(left, bottom), at(right, bottom), part_x), part_y)
    }

    /// The colour at a place: that of its height, in the light that its slope gets.
    fn shaded(&self, x: f32, y: f32) -> [u8; 3] {
        let rise = |dx: f32, dy: f32| {
            (self.height_at(x + dx, y + dy) - self.height_at(x - dx, y - dy)) * RELIEF / 2.0
        };
        let (east, south) = (rise(1.0, 0.0), rise(0.0, 1.0));
        let length = (east * east + south * south + 1.0).sqrt();
        let [left, above, up] = LIGHT;
        let lit = ((up - east * left - south * above) / length).max(0.0);
        // Level ground keeps its colour.
        let light = 0.35 + 0.65 * lit / up;
        colour(self.height_at(x, y)).map(|c| (c * light).clamp(0.0, 255.0) as u8)
    }
}

fn colour(height: f32) -> [f32; 3] {
    let above = COLOURS.partition_point(|(at, _)| *at <= height).clamp(1, COLOURS.len() - 1);
    let ((low, a), (high, b)) = (COLOURS[above - 1], COLOURS[above]);
    let part = ((height - low) / (high - low)).clamp(0.0, 1.0);
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * part)
}

fn write_png(
    path: &Path,
    (width, height): (usize, usize),
    (colour, depth): (png::ColorType, png::BitDepth),
    bytes: &[u8],
) -> Result<(), Failure> {
    let side =
        |n: usize| u32::try_from(n).map_err(|_| Failure::new(format!("a side of {n} pixels")));
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, side(width)?, side(height)?);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(bytes)?;
        writer.finish()
    });
    written.map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    write_result(path, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_ground_keeps_its_colour_and_slopes_do_not() {
        let level = Picture::new(&[1, 2, 2], &[0.5; 4], [0.0, 1.0]).unwrap();
        assert_eq!(level.shaded(0.3, 0.7), [158, 160, 108]);
        let towards = Picture::new(&[2, 2], &[0.4, 0.6, 0.4, 0.6], [0.0, 1.0]).unwrap();
        let away = Picture::new(&[2, 2], &[0.6, 0.4, 0.6, 0.4], [0.0, 1.0]).unwrap();
        let bright = |p: &Picture| p.shaded(0.5, 0.5).map(u32::from).iter().sum::<u32>();
        assert!(bright(&away) < bright(&level) && bright(&away) < bright(&towards));
    }

    #[test]
    fn colours_go_from_end_to_end() {
        assert_eq!(colour(-1.0), COLOURS[0].1);
        assert_eq!(colour(0.25), COLOURS[1].1);
        assert_eq!(colour(2.0), COLOURS[5].1);
    }

    #[test]
    fn heights_between_pixels_are_interpolated() {
        let picture = Picture::new(&[2, 2], &[0.0, 1.0, 0.0, 1.0], [0.0, 1.0]).unwrap();
        assert_eq!(picture.height_at(0.25, 0.5), 0.25);
        assert_eq!((picture.height_at(-3.0, 0.0), picture.height_at(9.0, 9.0)), (0.0, 1.0));
        assert!(Picture::new(&[2, 2, 2], &[0.0; 8], [0.0, 1.0]).is_err());
        assert!(Picture::new(&[4], &[0.0; 4], [0.0, 1.0]).is_err());
    }
}
