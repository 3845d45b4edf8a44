//! The engine: threads, kernels and options that models share.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::backend::Backend;
use crate::backend::cpu::CpuBackend;
#[cfg(feature = "fake")]
use crate::backend::fake::FakeBackend;
#[cfg(feature = "wgpu")]
use crate::backend::wgpu::WgpuBackend;
use crate::bytes::{PlanBytes, SharedBytes};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Level, Logger};
use crate::memory::{Account, Memory};
use crate::model::Model;
use crate::onnx::OnnxOptions;

/// Environment variable that overrides the CPU backend's choice of instruction set
/// (`avx2`, `portable`, ...).
pub const ISA_VARIABLE: &str = "LIMBECK_ISA";

/// Most threads that an engine starts.
pub const MAX_THREADS: usize = 256;

/// What runs native segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendKind {
    /// The kernels of this CPU.
    #[default]
    Cpu,
    /// Slow reference kernels, for tests; in builds with the feature `fake`.
    Fake,
    /// A GPU, through Vulkan, Metal or Direct3D 12; in builds with the feature `wgpu`.
    Wgpu,
    /// [`BackendKind::Wgpu`], where there is a GPU that is not software and it opens, or where
    /// `LIMBECK_ADAPTER` names an adapter, which must be there; else [`BackendKind::Cpu`]. [`Engine::backend`] says
    /// which. No plan is known then: one that the GPU cannot run is refused when it is opened.
    Auto,
}

impl FromStr for BackendKind {
    type Err = Error;

    fn from_str(s: &str) -> Result<BackendKind> {
        match s {
            "cpu" => Ok(BackendKind::Cpu),
            "fake" => Ok(BackendKind::Fake),
            "wgpu" => Ok(BackendKind::Wgpu),
            "auto" => Ok(BackendKind::Auto),
            _ => {
                let message = format!("backend {s:?} is none of cpu, wgpu, auto, fake");
                Err(Error::new(ErrorKind::InvalidInput, message))
            }
        }
    }
}

/// The error of a backend that a build leaves out.
#[cfg(not(all(feature = "fake", feature = "wgpu")))]
fn not_built(backend: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this build has no {backend} backend"))
}

fn cpu(threads: usize, onnx: OnnxOptions) -> Result<Arc<dyn Backend>> {
    let isa = std::env::var(ISA_VARIABLE).ok().filter(|v| !v.is_empty());
    let backend = CpuBackend::new(threads, isa.as_deref(), onnx)
        .map_err(|e| e.at(format!("environment variable {ISA_VARIABLE}")))?;
    Ok(Arc::new(backend))
}

/// The backend of a GPU that goes before the CPU, where there is one.
///
/// # Errors
/// One that is named and is not there or does not open.
#[cfg(feature = "wgpu")]
fn gpu(options: &EngineOptions) -> Result<Option<Arc<dyn Backend>>> {
    let opened = WgpuBackend::before_the_cpu(options.pipeline_cache.as_deref());
    match opened.transpose() {
        Ok(backend) => Ok(backend.map(|backend| Arc::new(backend) as Arc<dyn Backend>)),
        Err(e) if crate::backend::wgpu::is_named() => Err(e),
        Err(e) => {
            options.logger.tell(Level::Warn, || format!("no GPU: {e}"));
            Ok(None)
        }
    }
}

#[cfg(not(feature = "wgpu"))]
fn gpu(_: &EngineOptions) -> Result<Option<Arc<dyn Backend>>> {
    Ok(None)
}

/// Options of an engine.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Backend of native segments.
    pub backend: BackendKind,
    /// Threads to compute with, the caller's included; 0 takes as many as the machine has cores.
    pub threads: usize,
    /// Bytes that caches, buffers and scratch of all its sessions, encoders and classifiers may take
    /// together; 0 for no limit. Plans are not counted: their weights are used where they lie.
    pub memory_limit: usize,
    /// What computes the ONNX segments of plans that have such.
    pub onnx: OnnxOptions,
    /// Folder in which what a GPU's driver makes of shaders is kept, so that a plan is soon ready in the next run;
    /// none keeps nothing. A file for each kind of GPU, which may be deleted at any time; one that is damaged is
    /// made anew. Files must be the app's alone: drivers trust them.
    pub pipeline_cache: Option<PathBuf>,
    /// Hears what is chosen, opened, and not kept.
    pub logger: Logger,
}

