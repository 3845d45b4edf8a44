//! Tensors whose data lie in files beside the model: never in one outside of its folder.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::proto::TensorProto;
use crate::error::{At, Error, Result};
use crate::import::folder::Folder;
use crate::import::map::FileBytes;

/// The files of a model's folder that its tensors name.
pub(super) struct External {
    /// `None` where there is no folder.
    folder: Option<Folder>,
    files: RefCell<BTreeMap<String, Rc<FileBytes>>>,
    /// Bytes that tensors have read.
    read: Cell<usize>,
}

/// Tensors may have bytes in common, but altogether read no more than so many times those of the files.
const READS: usize = 4;

impl External {
    /// Of the folder that the model file lies in.
    pub fn in_folder(folder: Folder) -> External {
        External { folder: Some(folder), files: RefCell::default(), read: Cell::new(0) }
    }

    /// Without any file.
    #[cfg(test)]
    pub fn none() -> External {
        External { folder: None, files: RefCell::default(), read: Cell::new(0) }
    }

    /// The bytes of a tensor.
    ///
    /// # Errors
    /// A path that leaves the folder, a file that has other names or cannot be read, a range outside of it.
    pub fn read(&self, tensor: &TensorProto) -> Result<Vec<u8>> {
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key);
        let location =
            entry("location").ok_or_else(|| Error::format("its data have no location"))?;
        let number = |key: &str| {
            let parsed = entry(key).map(|e| e.value.parse::<usize>());
            let parsed = parsed.transpose();
            parsed.map_err(|_| Error::format(format!("the {key} of its data is not a number")))
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let file = self.file(&location.value).at(format_args!("file {:?}", location.value))?;
        let length = length.unwrap_or(file.len().saturating_sub(offset));
        let found = offset.checked_add(length).and_then(|end| file.get(offset..end));
        let found = found.ok_or_else(|| {
            let message = format!("its {length} bytes from {offset} are beyond the file's end");
            Error::format(message)
        })?;
        let all: usize = self.files.borrow().values().map(|file| file.len()).sum();
        self.read.set(self.read.get().saturating_add(length));
        if self.read.get() > all.saturating_mul(READS) {
            return Err(Error::format("tensors read the same bytes too often"));
        }
        Ok(found.to_vec())
    }

    /// Counts what is read anew.
    pub fn restart(&self) {
        self.read.set(0);
    }

    fn file(&self, location: &str) -> Result<Rc<FileBytes>> {
        if let Some(file) = self.files.borrow().get(location) {
            return Ok(file.clone());
        }
        let folder = self.folder.as_ref();
        let folder = folder.ok_or_else(|| Error::format("there is no folder to look in"))?;
        if location.is_empty() || location.contains('\\') {
            return Err(Error::format("the path leaves the model's folder"));
        }
        let path = folder.file(location)?;
        if names(&path)? > 1 {
            let message =
                "it is a hard link, which may be of a file outside of the model's folder: copy it";
            return Err(Error::format(message));
        }
        let file = Rc::new(FileBytes::open(&path)?);
        self.files.borrow_mut().insert(location.to_owned(), file.clone());
        Ok(file)
    }
}

/// How many names a file has in its file system, where that is told.
#[cfg(unix)]
fn names(path: &Path) -> Result<u64> {
    Ok(std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata(path)?))
}

#[cfg(not(unix))]
fn names(_: &Path) -> Result<u64> {
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::onnx::proto::StringStringEntryProto;

    fn tensor(location: &str, offset: &str, length: &str) -> TensorProto {
        let entry = |key: &str, value: &str| StringStringEntryProto {
            key: key.into(),
            value: value.into(),
        };
        let entries =
            [entry("location", location), entry("offset", offset), entry("length", length)];
        TensorProto { external_data: entries.to_vec(), ..TensorProto::default() }
    }

    #[test]
    fn nothing_outside_of_the_folder_is_read() {
        let place = std::env::temp_dir().join(format!("limbeck-onnx-{}", std::process::id()));
        let folder = place.join("model");
        std::fs::create_dir_all(folder.join("data")).unwrap();
        std::fs::write(place.join("secret"), [7; 8]).unwrap();
        std::fs::write(folder.join("data/weights"), [1, 2, 3, 4]).unwrap();
        let external = External::in_folder(Folder::open(&folder).unwrap());
        let whole = tensor("data/weights", "0", "4");
        assert!((0..4).all(|_| external.read(&whole).is_ok()));
        let error = external.read(&whole).unwrap_err().to_string();
        assert!(error.contains("too often"), "{error}");
        external.restart();
        assert_eq!(external.read(&tensor("data/weights", "1", "2")).unwrap(), [2, 3]);
        assert_eq!(external.read(&tensor("./data/weights", "0", "4")).unwrap().len(), 4);
        let absolute = place.join("secret").display().to_string();
        for bad in ["../secret", "data/../../secret", &absolute, "", "..\\secret", "data", "none"] {
            assert!(external.read(&tensor(bad, "0", "1")).is_err(), "{bad:?}");
        }
        for (offset, length) in [("5", "0"), ("0", "5"), ("18446744073709551615", "2"), ("-1", "1")]
        {
            let tensor = tensor("data/weights", offset, length);
            assert!(external.read(&tensor).is_err(), "{offset} {length}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(place.join("secret"), folder.join("link")).unwrap();
            std::os::unix::fs::symlink(&place, folder.join("up")).unwrap();
            std::os::unix::fs::symlink(folder.join("data"), folder.join("inside")).unwrap();
            for bad in ["link", "up/secret"] {
                let error = external.read(&tensor(bad, "0", "1")).unwrap_err().to_string();
                assert!(error.contains("leaves the model's folder"), "{error}");
            }
            assert!(external.read(&tensor("inside/weights", "0", "1")).is_ok());
            std::fs::hard_link(place.join("secret"), folder.join("hard")).unwrap();
            let error = external.read(&tensor("hard", "0", "1")).unwrap_err().to_string();
            assert!(error.contains("\"hard\": it is a hard link"), "{error}");
        }
        std::fs::remove_dir_all(place).unwrap();
    }
}
