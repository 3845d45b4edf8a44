//! Structs that grow with versions: what a caller does not know of keeps its default.

use crate::arg;
use crate::error::lbk_error;
use crate::guard::Outcome;

/// A struct of plain values that may grow at its end.
///
/// # Safety
/// It is `repr(C)`, and its fields take any bits (numbers, pointers, optional functions).
pub(crate) unsafe trait Growing: Copy {
    /// Its size in the first version that had it, a multiple of 8 as all later ones.
    const LEAST: usize;
}

/// Options of a call, which begin with their `struct_size`.
///
/// # Safety
/// The first field is `struct_size: usize`.
pub(crate) unsafe trait Options: Growing + Default {}

/// Whether a caller's struct may have this size.
fn known<T: Growing>(size: usize) -> bool {
    (T::LEAST..=size_of::<T>()).contains(&size) && size.is_multiple_of(8)
}

fn check<T: Growing>(size: usize, name: &str) -> Outcome {
    if known::<T>(size) {
        return Ok(());
    }
    let (least, most) = (T::LEAST, size_of::<T>());
    let message = format!("{name}: a size of {size} is none from {least} to {most}");
    Err(lbk_error::argument(name, &message))
}

/// The options that a caller gives; NULL for the defaults.
pub(crate) fn read<T: Options>(pointer: *const T, name: &str) -> Outcome<T> {
    if pointer.is_null() {
        return Ok(T::default());
    }
    arg::check(pointer, 1, name)?;
    read_quietly(pointer).ok_or_else(|| {
        let (least, most) = (T::LEAST, size_of::<T>());
        let message = format!("{name}: struct_size is none from {least} to {most}");
        lbk_error::argument(name, &message)
    })
}

/// The options that a caller gives, without taking memory; nothing for NULL and wrong sizes.
pub(crate) fn read_quietly<T: Options>(pointer: *const T) -> Option<T> {
    if pointer.is_null() || !pointer.is_aligned() {
        return None;
    }
    // SAFETY: it is aligned and not NULL; options begin with their size, as the trait promises.
    let size = unsafe { pointer.cast::<usize>().read() };
    let mut options = known::<T>(size).then(T::default)?;
    // SAFETY: the caller's struct is as large as it says, and this one is no smaller; all bits are
    // values of its fields, as the trait promises.
    unsafe {
        let target = (&raw mut options).cast::<u8>();
        std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), target, size);
    }
    Some(options)
}

/// Fills a caller's options of this size with the defaults. A size that is none stays in them, for
/// the call that takes them to refuse.
pub(crate) fn init<T: Options>(pointer: *mut T, size: usize) {
    if pointer.is_null() || !pointer.is_aligned() || size < size_of::<usize>() {
        return;
    }
    let mut options = T::default();
    // SAFETY: options begin with their size, as the trait promises.
    unsafe { (&raw mut options).cast::<usize>().write(size) };
    copy_out(&options, pointer, size);
}

/// Fills a caller's struct of this size with a result.
pub(crate) fn write<T: Growing>(value: &T, pointer: *mut T, size: usize, name: &str) -> Outcome {
    check::<T>(size, name)?;
    arg::check(pointer, 1, name)?;
    copy_out(value, pointer, size);
    Ok(())
}

fn copy_out<T: Growing>(value: &T, pointer: *mut T, size: usize) {
    let size = size.min(size_of::<T>());
    // SAFETY: the pointer is not NULL and `size` bytes lie there, as the header demands; the value
    // is no smaller.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const *value).cast::<u8>(), pointer.cast(), size);
    }
}

/// Says that structs may grow, with their size in the first version that had them.
macro_rules! growing {
    ($($name:ident: $least:expr),* $(,)?) => {$(
        // SAFETY: the struct is `repr(C)` of numbers, pointers and optional functions.
        unsafe impl $crate::options::Growing for $name {
            const LEAST: usize = $least;
        }
        const _: () = assert!(size_of::<$name>() % 8 == 0 && $least <= size_of::<$name>());
    )*};
}

/// Says that structs are options, with their size in the first version that had them.
macro_rules! options {
    ($($name:ident: $least:expr),* $(,)?) => {$(
        $crate::options::growing!($name: $least);
        // SAFETY: the assertion below holds it.
        unsafe impl $crate::options::Options for $name {}
        const _: () = assert!(std::mem::offset_of!($name, struct_size) == 0);
    )*};
}

pub(crate) use {growing, options};
