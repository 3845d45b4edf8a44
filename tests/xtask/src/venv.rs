//! The Python environment `target/venv`, made when a task first needs it; each asks for its own pinned
//! packages.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::process::{self, Doing, Failure, Result};
use crate::workspace::Workspace;

/// A virtual environment in which pinned packages can be installed.
pub struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// Opens the environment, making it when it is missing or was left half made.
    pub fn open(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.target("venv");
        let whole = folder.join("whole");
        if !whole.is_file() {
            eprintln!("making {}", folder.display());
            process::quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
            fs::write(&whole, "").doing("write", &whole)?;
        }
        Ok(Venv { folder })
    }

    /// Installs the requirements (lines as in a requirements file) unless `set` was installed with
    /// exactly these before.
    pub fn require(&self, set: &str, requirements: &str) -> Result<()> {
        let stamp = self.folder.join(format!("installed-{set}.txt"));
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == requirements) {
            return Ok(());
        }
        let list = self.folder.join(format!("requirements-{set}.txt"));
        fs::write(&list, requirements).doing("write", &list)?;
        eprintln!("installing Python packages for `{set}`");
        process::run(self.pip("install").arg("--requirement").arg(&list))?;
        fs::write(&stamp, requirements).doing("write", &stamp)
    }

    /// The environment's Python, ready for arguments.
    pub fn python(&self) -> Command {
        self.program("python")
    }

    /// A pip subcommand, ready for its arguments.
    pub fn pip(&self, subcommand: &str) -> Command {
        let mut pip = self.python();
        pip.args(["-m", "pip", subcommand, "--disable-pip-version-check"]);
        pip
    }

    /// A program that a package installed, such as `cmake`.
    pub fn program(&self, name: &str) -> Command {
        Command::new(self.tool(name))
    }

    /// The folder of installed packages.
    ///
    /// # Errors
    /// When there is none.
    pub fn packages(&self) -> Result<PathBuf> {
        let lib = self.folder.join("lib");
        let entries = fs::read_dir(&lib).doing("read the folder", &lib)?;
        let mut found = entries.flatten().map(|entry| entry.path().join("site-packages"));
        let missing = || Failure::new(format!("{} holds no packages", lib.display()));
        found.find(|path| path.is_dir()).ok_or_else(missing)
    }

    /// The path of such a program.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }
}
