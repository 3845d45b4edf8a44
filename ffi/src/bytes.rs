use std::ffi::c_char;

use crate::arg;
use crate::error::lbk_error;
use crate::guard::{Outcome, guard_value};

/// Bytes or a text that the caller owns. Any number of threads may read one at once.
pub struct lbk_bytes {
    /// With a 0 byte after the last.
    data: Vec<u8>,
}

impl lbk_bytes {
    /// `LBK_MEMORY` where there is none for one more byte.
    pub(crate) fn new(mut data: Vec<u8>) -> Outcome<lbk_bytes> {
        let room = data.try_reserve_exact(1);
        room.map_err(|_| lbk_error::memory("there is no memory for the result"))?;
        data.push(0);
        Ok(lbk_bytes { data })
    }
}

/// The bytes, followed by a 0 byte that `lbk_bytes_size` does not count; NULL for NULL. They live as
/// long as `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_bytes_data(bytes: *const lbk_bytes) -> *const c_char {
    arg::maybe(bytes).map_or(std::ptr::null(), |b| b.data.as_ptr().cast())
}

/// How many there are; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_bytes_size(bytes: *const lbk_bytes) -> usize {
    guard_value(0, || arg::maybe(bytes).map_or(0, |b| b.data.len().saturating_sub(1)))
}

/// Frees bytes; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_bytes_free(bytes: *mut lbk_bytes) {
    arg::free(bytes);
}

/// A text that is borrowed: UTF-8, without a 0 byte at its end. It may be NULL where it is empty.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_text {
    /// Its bytes.
    pub data: *const c_char,
    /// How many.
    pub length: usize,
}

impl lbk_text {
    pub(crate) fn of(text: &str) -> lbk_text {
        lbk_text { data: text.as_ptr().cast(), length: text.len() }
    }
}
