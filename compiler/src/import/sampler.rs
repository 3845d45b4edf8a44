//! Where a checkpoint says how its student is sampled.

use std::path::Path;

use serde_json::Value;

use super::folder::Folder;
use super::safetensors::read_json;
use crate::error::Result;

/// The declaration in a folder: `NAME.sampler.json`, `sampler.json`, or diffusers' `scheduler_config.json`.
///
/// # Errors
/// A file that is no JSON, or a link that leaves the folder.
pub(super) fn in_folder(folder: &Folder, name: &str) -> Result<Option<Value>> {
    let own = format!("{name}.sampler.json");
    for file in [own.as_str(), "sampler.json", "scheduler_config.json"] {
        if let Some(found) = read_json(&folder.file(file)?)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A declaration in a file of its own.
///
/// # Errors
/// A file that is not there or no JSON.
pub(crate) fn of_file(path: &Path) -> Result<Value> {
    let missing = || crate::error::Error::missing("there is no such file");
    read_json(path)?.ok_or_else(|| missing().at(path.display()))
}
