//! Where things are: the workspace root and the folders that tasks keep under `target/`.

use std::path::{Path, PathBuf};

/// The workspace that this xtask was built from.
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the root from the place of this crate's manifest, `tests/xtask`.
    pub fn locate() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.ancestors().nth(2).unwrap_or(here).to_owned();
        Workspace { root }
    }

    /// The folder of the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder or file under `target/`, such as `students`.
    pub fn target(&self, name: &str) -> PathBuf {
        self.root.join("target").join(name)
    }

    /// The folder of golden generators and their outputs.
    pub fn golden(&self) -> PathBuf {
        self.root.join("tests").join("golden")
    }
}