/// Opens plans. Cheap to clone; clones share threads.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What models and sessions have from their engine.
pub(crate) struct Shared {
    pub backend: Arc<dyn Backend>,
    pub logger: Logger,
    memory: Memory,
}

impl Shared {
    /// An account of a session or of what `owner` says, with a limit of its own; 0 for none.
    pub fn account(&self, owner: &'static str, limit: usize) -> Account {
        self.memory.account(owner, limit)
    }
}

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// Too many threads, a backend that this build leaves out, [`ISA_VARIABLE`] naming an instruction
    /// set that is not there, or a device that is not there or does not open.
    pub fn new(options: EngineOptions) -> Result<Engine> {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = match options.threads {
            0 => cores().min(MAX_THREADS),
            n if n <= MAX_THREADS => n,
            n => {
                let message = format!("{n} threads are more than {MAX_THREADS}");
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
        };
        let backend: Arc<dyn Backend> = match options.backend {
            BackendKind::Cpu => cpu(threads, options.onnx)?,
            BackendKind::Auto => match gpu(&options)? {
                Some(backend) => backend,
                None => cpu(threads, options.onnx)?,
            },
            #[cfg(feature = "fake")]
            BackendKind::Fake => Arc::new(FakeBackend { onnx: options.onnx, ..Default::default() }),
            #[cfg(not(feature = "fake"))]
            BackendKind::Fake => return Err(not_built("fake")),
            #[cfg(feature = "wgpu")]
            BackendKind::Wgpu => Arc::new(WgpuBackend::new(options.pipeline_cache.as_deref())?),
            #[cfg(not(feature = "wgpu"))]
            BackendKind::Wgpu => return Err(not_built("wgpu")),
        };
        let memory = Memory::new(options.memory_limit);
        let shared = Shared { backend, logger: options.logger, memory };
        shared.logger.tell(Level::Info, || format!("engine: {}", shared.backend.description()));
        Ok(Engine { shared: Arc::new(shared) })
    }

    /// Opens a plan file. The file is mapped: while the model lives, it must be neither written to nor made
    /// shorter. Reading what it no longer has ends the process (`SIGBUS`). Replace a plan by a file that is
    /// written beside it and renamed over it, as the compiler does: the model keeps the old one.
    ///
    /// # Errors
    /// A file that cannot be read, a plan that is damaged or hostile, or an op that the backend
    /// lacks.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        let bytes = PlanBytes::map(path)?;
        Model::new(self.shared.clone(), bytes).map_err(|e| e.at(path.display().to_string()))
    }

    /// Opens a plan that is `len` bytes of an open file from `offset` on, a multiple of 64, as an
    /// asset of an app may be. Those bytes are mapped, under the condition of [`Engine::open`]; the
    /// file may be closed.
    ///
    /// # Errors
    /// As [`Engine::open`], and a range that is not in the file.
    pub fn open_file(&self, file: &File, offset: u64, len: u64) -> Result<Model> {
        Model::new(self.shared.clone(), PlanBytes::map_range(file, offset, len)?)
    }

    /// Opens a plan from bytes in memory.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_bytes(&self, bytes: impl Into<Arc<[u8]>>) -> Result<Model> {
        Model::new(self.shared.clone(), PlanBytes::Owned(bytes.into()))
    }

    /// Opens a plan from bytes that something of the app's keeps, without a copy. They are let go
    /// with the model and all that was opened from it; until then they must not change. Weights are
    /// read fastest where the bytes begin at a multiple of 64.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_shared(&self, bytes: SharedBytes) -> Result<Model> {
        Model::new(self.shared.clone(), PlanBytes::Shared(bytes))
    }

    /// Bytes that caches, buffers and scratch take now.
    pub fn memory_bytes(&self) -> usize {
        self.shared.memory.used()
    }

    /// What computes, for people: `cpu (avx2, 2 threads)`.
    pub fn backend(&self) -> String {
        self.shared.backend.description()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.backend())
    }
}
