//! The way of C: the functions of `limbeck.h`, called as a C program calls them.

mod control;
mod generation;
mod session;
mod usage;

use std::ffi::{CStr, CString};
use std::path::Path;

use limbeck_ffi::*;
use runtime::{BackendKind, EngineOptions, ErrorKind, KvFormat, SessionOptions};

use crate::api::{Failure, ModelApi, Result};
use session::Session;

/// A handle that is owned, freed when it goes.
struct Handle<T> {
    pointer: *mut T,
    free: unsafe extern "C" fn(*mut T),
}

// SAFETY: the header lets any thread use and free a handle.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: a second call at once fails with LBK_BUSY, or the handle is `const` for all calls.
unsafe impl<T> Sync for Handle<T> {}

impl<T> Handle<T> {
    /// What a call writes to a pointer.
    fn new(
        free: unsafe extern "C" fn(*mut T),
        make: impl FnOnce(*mut *mut T) -> *mut lbk_error,
    ) -> Result<Handle<T>> {
        let mut pointer = std::ptr::null_mut();
        let result = check(make(&mut pointer));
        assert_eq!(result.is_ok(), !pointer.is_null(), "a handle is written on success alone");
        result.map(|()| Handle { pointer, free })
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: it came from the library, and goes once.
        unsafe { (self.free)(self.pointer) }
    }
}

/// What an error says; it is freed.
fn check(error: *mut lbk_error) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is owned and alive until it is freed.
    let (code, message) = unsafe {
        let message = CStr::from_ptr(lbk_error_message(error)).to_owned();
        let code = lbk_error_code(error);
        lbk_error_free(error);
        (code, message)
    };
    let message = message.into_string().expect("UTF-8");
    let kind = match code {
        LBK_PLAN => ErrorKind::Plan,
        LBK_IO => ErrorKind::Io,
        LBK_UNSUPPORTED => ErrorKind::Unsupported,
        LBK_INVALID => ErrorKind::InvalidInput,
        LBK_CAPACITY => ErrorKind::Capacity,
        LBK_MEMORY => ErrorKind::Memory,
        LBK_CANCELLED => ErrorKind::Cancelled,
        LBK_BACKEND => ErrorKind::Backend,
        LBK_INTERNAL => return Err(Failure { kind: None, message }),
        other => panic!("{other}: {message}"),
    };
    Err(Failure { kind: Some(kind), message })
}

/// What a call writes to a place that begins as `value`.
fn written<T>(mut value: T, call: impl FnOnce(*mut T) -> *mut lbk_error) -> Result<T> {
    check(call(&mut value)).map(|()| value)
}

pub struct Model {
    engine: Handle<lbk_engine>,
    model: Handle<lbk_model>,
}

impl ModelApi for Model {
    type Session = Session;

    fn open(plan: &Path, options: EngineOptions) -> Model {
        let mut given = lbk_engine_options::default();
        // SAFETY: the struct is as large as the size says, here and below; texts end in a 0 byte.
        unsafe { lbk_engine_options_init(&mut given, size_of::<lbk_engine_options>()) };
        given.threads = options.threads as u32;
        given.memory_limit = options.memory_limit as u64;
        given.backend = match options.backend {
            BackendKind::Fake => LBK_BACKEND_FAKE,
            BackendKind::Wgpu => LBK_BACKEND_WGPU,
            BackendKind::Auto => LBK_BACKEND_AUTO,
            _ => LBK_BACKEND_CPU,
        };
        // SAFETY: as above.
        let engine = Handle::new(lbk_engine_free, |out| unsafe {
            lbk_engine_new(LBK_ABI_VERSION, &given, out)
        });
        let engine = engine.expect("an engine");
        let path = CString::new(plan.to_str().expect("a path")).expect("a path");
        // SAFETY: as above.
        let model = Handle::new(lbk_model_free, |out| unsafe {
            lbk_model_open(engine.pointer, path.as_ptr(), out)
        });
        Model { engine, model: model.expect("a plan") }
    }

    fn engine_memory(&self) -> usize {
        // SAFETY: the engine is alive.
        unsafe { lbk_engine_memory(self.engine.pointer) as usize }
    }

    fn session(&self, options: &SessionOptions) -> Result<Session> {
        let mut given = lbk_session_options::default();
        // SAFETY: the struct is as large as the size says.
        unsafe { lbk_session_options_init(&mut given, size_of::<lbk_session_options>()) };
        given.context = options.context;
        given.cache_tokens = options.cache_tokens;
        given.chunk = options.chunk;
        given.memory_limit = options.memory_limit as u64;
        given.kv = match options.kv {
            KvFormat::F16 => LBK_KV_F16,
            KvFormat::F32 => LBK_KV_F32,
            KvFormat::Q8 => LBK_KV_Q8,
        };
        // SAFETY: the model is alive, the options are a struct of their size.
        let session = Handle::new(lbk_session_free, |out| unsafe {
            lbk_session_new(self.model.pointer, &given, out)
        })?;
        Ok(Session(session))
    }
}
