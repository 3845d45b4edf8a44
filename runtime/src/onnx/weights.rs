//! Initialisers of a segment's model as values of ONNX Runtime that lie in the plan's weights.

use std::ffi::{CString, c_char};
use std::ptr::NonNull;

use ort::AsPointer;
use ort::memory::MemoryInfo;
use ort::session::builder::SessionBuilder;
use ort::sys::{ONNXTensorElementDataType, OrtStatusPtr, OrtValue};

use super::guard::Initialiser;
use super::session::{failed, refused};
use crate::error::Result;

/// Addresses that ONNX Runtime reads weights at are multiples of this.
const ALIGN: usize = 8;

/// Views of a model's initialisers. They and the weights outlive the session that is given them.
pub(super) struct Views(Vec<(CString, View)>);

/// A value whose elements are those of the plan.
struct View(NonNull<OrtValue>);

#[allow(
    unsafe_code,
    reason = "ort has only values that own their elements or borrow them for a call"
)]
mod raw {
    use super::*;

    // SAFETY: a value that is not written to may be read from any thread, and is released once.
    unsafe impl Send for View {}
    // SAFETY: as above.
    unsafe impl Sync for View {}

    impl Drop for View {
        fn drop(&mut self) {
            // SAFETY: the value is the one that was made for this view, which is gone with it.
            unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) };
        }
    }

    impl View {
        /// Of these elements, which must stay where they are and as they are while it, or a session that was given
        /// it, lives.
        pub fn new(
            dims: &[i64],
            elements: ONNXTensorElementDataType,
            bytes: &[u8],
        ) -> Result<View> {
            let (memory, mut value) = (MemoryInfo::default(), std::ptr::null_mut());
            let data = bytes.as_ptr().cast_mut().cast();
            // SAFETY: the lists are of the lengths that are passed. Of the bytes the call keeps the address, and
            // compares their number with the sizes; an initialiser is only read.
            let made = unsafe {
                (ort::api().CreateTensorWithDataAsOrtValue)(
                    memory.ptr(),
                    data,
                    bytes.len(),
                    dims.as_ptr(),
                    dims.len(),
                    elements,
                    &mut value,
                )
            };
            checked(made)?;
            NonNull::new(value).map(View).ok_or_else(|| failed("it makes no value"))
        }
    }

    impl Views {
        /// Gives a model that is loaded next the data of its initialisers, of which it makes copies.
        pub fn give(&self, builder: &mut SessionBuilder) -> Result<()> {
            let names: Vec<*const c_char> = self.0.iter().map(|(name, _)| name.as_ptr()).collect();
            let values: Vec<*const OrtValue> =
                self.0.iter().map(|(_, view)| view.0.as_ptr().cast_const()).collect();
            if names.is_empty() {
                return Ok(());
            }
            // SAFETY: both lists are of the length that is passed. Names end with a zero and are copied; values
            // outlive the session.
            checked(unsafe {
                (ort::api().AddExternalInitializers)(
                    builder.ptr_mut(),
                    names.as_ptr(),
                    values.as_ptr(),
                    names.len(),
                )
            })
        }

        /// Has the session read initialisers in place once it is made, on the CPU, in the place of these copies.
        pub fn keep(&self, builder: &mut SessionBuilder) -> Result<()> {
            self.0.iter().try_for_each(|(name, View(value))| {
                // SAFETY: the name ends with a zero and is copied; the value outlives the session.
                checked(unsafe {
                    (ort::api().AddInitializer)(builder.ptr_mut(), name.as_ptr(), value.as_ptr())
                })
            })
        }
    }

    fn checked(status: OrtStatusPtr) -> Result<()> {
        // SAFETY: the status is the one that a call gave, and is looked at once.
        unsafe { ort::Error::result_from_status(status) }.map_err(refused)
    }
}

impl Views {
    /// Of a model's initialisers in these weights.
    ///
    /// # Errors
    /// Sizes that are not those of the bytes; a type that ONNX Runtime has no values of; a place that it cannot read
    /// at.
    pub fn new(initialisers: &[Initialiser<'_>], weights: &[u8]) -> Result<Views> {
        let view = |of: &Initialiser<'_>| {
            let name = CString::new(of.name).map_err(refused)?;
            let bytes = weights.get(of.offset..of.offset.saturating_add(of.bytes));
            let bytes = bytes.filter(|bytes| bytes.as_ptr().addr().is_multiple_of(ALIGN));
            let bytes = bytes.ok_or_else(|| {
                refused(format!("an initialiser does not lie at a multiple of {ALIGN} bytes"))
            })?;
            let elements = element(of.data_type).ok_or_else(|| {
                refused(format!("an initialiser is of the type {}", of.data_type))
            })?;
            Ok((name, View::new(&of.dims, elements, bytes)?))
        };
        Ok(Views(initialisers.iter().map(view).collect::<Result<_>>()?))
    }
}

/// The type of an initialiser's elements by ONNX's number.
fn element(data_type: u64) -> Option<ONNXTensorElementDataType> {
    use ONNXTensorElementDataType as E;
    Some(match data_type {
        1 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        2 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        3 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        4 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        5 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        6 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        7 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        9 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        10 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        11 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        12 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        13 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        16 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        17 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN,
        18 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FNUZ,
        19 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2,
        20 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2FNUZ,
        21 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4,
        22 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4,
        _ => return None,
    })
}
