//! What a driver made of shaders, in a file that is kept from one run to the next.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use super::device::Gpu;

/// How a file begins; a hash of the rest follows.
const MAGIC: &[u8; 8] = b"LBKPIPE1";
const HEADER: usize = MAGIC.len() + size_of::<u64>();
/// Bytes that a file has at most: more are taken for damage.
const MOST: u64 = 64 << 20;

/// A cache of pipelines with its file, one for each kind of adapter. What goes wrong with the file costs time
/// alone, so it is no error.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    pub cache: wgpu::PipelineCache,
}

impl Kept {
    /// `None` where the device has no such caches.
    pub fn open(gpu: &Gpu, folder: &Path) -> Option<Kept> {
        if !gpu.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let path = folder.join(wgpu::util::pipeline_cache_key(&gpu.info)?);
        let data = read(&path);
        let descriptor = wgpu::PipelineCacheDescriptor {
            label: Some("limbeck"),
            data: data.as_deref(),
            fallback: true,
        };
        // SAFETY: the bytes are what `get_data` gave when the file was written, as its hash says; wgpu and the
        // driver take those of another adapter or version for none.
        #[allow(unsafe_code, reason = "drivers trust their own data")]
        let cache = gpu.scoped(|| unsafe { gpu.device.create_pipeline_cache(&descriptor) });
        Some(Kept { path, cache: cache.ok()? })
    }

    /// Writes what the driver made so far, in the place of what was there.
    pub fn save(&self) {
        static WRITES: AtomicUsize = AtomicUsize::new(0);
        let Some(data) = self.cache.get_data().filter(|data| data.len() + HEADER <= MOST as usize)
        else {
            return;
        };
        // Another process, or engine of this one, may write the same file.
        let write_number = WRITES.fetch_add(1, Ordering::Relaxed);
        let ours = self.path.with_extension(format!("{}-{write_number}", std::process::id()));
        let written = write(&ours, &data).and_then(|()| fs::rename(&ours, &self.path));
        if written.is_err() {
            // It may not even have been made.
            let _ = fs::remove_file(&ours);
        }
    }
}

/// The data of a whole file.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    let (header, data) = bytes.split_at_checked(HEADER)?;
    let hash = header.strip_prefix(MAGIC)?;
    (hash == xxh3_64(data).to_le_bytes()).then(|| data.to_vec())
}

fn write(path: &Path, data: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(MAGIC)?;
    file.write_all(&xxh3_64(data).to_le_bytes())?;
    file.write_all(data)
}
