//! ONNX Runtime, which computes the ONNX segments of plans that have such. It is loaded when such a plan is
//! opened, once for the process, and never otherwise.

#[cfg(feature = "ort")]
mod guard;
#[cfg(feature = "ort")]
mod library;
#[cfg(feature = "ort")]
mod providers;
#[cfg(feature = "ort")]
mod session;
#[cfg(feature = "ort")]
mod weights;

use std::path::PathBuf;

use crate::error::Result;
#[cfg(not(feature = "ort"))]
use crate::error::{Error, ErrorKind};

#[cfg(feature = "ort")]
pub(crate) use session::Session;

/// Environment variable that names ONNX Runtime's library. `ORT_DYLIB_PATH` does too.
pub const LIBRARY_VARIABLE: &str = "LIMBECK_ORT";

/// What computes ONNX segments.
#[derive(Clone, Debug, Default)]
pub struct OnnxOptions {
    /// ONNX Runtime's library, version 1.20 or later. Where it is not given it is the one that
    /// [`LIBRARY_VARIABLE`] names, or one beside the program.
    pub library: Option<PathBuf>,
    /// Execution providers in the order in which they are asked: `coreml`, `qnn`, ... What none of them
    /// computes the CPU does.
    pub providers: Vec<String>,
}

/// ONNX Runtime, loaded.
#[derive(Clone, Debug)]
pub struct OnnxRuntime {
    /// Its version.
    pub version: String,
    /// Where its library lies.
    pub library: PathBuf,
    /// The execution providers that it has, of those that can be chosen.
    pub providers: Vec<String>,
}

impl OnnxRuntime {
    /// Loads it.
    ///
    /// # Errors
    /// A build without it; a library that is missing, or is not ONNX Runtime of version 1.20 or later; a
    /// second library in one process.
    pub fn load(options: &OnnxOptions) -> Result<OnnxRuntime> {
        #[cfg(feature = "ort")]
        {
            let loaded = library::load(options)?;
            Ok(OnnxRuntime {
                version: loaded.version.clone(),
                library: loaded.path.clone(),
                providers: providers::available(),
            })
        }
        #[cfg(not(feature = "ort"))]
        {
            let _ = options;
            Err(missing())
        }
    }
}

/// What a build without ONNX Runtime says.
#[cfg(not(feature = "ort"))]
pub(crate) fn missing() -> Error {
    let message = "ONNX segments want ONNX Runtime, which this build leaves out (feature `ort`)";
    Error::new(ErrorKind::Unsupported, message)
}
