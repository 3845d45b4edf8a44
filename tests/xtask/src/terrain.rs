//! The part of `demo` that makes pictures: terrains of three difficulties, one step each.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use crate::limbeck::{self, Limbeck};
use crate::process::{Doing, Failure, Result};
use crate::table::Table;
use crate::workspace::Workspace;

/// Conditions of the pictures, from left to right.
const DIFFICULTIES: [&str; 3] = ["0.1", "0.5", "0.9"];
const SEED: &str = "2";
/// Runs of each picture; the quickest is told.
const RUNS: usize = 3;
/// Pixels between pictures.
const GAP: usize = 6;

/// Compiles the student, makes the pictures, writes them side by side to `target/demo/terrain.png`, of which `docs/` has a copy, and gives a
/// table of their times.
pub fn run(workspace: &Workspace, limbeck: &Limbeck, model: &Path) -> Result<String> {
    let plan = workspace.target("demo/terrain.lbk");
    limbeck.compile(model, &plan, None)?;
    let mut table = Table::new(["difficulty", "steps", "ms per image"]);
    let mut previews = Vec::new();
    for difficulty in DIFFICULTIES {
        let place = |end: &str| workspace.target(&format!("demo/terrain-{difficulty}{end}"));
        let (heights, preview) = (place(".png"), place(".preview.png"));
        let mut quickest = f64::INFINITY;
        for _ in 0..RUNS {
            let mut generate = limbeck.command("generate");
            generate.arg(&plan).args(["--steps", "1", "--seed", SEED, "--json"]);
            generate.args(["--set", &format!("difficulty={difficulty}")]);
            generate.arg("-o").arg(&heights).arg("--preview").arg(&preview);
            let report = limbeck::json_of(&mut generate)?;
            quickest = quickest.min(limbeck::number(&report, "usage.ms")?);
        }
        table.row([difficulty.to_owned(), "1".to_owned(), format!("{quickest:.0}")]);
        previews.push(preview);
    }
    let picture = workspace.target("demo/terrain.png");
    side_by_side(&previews, &picture)?;
    Ok(format!("{}\nThe pictures: {}", table.markdown(), picture.display()))
}

/// An RGB picture.
struct Rgb {
    width: usize,
    rows: Vec<Vec<u8>>,
}

fn read(path: &Path) -> Result<Rgb> {
    let broken = |what: &dyn std::fmt::Display| Failure::new(format!("{}: {what}", path.display()));
    let file = BufReader::new(File::open(path).doing("read", path)?);
    let mut reader = png::Decoder::new(file).read_info().map_err(|e| broken(&e))?;
    let mut bytes = vec![0; reader.output_buffer_size().unwrap_or(0)];
    let info = reader.next_frame(&mut bytes).map_err(|e| broken(&e))?;
    if info.color_type != png::ColorType::Rgb || info.line_size == 0 {
        return Err(broken(&"it is no RGB picture"));
    }
    let rows = bytes.chunks_exact(info.line_size).map(<[u8]>::to_vec).collect();
    Ok(Rgb { width: info.width as usize, rows })
}

/// Writes pictures of one height in a row, with white between them.
fn side_by_side(pictures: &[PathBuf], path: &Path) -> Result<()> {
    let pictures: Vec<Rgb> = pictures.iter().map(|picture| read(picture)).collect::<Result<_>>()?;
    let height = pictures.iter().map(|p| p.rows.len()).min().unwrap_or(0);
    let gaps = GAP * pictures.len().saturating_sub(1);
    let width = pictures.iter().map(|p| p.width).sum::<usize>() + gaps;
    let mut bytes = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for (at, picture) in pictures.iter().enumerate() {
            bytes.extend(std::iter::repeat_n(255, if at > 0 { GAP * 3 } else { 0 }));
            bytes.extend_from_slice(&picture.rows[y]);
        }
    }
    let broken = |e: png::EncodingError| Failure::new(format!("{}: {e}", path.display()));
    let file = BufWriter::new(File::create(path).doing("write", path)?);
    let mut encoder = png::Encoder::new(file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().map_err(broken)?;
    writer.write_image_data(&bytes).map_err(broken)?;
    writer.finish().map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_side_by_side_with_white_between_them() {
        let folder = std::env::temp_dir().join(format!("limbeck-terrain-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let place = |name: &str| folder.join(name);
        // A picture of one pixel each way, of each colour.
        let colours = [[255, 0, 0], [0, 0, 255]];
        let pictures = [place("a.png"), place("b.png")];
        for (path, colour) in pictures.iter().zip(colours) {
            let mut encoder = png::Encoder::new(File::create(path).unwrap(), 1, 1);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header().unwrap().write_image_data(&colour).unwrap();
        }
        let both = place("both.png");
        side_by_side(&pictures, &both).unwrap();
        let found = read(&both).unwrap();
        assert_eq!((found.width, found.rows.len()), (2 + GAP, 1));
        let white = [255; GAP * 3];
        assert_eq!(found.rows[0], [&colours[0][..], &white, &colours[1]].concat());
        assert!(read(&place("none.png")).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
