//! Pointers from C, taken apart: each is checked for NULL, alignment and length, and then trusted to
//! be what the header says that it must be.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

use crate::error::lbk_error;
use crate::guard::Outcome;

/// What a pointer points to.
pub(crate) fn shared<'a, T>(pointer: *const T, name: &str) -> Outcome<&'a T> {
    check(pointer, 1, name)?;
    maybe(pointer).ok_or_else(|| null(name))
}

/// What a pointer points to; nothing for NULL, nor for one that is not aligned.
pub(crate) fn maybe<'a, T>(pointer: *const T) -> Option<&'a T> {
    if !pointer.is_aligned() {
        return None;
    }
    // SAFETY: the header demands that a pointer which is not NULL points to a living object of its
    // type; exclusive use of what lies in handles is checked by their own locks.
    unsafe { pointer.as_ref() }
}

/// An array, which may be NULL where it is empty.
pub(crate) fn slice<'a, T>(data: *const T, len: usize, name: &str) -> Outcome<&'a [T]> {
    check(data, len, name)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: `data` is aligned and not NULL, and the bytes are no more than fit an object. That
    // `len` elements lie there, which no one writes during the call, is demanded by the header.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// An array that the call fills, and of which nothing is read.
pub(crate) fn places<'a, T>(
    data: *mut T,
    len: usize,
    name: &str,
) -> Outcome<&'a mut [MaybeUninit<T>]> {
    check(data, len, name)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as for `slice`, but that nothing need lie there yet; the header demands that no one else touches it
    // during the call.
    Ok(unsafe { std::slice::from_raw_parts_mut(data.cast(), len) })
}

/// Refuses a place of `len` elements that is NULL or not aligned, or larger than memory.
pub(crate) fn check<T>(data: *const T, len: usize, name: &str) -> Outcome {
    let most = isize::MAX as usize / size_of::<T>().max(1);
    if len > most {
        return Err(lbk_error::argument(name, &format!("{name}: a length of {len} is too large")));
    }
    if len > 0 && data.is_null() {
        return Err(null(name));
    }
    if len > 0 && !data.is_aligned() {
        return Err(lbk_error::argument(name, &format!("{name} is not aligned")));
    }
    Ok(())
}

/// A text in UTF-8.
pub(crate) fn text<'a>(data: *const c_char, len: usize, name: &str) -> Outcome<&'a str> {
    let bytes = slice(data.cast::<u8>(), len, name)?;
    std::str::from_utf8(bytes)
        .map_err(|e| lbk_error::argument(name, &format!("{name} is not UTF-8: {e}")))
}

/// A text in UTF-8 that ends in a 0 byte.
pub(crate) fn c_text<'a>(text: *const c_char, name: &str) -> Outcome<&'a str> {
    if text.is_null() {
        return Err(null(name));
    }
    // SAFETY: it is not NULL, and the header demands a 0 byte at its end.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|e| lbk_error::argument(name, &format!("{name} is not UTF-8: {e}")))
}

/// Where a result goes.
pub(crate) struct Out<T>(*mut T);

/// A place for a result, which is needed.
pub(crate) fn out<T>(pointer: *mut T, name: &str) -> Outcome<Out<T>> {
    check(pointer, 1, name)?;
    Ok(Out(pointer))
}

/// A place for a result that the caller may not want.
pub(crate) fn maybe_out<T>(pointer: *mut T, name: &str) -> Outcome<Option<Out<T>>> {
    if pointer.is_null() { Ok(None) } else { out(pointer, name).map(Some) }
}

impl<T> Out<T> {
    /// Writes the result.
    pub fn set(&self, value: T) {
        // SAFETY: `out` checked NULL and alignment; the header demands a place of this type.
        unsafe { self.0.write(value) }
    }
}

impl<T> Out<*mut T> {
    /// Writes a handle that the caller owns.
    pub fn give(&self, value: T) {
        self.set(Box::into_raw(Box::new(value)));
    }
}

/// Ends a handle; NULL is fine.
pub(crate) fn free<T>(handle: *mut T) {
    crate::guard::guard_value((), || {
        if !handle.is_null() {
            // SAFETY: it came from `Out::give` or `guard`, and the header demands that it is freed
            // once and not used again.
            drop(unsafe { Box::from_raw(handle) });
        }
    });
}

fn null(name: &str) -> lbk_error {
    lbk_error::argument(name, &format!("{name} is NULL"))
}
