//! A model's folder, out of which nothing is read.

use std::path::{Component, Path, PathBuf};

use crate::error::{At, Error, Result};

/// A folder whose files are read by name.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Where its files really lie, without symbolic links.
    roots: Vec<PathBuf>,
}

impl Folder {
    /// A folder whose files lie within it.
    ///
    /// # Errors
    /// A folder that cannot be found.
    pub fn open(path: &Path) -> Result<Folder> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let real = path.canonicalize().at(path.display())?;
        Ok(Folder { path: path.into(), roots: vec![real] })
    }

    /// A folder that may be a snapshot of Hugging Face's cache, or lie within one: its files are links to
    /// `blobs` beside `snapshots`.
    ///
    /// # Errors
    /// A folder that cannot be found.
    pub fn open_snapshot(path: &Path) -> Result<Folder> {
        let mut folder = Folder::open(path)?;
        let mut above = folder.roots.iter().flat_map(|root| root.ancestors()).skip(1);
        let snapshots = above.find(|above| above.ends_with("snapshots"));
        // Those of another place, if they are a link themselves, are not the model's.
        let blobs = snapshots.map(|folder| folder.with_file_name("blobs"));
        let blobs = blobs.filter(|blobs| blobs.canonicalize().is_ok_and(|real| real == *blobs));
        folder.roots.extend(blobs);
        Ok(folder)
    }

    /// The folder, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file, whether or not there is one.
    ///
    /// # Errors
    /// A name, or a link, that leaves the folder.
    pub fn file(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path.join(&name);
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        // Where links lead is known only when they are followed.
        let real = match path.canonicalize() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            real => Some(real.at(path.display())?),
        };
        let leaves = |real: PathBuf| !self.roots.iter().any(|root| real.starts_with(root));
        if !name.as_ref().components().all(plain) || real.is_some_and(leaves) {
            return Err(Error::format("the path leaves the model's folder").at(path.display()));
        }
        Ok(path)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_nowhere_else_but_to_the_blobs_of_a_snapshot() {
        let place = std::env::temp_dir().join(format!("limbeck-folder-{}", std::process::id()));
        let (model, snapshot) =
            (place.join("models--a--b"), place.join("models--a--b/snapshots/1"));
        for folder in [&snapshot.join("unet"), &model.join("blobs")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(place.join("secret"), "{}").unwrap();
        std::fs::write(model.join("blobs/7"), "{}").unwrap();
        std::fs::write(snapshot.join("own.json"), "{}").unwrap();
        for (to, link) in [
            ("../../blobs/7", "blob.json"),
            ("../../../secret", "secret.json"),
            ("own.json", "inside.json"),
            ("nowhere", "dangling.json"),
            ("../../../blobs/7", "unet/blob.json"),
        ] {
            symlink(to, snapshot.join(link)).unwrap();
        }
        let strict = Folder::open(&snapshot).unwrap();
        let cached = Folder::open_snapshot(&snapshot).unwrap();
        for (name, in_strict, in_cached) in [
            ("own.json", true, true),
            ("inside.json", true, true),
            ("missing.json", true, true),
            ("dangling.json", true, true),
            ("unet/../own.json", false, false),
            ("blob.json", false, true),
            ("unet/blob.json", false, true),
            ("secret.json", false, false),
            ("../../blobs/7", false, false),
        ] {
            assert_eq!(strict.file(name).is_ok(), in_strict, "{name}");
            assert_eq!(cached.file(name).is_ok(), in_cached, "{name}");
        }
        let error = cached.file("secret.json").unwrap_err().to_string();
        assert!(error.contains("secret.json: the path leaves the model's folder"), "{error}");
        let unet = Folder::open_snapshot(&snapshot.join("unet")).unwrap();
        assert!(unet.file("blob.json").is_ok());
        std::fs::rename(model.join("blobs"), place.join("blobs")).unwrap();
        symlink(place.join("blobs"), model.join("blobs")).unwrap();
        assert!(Folder::open_snapshot(&snapshot).unwrap().file("blob.json").is_err());
        std::fs::remove_dir_all(place).unwrap();
    }
}
