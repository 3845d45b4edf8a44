//! Overlays: folders of safetensors whose tensors join a checkpoint's.

use std::path::{Path, PathBuf};

use limbeck_models::Description;

use super::checkpoint::{Checkpoint, TextFiles, open};
use super::safetensors::SafetensorsFiles;
use super::tensor::Tensor;
use crate::error::{At, Error, Result};

/// A checkpoint with the tensors of overlays.
struct Overlaid {
    base: Box<dyn Checkpoint>,
    overlays: Vec<SafetensorsFiles>,
}

/// Opens a checkpoint as [`open`] does, and adds the tensors of these folders to its own.
///
/// # Errors
/// Those of [`open`], a folder without safetensors, or a tensor that is there already.
pub fn open_with(path: &Path, overlays: &[PathBuf]) -> Result<Box<dyn Checkpoint>> {
    let base = open(path)?;
    if overlays.is_empty() {
        return Ok(base);
    }
    let mut overlaid = Overlaid { base, overlays: Vec::new() };
    for folder in overlays {
        let place = folder.display();
        std::fs::metadata(folder).at(&place)?;
        let files = SafetensorsFiles::open(folder)?;
        if let Some(tensor) = files.tensors().find(|t| overlaid.tensor(t.name()).is_some()) {
            let message = "what it lies over has a tensor of this name too";
            return Err(Error::mismatch(message)
                .at(format_args!("tensor {}", tensor.name()))
                .at(&place));
        }
        overlaid.overlays.push(files);
    }
    Ok(Box::new(overlaid))
}

impl Checkpoint for Overlaid {
    fn format(&self) -> &'static str {
        self.base.format()
    }

    fn description(&self) -> &Description {
        self.base.description()
    }

    fn text(&self) -> &TextFiles {
        self.base.text()
    }

    fn student(&self) -> &str {
        self.base.student()
    }

    fn licence(&self) -> Option<&str> {
        self.base.licence()
    }

    fn tensors(&self) -> Vec<Tensor<'_>> {
        let mut tensors = self.base.tensors();
        tensors.extend(self.overlays.iter().flat_map(SafetensorsFiles::tensors));
        tensors
    }

    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let overlay = || self.overlays.iter().find_map(|files| files.tensor(name));
        self.base.tensor(name).or_else(overlay)
    }
}
