//! ONNX Runtime's library, from its pinned Python package, and a Python with it and with `onnx`.

use std::fs;
use std::path::PathBuf;

use crate::process::{Doing, Failure, Result};
use crate::venv::Venv;
use crate::workspace::Workspace;

const REQUIREMENTS: &str = "numpy==2.4.6\nonnx==1.23.2\nonnxruntime==1.32.0\n";

/// What tests of ONNX segments take.
pub struct Onnx {
    /// ONNX Runtime's library.
    pub library: PathBuf,
    /// A Python that has it, and `onnx`.
    pub python: PathBuf,
}

impl Onnx {
    /// Installs the packages where they are missing.
    ///
    /// # Errors
    /// When they cannot be had, or hold no library.
    pub fn open(workspace: &Workspace) -> Result<Onnx> {
        let venv = Venv::open(workspace)?;
        venv.require("onnx", REQUIREMENTS)?;
        let folder = venv.packages()?.join("onnxruntime/capi");
        let entries = fs::read_dir(&folder).doing("read the folder", &folder)?;
        let is_library = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("libonnxruntime.") || name == "onnxruntime.dll"
        };
        let library = entries.flatten().map(|entry| entry.path()).find(is_library);
        let library = library.ok_or_else(|| {
            Failure::new(format!("{} holds no library of ONNX Runtime", folder.display()))
        })?;
        Ok(Onnx { library, python: venv.tool("python") })
    }
}
