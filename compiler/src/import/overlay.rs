//! Overlays: folders of safetensors whose tensors join a checkpoint's. What the shapes of adaptive
//! modules do not tell is in the folder's `acm.json`, or in the object `acm` of its `config.json`.

use std::path::{Path, PathBuf};

use limbeck_models::Description;
use serde_json::Value;

use super::checkpoint::{Checkpoint, TextFiles, open};
use super::folder::Folder;
use super::onnx::OnnxChoices;
use super::safetensors::{SafetensorsFiles, read_json};
use super::tensor::Tensor;
use crate::error::{At, Error, Result};

/// The key of the configuration that describes adaptive modules.
const ACM: &str = "acm";

/// A checkpoint with the tensors of overlays.
struct Overlaid {
    base: Box<dyn Checkpoint>,
    /// The base's, with the overlays' settings.
    description: Description,
    overlays: Vec<SafetensorsFiles>,
}

/// Opens a checkpoint as [`open`] does, and adds the tensors of these folders to its own.
///
/// # Errors
/// Those of [`open`], a graph (an ONNX model) to lie over, a folder without safetensors, or a tensor that is there already.
pub fn open_with(
    path: &Path,
    overlays: &[PathBuf],
    onnx: &OnnxChoices,
) -> Result<Box<dyn Checkpoint>> {
    let base = open(path, onnx)?;
    if overlays.is_empty() {
        return Ok(base);
    }
    if base.graph().is_some() {
        let message = "tensors are laid over a checkpoint with a configuration, not over a graph";
        return Err(Error::unsupported(message).at(path.display()));
    }
    let description = base.description().clone();
    let mut overlaid = Overlaid { base, description, overlays: Vec::new() };
    for folder in overlays {
        let place = folder.display();
        let folder = &Folder::open_snapshot(folder)?;
        let files = SafetensorsFiles::open(folder)?;
        if let Some(tensor) = files.tensors().find(|t| overlaid.tensor(t.name()).is_some()) {
            let message = "what it lies over has a tensor of this name too";
            return Err(Error::mismatch(message)
                .at(format_args!("tensor {}", tensor.name()))
                .at(&place));
        }
        add_settings(&mut overlaid.description, folder).at(&place)?;
        overlaid.overlays.push(files);
    }
    Ok(Box::new(overlaid))
}

/// Takes an overlay's object `acm` into the configuration.
fn add_settings(description: &mut Description, folder: &Folder) -> Result<()> {
    let file = read_json(&folder.file("acm.json")?)?;
    let config = read_json(&folder.file("config.json")?)?;
    let in_config = config.and_then(|c| c.get("acm").cloned()).filter(|acm| !acm.is_null());
    let (acm, name) = match (file, in_config) {
        (None, None) => return Ok(()),
        (Some(acm), None) => (acm, "acm.json"),
        (None, Some(acm)) => (acm, "config.json"),
        (Some(_), Some(_)) => {
            let message = "acm.json and the object \"acm\" of config.json both describe it";
            return Err(Error::mismatch(message));
        }
    };
    let Value::Object(config) = &mut description.config else {
        return Err(Error::mismatch("what it lies over has no configuration"));
    };
    if config.get(ACM).is_some_and(|acm| !acm.is_null()) {
        let message = "what it lies over describes adaptive modules too";
        return Err(Error::mismatch(message).at(name));
    }
    config.insert(ACM.into(), acm);
    Ok(())
}

impl Checkpoint for Overlaid {
    fn format(&self) -> &'static str {
        self.base.format()
    }

    fn description(&self) -> &Description {
        &self.description
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

    fn sampler(&self) -> Option<&Value> {
        self.base.sampler()
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
