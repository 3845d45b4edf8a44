use std::ffi::{CString, c_char, c_void};
use std::path::PathBuf;

use runtime::{BackendKind, Engine, EngineOptions, OnnxOptions};

use crate::arg;
use crate::error::{LBK_VERSION, c_string, lbk_error};
use crate::guard::{Outcome, guard, guard_value};
use crate::log::{LBK_LOG_INFO, UserData, lbk_log_fn, lbk_log_level, lbk_release_fn, logger};
use crate::options::{self, options};

/// The version of this header: major times 65536 plus minor. A library runs what was built against
/// the header of its own major version and a minor version that is not above its own.
pub const LBK_ABI_VERSION: u32 = 1;

/// What computes; one of the `LBK_BACKEND_*` numbers.
pub type lbk_backend = i32;

/// The kernels of this CPU.
pub const LBK_BACKEND_CPU: lbk_backend = 0;
/// Slow reference kernels, for tests; the installed library is built without them, and an engine of them is
/// `LBK_UNSUPPORTED` there.
pub const LBK_BACKEND_FAKE: lbk_backend = 1;
/// A GPU, through Vulkan, Metal or Direct3D 12; `LBK_UNSUPPORTED` in a library that was built without the
/// feature `wgpu`, as the installed one is.
pub const LBK_BACKEND_WGPU: lbk_backend = 2;
/// `LBK_BACKEND_WGPU` where the library has it and there is a GPU that is not software and opens, or
/// `LIMBECK_ADAPTER` in the environment names one, which must then be there and open; else `LBK_BACKEND_CPU`.
/// `lbk_engine_backend` says which. No plan is known then: one that the GPU cannot run is refused when it is opened.
pub const LBK_BACKEND_AUTO: lbk_backend = 3;

/// Threads, kernels and options that models share. All functions take it as `const`: any number of
/// threads may use one at once.
pub struct lbk_engine {
    pub(crate) engine: Engine,
    backend: CString,
}

/// Options of an engine, from `lbk_engine_options_init`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_engine_options {
    /// The size of this struct.
    pub struct_size: usize,
    /// Bytes that caches, buffers and scratch of all that is opened from the engine may take
    /// together; 0 for no limit. Plans are not counted: their weights are used where they lie.
    pub memory_limit: u64,
    /// What computes.
    pub backend: lbk_backend,
    /// Threads to compute with, the caller's included; 0 takes as many as the machine has cores.
    pub threads: u32,
    /// Hears messages; NULL for no one.
    pub log: lbk_log_fn,
    /// Given to `log`.
    pub log_user_data: *mut c_void,
    /// Called once with `log_user_data` when the engine and all that was opened from it are gone, or
    /// when `lbk_engine_new` fails; NULL for nothing.
    pub log_release: lbk_release_fn,
    /// The least important messages to hear; `LBK_LOG_INFO` by default.
    pub log_level: lbk_log_level,
    /// 0.
    pub reserved: i32,
    /// The path of ONNX Runtime's library, version 1.20 or later, for plans with ONNX segments, which a library
    /// with the feature `ort` runs. NULL takes the one that `LIMBECK_ORT` in the environment names, or one
    /// beside the program. It is loaded when such a plan is opened, once for the process.
    pub onnx_library: *const c_char,
    /// Its execution providers in the order in which they are asked, by name and with commas between:
    /// `coreml`, `qnn,xnnpack`. NULL for its kernels for CPUs alone.
    pub onnx_providers: *const c_char,
    /// The path of a folder in which what a GPU's driver makes of shaders is kept, so that plans are ready sooner in
    /// the next run; NULL keeps nothing. A file for each kind of GPU, which may be deleted at any time, and is made
    /// anew where it is damaged. It must be the app's alone: drivers trust what they wrote.
    pub pipeline_cache: *const c_char,
}

options!(lbk_engine_options: size_of::<usize>() + 8);

impl Default for lbk_engine_options {
    fn default() -> lbk_engine_options {
        lbk_engine_options {
            struct_size: size_of::<lbk_engine_options>(),
            memory_limit: 0,
            backend: LBK_BACKEND_CPU,
            threads: 0,
            log: None,
            log_user_data: std::ptr::null_mut(),
            log_release: None,
            log_level: LBK_LOG_INFO,
            reserved: 0,
            onnx_library: std::ptr::null(),
            onnx_providers: std::ptr::null(),
            pipeline_cache: std::ptr::null(),
        }
    }
}

