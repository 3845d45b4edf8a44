//! `golden`: runs the generators `tests/golden/*.py`, which write their outputs beside themselves.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::fetch;
use crate::process::{self, Doing, Failure, Result};
use crate::venv::Venv;
use crate::workspace::Workspace;

/// Which goldens to make.
#[derive(Args)]
pub struct Options {
    /// Generators to run, by name without `.py` (default: all)
    names: Vec<String>,
}

/// Runs the generators that were asked for.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let generators = generators(workspace)?;
    let known: Vec<String> = generators.iter().map(|path| name(path)).collect();
    if let Some(unknown) = options.names.iter().find(|name| !known.contains(name)) {
        let known = known.join(", ");
        return Err(Failure::new(format!("there is no generator `{unknown}`; there are: {known}")));
    }
    let students = fetch::students(workspace)?;
    let list = workspace.golden().join("requirements.txt");
    let requirements = fs::read_to_string(&list).doing("read", &list)?;
    let venv = Venv::open(workspace)?;
    venv.require("golden", &requirements)?;
    for (path, name) in generators.iter().zip(&known) {
        if options.names.is_empty() || options.names.contains(name) {
            eprintln!("running {name}.py");
            let mut python = venv.python();
            python.arg("-B").arg(path).arg(&students).current_dir(workspace.root());
            process::run(&mut python)?;
        }
    }
    Ok(())
}

/// All generators, in the order of their names.
fn generators(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let folder = workspace.golden();
    let entries = fs::read_dir(&folder).doing("read the folder", &folder)?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension() == Some(OsStr::new("py")));
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
