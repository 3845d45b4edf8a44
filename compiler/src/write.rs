//! Plan files on disk: written beside their place and renamed, so that a plan is there whole or as
//! it was before.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use limbeck_plan::{Calibration, MAGIC, Manifest, Plan, PlanWriter, Program};

use crate::error::{At, Error, Result};

/// Bytes of weights that are copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// A file that is written in whole blocks, each at a multiple of their size. Of such writes Linux makes pages of
/// 2 MiB, as which the file can be mapped: plans are mostly read soon after they are written.
pub(crate) struct Blocks {
    file: File,
    block: Vec<u8>,
}

impl Blocks {
    const SIZE: usize = 2 << 20;

    fn new(file: File) -> Blocks {
        Blocks { file, block: Vec::with_capacity(Blocks::SIZE) }
    }
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let fits = bytes.len().min(Blocks::SIZE - self.block.len());
        self.block.extend_from_slice(&bytes[..fits]);
        if self.block.len() == Blocks::SIZE {
            self.flush()?;
        }
        Ok(fits)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

impl Seek for Blocks {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.flush()?;
        self.file.seek(to)
    }
}

/// What follows the weights of a plan.
pub(crate) struct Metadata<'a> {
    pub manifest: Manifest,
    pub program: Program,
    pub tokenizer: Option<&'a [u8]>,
    pub calibration: Option<&'a Calibration>,
    /// Models of ONNX segments.
    pub models: std::borrow::Cow<'a, [u8]>,
}

/// Writes a plan to a temporary file beside `output`, syncs it, and renames it; whatever fails, what
/// stood there before is left as it was. `weights` writes the weights and gives the rest.
pub(crate) fn replace_plan<'a, T>(
    output: &Path,
    weights: impl FnOnce(&mut PlanWriter<Blocks>) -> Result<(Metadata<'a>, T)>,
) -> Result<T> {
    check_output(output)?;
    let temporary = temporary_path(output)?;
    let written = write(&temporary, output, weights).and_then(|written| {
        std::fs::rename(&temporary, output).at(output.display())?;
        sync_folder(output);
        Ok(written)
    });
    if written.is_err() {
        // The first error is the one to report; a file that is left over is only untidy.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write<'a, T>(
    temporary: &Path,
    output: &Path,
    weights: impl FnOnce(&mut PlanWriter<Blocks>) -> Result<(Metadata<'a>, T)>,
) -> Result<T> {
    let place = output.display();
    let file = File::create(temporary).at(&place)?;
    let mut writer = PlanWriter::new(Blocks::new(file)).at(&place)?;
    let (metadata, result) = weights(&mut writer)?;
    writer.set_calibration(metadata.calibration);
    writer.set_models(&metadata.models);
    let blocks =
        writer.finish(&metadata.manifest, &metadata.program, metadata.tokenizer).at(&place)?;
    blocks.file.sync_all().at(&place)?;
    Ok(result)
}

/// Writes a plan anew with another program over its weights and another calibration; its manifest,
/// weights and tokenizer stay. `bytes` are those that `plan` was parsed from, and may be a map of
/// the file at `output`. Optional sections of an unknown kind are left out.
///
/// # Errors
/// A plan whose weights are damaged, a program or calibration that breaks a rule, or a file that
/// cannot be written; what stood at `output` is then left as it was.
pub fn rewrite(
    plan: &Plan,
    bytes: &[u8],
    program: &Program,
    calibration: Option<&Calibration>,
    output: &Path,
) -> Result<()> {
    plan.verify(bytes)?;
    replace_plan(output, |writer| {
        plan.weights(bytes).chunks(COPY_BYTES).try_for_each(|part| writer.append(part))?;
        let (manifest, program) = (plan.manifest().clone(), program.clone());
        let (tokenizer, models) = (plan.tokenizer(bytes), plan.models(bytes).into());
        Ok((Metadata { manifest, program, tokenizer, calibration, models }, ()))
    })
}

/// Refuses to replace anything but a plan: a checkpoint, say, or a device.
///
/// # Errors
/// Something else that is there, or that cannot be looked at.
pub fn check_output(output: &Path) -> Result<()> {
    let metadata = match std::fs::metadata(output) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found.at(output.display())?,
    };
    let is_plan = || -> std::io::Result<bool> {
        let mut start = [0; MAGIC.len()];
        File::open(output)?.read_exact(&mut start)?;
        Ok(start == MAGIC)
    };
    if metadata.is_file() && (metadata.len() == 0 || is_plan().unwrap_or(false)) {
        return Ok(());
    }
    let message = "it exists and is not a plan: it is not replaced";
    Err(Error::mismatch(message).at(output.display()))
}

/// A name beside the output, so that the rename stays within one file system.
fn temporary_path(output: &Path) -> Result<PathBuf> {
    let Some(name) = output.file_name() else {
        return Err(Error::mismatch("this is not a file name").at(output.display()));
    };
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.part", std::process::id()));
    Ok(output.with_file_name(temporary))
}

/// Makes the rename durable where the system can; a folder that cannot be synced is no failure of
/// the compilation.
fn sync_folder(output: &Path) {
    let parent = output.parent().filter(|p| !p.as_os_str().is_empty());
    if let Ok(folder) = File::open(parent.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_what_was_written_in_pieces() {
        let path = std::env::temp_dir().join(format!("limbeck-blocks-{}", std::process::id()));
        let mut expected: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
        let mut blocks = Blocks::new(File::create(&path).unwrap());
        let mut rest = &expected[..];
        for len in [1, 4095, Blocks::SIZE - 1, 0, Blocks::SIZE + 7].into_iter().cycle() {
            let (piece, later) = rest.split_at(len.min(rest.len()));
            blocks.write_all(piece).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        blocks.seek(SeekFrom::Start(3)).unwrap();
        blocks.write_all(b"head").unwrap();
        blocks.flush().unwrap();
        expected[3..7].copy_from_slice(b"head");
        let written = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(written == expected);
    }
}
