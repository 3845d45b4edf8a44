//! Finding and loading ONNX Runtime's library. A process has one, and keeps it: what it has mapped and
//! started cannot be taken back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;

use super::{LIBRARY_VARIABLE, OnnxOptions};
use crate::error::{Error, ErrorKind, Result};

/// Its own variable, which other programs use too.
const COMMON_VARIABLE: &str = "ORT_DYLIB_PATH";

/// The library of this process.
pub(super) struct Loaded {
    pub environment: Environment,
    pub path: PathBuf,
    pub version: String,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();
/// Held while it is loaded.
static LOADING: Mutex<()> = Mutex::new(());

/// Loads the library that the options, the environment, or the folder of the program name.
///
/// # Errors
/// As [`super::OnnxRuntime::load`].
pub(super) fn load(options: &OnnxOptions) -> Result<&'static Loaded> {
    let _one = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = LOADED.get() {
        if let Some(wanted) = named(options)
            && wanted.canonicalize().ok().as_ref() != Some(&loaded.path)
        {
            let (path, wanted) = (loaded.path.display(), wanted.display());
            let message = format!(
                "ONNX Runtime is loaded from {path} already, and a process has one: {wanted} is not loaded"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        return Ok(loaded);
    }
    let path = find(options)?;
    // Asked before anything else of `ort` is used, which would look for a library by itself.
    let builder = ort::init_from(&path).map_err(|e| {
        let message = format!("it is not ONNX Runtime of version 1.20 or later: {e}");
        Error::new(ErrorKind::Backend, message).at(path.display().to_string())
    })?;
    let environment = builder
        .with_name("limbeck")
        .with_telemetry(false)
        .with_logger(Arc::new(|_: ort::logging::LogLevel, _: &str, _: &str, _: &str, _: &str| {}))
        .build()
        .map_err(|e| Error::new(ErrorKind::Backend, format!("ONNX Runtime does not start: {e}")))?;
    let minor = ort::util::probe(&path).map_or_else(String::new, |minor| format!("1.{minor}"));
    Ok(LOADED.get_or_init(|| Loaded { environment, path, version: minor }))
}

/// The library that the options or the environment name.
fn named(options: &OnnxOptions) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let given = options.library.clone();
    given.or_else(|| variable(LIBRARY_VARIABLE)).or_else(|| variable(COMMON_VARIABLE))
}

fn find(options: &OnnxOptions) -> Result<PathBuf> {
    let Some(path) = named(options) else {
        return beside_program().ok_or_else(|| {
            let message = format!(
                "no ONNX Runtime library was found: name one (--ort-library, or {LIBRARY_VARIABLE} in \
                 the environment), or put it beside the program"
            );
            Error::new(ErrorKind::Backend, message)
        });
    };
    let place = path.display().to_string();
    let real = path.canonicalize().map_err(|e| {
        let message = format!("ONNX Runtime's library cannot be read: {e}");
        Error::new(ErrorKind::Io, message).at(&place)
    })?;
    if real.is_file() {
        return Ok(real);
    }
    Err(Error::new(ErrorKind::Backend, "this is not ONNX Runtime's library").at(place))
}

/// A library in the folder of the program, the last by name where there are several.
fn beside_program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.canonicalize().ok()?;
    let mut found: Vec<PathBuf> = std::fs::read_dir(program.parent()?)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_library(path) && path.is_file())
        .collect();
    found.sort();
    found.pop()?.canonicalize().ok()
}

/// Whether a file is called as the library is: `libonnxruntime.so`, `libonnxruntime.so.1.20.0`,
/// `libonnxruntime.dylib`, `onnxruntime.dll`.
fn is_library(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let Some(rest) = name.strip_prefix(prefix).and_then(|n| n.strip_prefix("onnxruntime")) else {
        return false;
    };
    let version = |v: &str| v.chars().all(|c| c == '.' || c.is_ascii_digit());
    let after = rest.strip_prefix(suffix).is_some_and(version);
    after || rest.strip_suffix(suffix).is_some_and(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_their_names() {
        let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        for (name, is) in [
            (format!("{prefix}onnxruntime{suffix}"), true),
            (format!("{prefix}onnxruntime{suffix}.1.20.0"), true),
            (format!("{prefix}onnxruntime.1.20.0{suffix}"), true),
            (format!("{prefix}onnxruntime_providers_shared{suffix}"), false),
            (format!("{prefix}onnx{suffix}"), false),
            ("onnxruntime".into(), false),
        ] {
            assert_eq!(is_library(Path::new(&name)), is, "{name}");
        }
    }
}
