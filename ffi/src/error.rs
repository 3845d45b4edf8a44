use std::ffi::{CString, c_char};

use runtime::{Error, ErrorKind};

/// What kind of thing went wrong; one of the `LBK_*` codes below. Codes keep their meaning in all
/// later versions, and new ones may come.
pub type lbk_code = i32;

/// Nothing went wrong.
pub const LBK_OK: lbk_code = 0;
/// The plan file is damaged, hostile, or made for another version.
pub const LBK_PLAN: lbk_code = 1;
/// A file could not be read or written.
pub const LBK_IO: lbk_code = 2;
/// The plan or this build cannot do what was asked of it.
pub const LBK_UNSUPPORTED: lbk_code = 3;
/// An argument is NULL, out of range, of the wrong size or shape.
pub const LBK_INVALID: lbk_code = 4;
/// More tokens than the context or the cache may hold.
pub const LBK_CAPACITY: lbk_code = 5;
/// More memory than a limit allows, or than the system has for caches, buffers and snapshots. Where it has
/// none left for smaller things (scratch of kernels, a tokenizer's tables) the process is ended: a limit
/// makes an error come before that.
pub const LBK_MEMORY: lbk_code = 6;
/// The call was cancelled.
pub const LBK_CANCELLED: lbk_code = 7;
/// The backend failed.
pub const LBK_BACKEND: lbk_code = 8;
/// A fault of the library's own. The process and all handles live on.
pub const LBK_INTERNAL: lbk_code = 9;
/// The handle is in use: by another thread, or by the call whose callback made this call.
pub const LBK_BUSY: lbk_code = 10;
/// The header is of another version than the library.
pub const LBK_VERSION: lbk_code = 11;

/// Why a call failed. The caller of the failed call owns it; it refers to nothing else, and any
/// thread may read or free it.
pub struct lbk_error {
    code: lbk_code,
    place: Option<CString>,
    message: CString,
}

impl lbk_error {
    pub(crate) fn new(code: lbk_code, message: &str) -> lbk_error {
        lbk_error { code, place: None, message: c_string(message) }
    }

    /// Memory that there is not.
    pub(crate) fn memory(message: &str) -> lbk_error {
        lbk_error::new(LBK_MEMORY, message)
    }

    /// An argument of this name that is wrong.
    pub(crate) fn argument(name: &str, message: &str) -> lbk_error {
        let place = Some(c_string(name));
        lbk_error { place, ..lbk_error::new(LBK_INVALID, message) }
    }
}

impl From<Error> for lbk_error {
    fn from(error: Error) -> lbk_error {
        let code = match error.kind() {
            ErrorKind::Plan => LBK_PLAN,
            ErrorKind::Io => LBK_IO,
            ErrorKind::Unsupported => LBK_UNSUPPORTED,
            ErrorKind::InvalidInput => LBK_INVALID,
            ErrorKind::Capacity => LBK_CAPACITY,
            ErrorKind::Memory => LBK_MEMORY,
            ErrorKind::Cancelled => LBK_CANCELLED,
            ErrorKind::Backend => LBK_BACKEND,
            _ => LBK_INTERNAL,
        };
        let place = error.place().map(c_string);
        lbk_error { place, ..lbk_error::new(code, &error.to_string()) }
    }
}

/// A text as C has it; bytes of value 0, which it cannot hold, are left out.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).or_else(|_| CString::new(text.replace('\0', ""))).unwrap_or_default()
}

/// The code of an error; `LBK_OK` for NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_error_code(error: *const lbk_error) -> lbk_code {
    crate::arg::maybe(error).map_or(LBK_OK, |e| e.code)
}

/// What went wrong and where, as a sentence in UTF-8 that ends in a 0 byte; empty for NULL. It lives
/// as long as the error. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_error_message(error: *const lbk_error) -> *const c_char {
    crate::arg::maybe(error).map_or(c"".as_ptr(), |e| e.message.as_ptr())
}

/// Where it went wrong: an argument's name, a file, a step, a tensor; NULL where that is not known,
/// and for NULL. It lives as long as the error. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_error_place(error: *const lbk_error) -> *const c_char {
    let place = crate::arg::maybe(error).and_then(|e| e.place.as_ref());
    place.map_or(std::ptr::null(), |place| place.as_ptr())
}

/// Frees an error; NULL is fine. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_error_free(error: *mut lbk_error) {
    crate::arg::free(error);
}

/// The name of a code, such as "invalid"; "unknown" for a number that is none. It lives for ever.
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn lbk_code_name(code: lbk_code) -> *const c_char {
    let name = match code {
        LBK_OK => c"ok",
        LBK_PLAN => c"plan",
        LBK_IO => c"io",
        LBK_UNSUPPORTED => c"unsupported",
        LBK_INVALID => c"invalid",
        LBK_CAPACITY => c"capacity",
        LBK_MEMORY => c"memory",
        LBK_CANCELLED => c"cancelled",
        LBK_BACKEND => c"backend",
        LBK_INTERNAL => c"internal",
        LBK_BUSY => c"busy",
        LBK_VERSION => c"version",
        _ => c"unknown",
    };
    name.as_ptr()
}