/// A text that may be NULL.
fn optional<'a>(text: *const c_char, name: &'static str) -> Outcome<Option<&'a str>> {
    if text.is_null() { Ok(None) } else { arg::c_text(text, name).map(Some) }
}

/// What computes ONNX segments, as the options say.
fn onnx(options: &lbk_engine_options) -> Outcome<OnnxOptions> {
    let library = optional(options.onnx_library, "onnx_library")?.map(PathBuf::from);
    let providers =
        optional(options.onnx_providers, "onnx_providers")?.unwrap_or_default().split(',');
    let providers = providers.map(str::trim).filter(|name| !name.is_empty());
    Ok(OnnxOptions { library, providers: providers.map(str::to_owned).collect() })
}

/// A limit in bytes as this machine counts them.
pub(crate) fn limit(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The version of the library, as `LBK_ABI_VERSION` has it. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn lbk_version() -> u32 {
    LBK_ABI_VERSION
}

/// Fills options with the defaults. `struct_size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_engine_options_init(
    options: *mut lbk_engine_options,
    struct_size: usize,
) {
    guard_value((), || options::init(options, struct_size));
}

/// Starts an engine and its threads. `abi_version` is `LBK_ABI_VERSION`; `options` may be NULL for
/// the defaults. The caller owns `*engine`, which is written on success alone.
///
/// Fails with `LBK_VERSION` where header and library do not fit each other, with `LBK_INVALID` for
/// options out of range, and with `LBK_UNSUPPORTED` for a backend that the library was built without.
/// `log_release` is called on failure too, once the options could be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_engine_new(
    abi_version: u32,
    options: *const lbk_engine_options,
    engine: *mut *mut lbk_engine,
) -> *mut lbk_error {
    guard(|| {
        check_version(abi_version)?;
        let options = options::read(options, "options")?;
        let user = UserData { data: options.log_user_data, release: options.log_release };
        let out = arg::out(engine, "engine")?;
        let backend = match options.backend {
            LBK_BACKEND_CPU => BackendKind::Cpu,
            LBK_BACKEND_FAKE => BackendKind::Fake,
            LBK_BACKEND_WGPU => BackendKind::Wgpu,
            LBK_BACKEND_AUTO => BackendKind::Auto,
            other => {
                let message = format!("backend: {other} is none of LBK_BACKEND_*");
                return Err(lbk_error::argument("backend", &message));
            }
        };
        let engine = Engine::new(EngineOptions {
            backend,
            threads: options.threads as usize,
            memory_limit: limit(options.memory_limit),
            logger: logger(options.log, options.log_level, user)?,
            onnx: onnx(&options)?,
            pipeline_cache: optional(options.pipeline_cache, "pipeline_cache")?.map(PathBuf::from),
        })?;
        let backend = c_string(&engine.backend());
        out.give(lbk_engine { engine, backend });
        Ok(())
    })
}

fn check_version(header: u32) -> Outcome {
    let (major, minor) = (header >> 16, header & 0xffff);
    let (own_major, own_minor) = (LBK_ABI_VERSION >> 16, LBK_ABI_VERSION & 0xffff);
    if major == own_major && minor <= own_minor {
        return Ok(());
    }
    let message =
        format!("the header is of version {major}.{minor}, the library of {own_major}.{own_minor}");
    Err(lbk_error::new(LBK_VERSION, &message))
}

/// What computes, for people: `cpu (avx2, 2 threads)`; empty for NULL. It lives as long as the
/// engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_engine_backend(engine: *const lbk_engine) -> *const c_char {
    arg::maybe(engine).map_or(c"".as_ptr(), |e| e.backend.as_ptr())
}

/// Bytes that caches, buffers and scratch of all that was opened from the engine take now; 0 for
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_engine_memory(engine: *const lbk_engine) -> u64 {
    guard_value(0, || arg::maybe(engine).map_or(0, |e| e.engine.memory_bytes() as u64))
}

/// Gives up an engine; NULL is fine. What was opened from it lives on, and keeps its threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_engine_free(engine: *mut lbk_engine) {
    arg::free(engine);
}
