use std::ffi::{CStr, CString, c_char, c_void};

use runtime::{Control, Forward, Tensor, TensorData, TensorValues, TensorView};

use crate::arg;
use crate::control::{lbk_control, lbk_status, write_status};
use crate::error::{c_string, lbk_error};
use crate::guard::{Exclusive, Outcome, guard, guard_value};
use crate::model::lbk_model;
use crate::session::lbk_session_options;
use crate::usage::{self, lbk_usage};

/// The type of a tensor's elements; one of the `LBK_DTYPE_*` numbers.
pub type lbk_dtype = i32;

/// 32-bit floats.
pub const LBK_DTYPE_F32: lbk_dtype = 0;
/// 32-bit integers.
pub const LBK_DTYPE_I32: lbk_dtype = 1;
/// 64-bit integers; taken, never given.
pub const LBK_DTYPE_I64: lbk_dtype = 2;

/// A tensor, row-major; all that it points to is borrowed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_tensor {
    /// Its name, which ends in a 0 byte.
    pub name: *const c_char,
    /// The type of its elements.
    pub dtype: lbk_dtype,
    /// 0.
    pub reserved: i32,
    /// Its sizes, the outermost first.
    pub shape: *const usize,
    /// How many sizes.
    pub rank: usize,
    /// Its elements, aligned as their type wants.
    pub data: *const c_void,
    /// How many elements: the product of the sizes.
    pub count: usize,
}

/// Runs a plan of any task on named tensors, each call by itself. One call at a time may use it, from
/// any thread: `LBK_BUSY` otherwise.
///
/// Text: `input_ids` `[tokens]` to `logits` `[tokens, vocab]`. Embedding: `input_ids` and, where some
/// are padding, `attention_mask`, both `[batch, tokens]`, to `last_hidden_state`
/// `[batch, tokens, hidden]` and `embedding` `[batch, embedding]`. Classification: `pixel_values`
/// `[batch, channels, height, width]` to `logits` `[batch, classes]`. Where the plan has sites,
/// `choices` `[sites, tokens of all rows]` is given too, and forces them where it is an input.
pub struct lbk_forward {
    forward: Exclusive<Forward>,
    control: Control,
    inputs: CString,
    outputs: CString,
}

/// Tensors that the caller owns. Any number of threads may read them at once.
pub struct lbk_tensors {
    tensors: Vec<(CString, Tensor)>,
}

impl lbk_tensors {
    pub(crate) fn of(tensors: Vec<Tensor>) -> lbk_tensors {
        lbk_tensors { tensors: tensors.into_iter().map(|t| (c_string(&t.name), t)).collect() }
    }
}

/// For a model of any task. Of the options (NULL for the defaults) all but the memory limit matter to
/// text students alone. The caller owns `*forward`, which keeps the model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_forward_new(
    model: *const lbk_model,
    options: *const lbk_session_options,
    forward: *mut *mut lbk_forward,
) -> *mut lbk_error {
    guard(|| {
        let (model, out) = (arg::shared(model, "model")?, arg::out(forward, "forward")?);
        let forward = Forward::new(&model.model, lbk_session_options::read(options)?)?;
        let interface = forward.interface();
        let inputs = c_string(&interface.listed_inputs());
        let outputs = c_string(&interface.listed_outputs());
        let control = forward.control();
        out.give(lbk_forward { forward: Exclusive::new(forward), control, inputs, outputs });
        Ok(())
    })
}

/// What it takes, for people: `input_ids [tokens]`; empty for NULL. It lives as long as `forward`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_forward_inputs(forward: *const lbk_forward) -> *const c_char {
    arg::maybe(forward).map_or(c"".as_ptr(), |f| f.inputs.as_ptr())
}

/// What it gives, as `lbk_forward_inputs`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_forward_outputs(forward: *const lbk_forward) -> *const c_char {
    arg::maybe(forward).map_or(c"".as_ptr(), |f| f.outputs.as_ptr())
}

/// The handle that cancels calls and sets their budget, as `lbk_session_control`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_forward_control(
    forward: *const lbk_forward,
    control: *mut *mut lbk_control,
) -> *mut lbk_error {
    guard(|| {
        let (forward, out) = (arg::shared(forward, "forward")?, arg::out(control, "control")?);
        out.give(lbk_control::new(forward.control.clone()));
        Ok(())
    })
}

/// How the budget fares, as `lbk_session_get_status`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_forward_get_status(
    forward: *mut lbk_forward,
    status: *mut lbk_status,
    size: usize,
) -> *mut lbk_error {
    guard(|| write_status(&arg::shared(forward, "forward")?.control, status, size))
}

/// Runs the plan once. The caller owns `*outputs`. What was spent is added to `usage` (NULL if it is
/// not wanted).
///
/// `LBK_INVALID` for a tensor that is missing, unknown, given twice, or not of its shape, type or
/// range; `LBK_CAPACITY`, `LBK_MEMORY`, `LBK_CANCELLED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_forward_run(
    forward: *mut lbk_forward,
    inputs: *const lbk_tensor,
    input_count: usize,
    usage: *mut lbk_usage,
    outputs: *mut *mut lbk_tensors,
) -> *mut lbk_error {
    guard(|| {
        let (forward, out) = (arg::shared(forward, "forward")?, arg::out(outputs, "outputs")?);
        let inputs = arg::slice(inputs, input_count, "inputs")?;
        let inputs = inputs.iter().map(to_view).collect::<Outcome<Vec<_>>>()?;
        let usage = usage::enter(usage)?;
        let (tensors, spent) = forward.forward.enter("forward")?.run(&inputs)?;
        usage::spend(usage, &spent);
        out.give(lbk_tensors::of(tensors));
        Ok(())
    })
}

/// More axes than any student's tensors have.
const MAX_RANK: usize = 64;

pub(crate) fn to_view(given: &lbk_tensor) -> Outcome<TensorView<'_>> {
    if given.rank > MAX_RANK {
        let message = format!("rank: {} axes are more than {MAX_RANK}", given.rank);
        return Err(lbk_error::argument("rank", &message));
    }
    let shape = arg::slice(given.shape, given.rank, "shape")?;
    let (data, count) = (given.data, given.count);
    let data = match given.dtype {
        LBK_DTYPE_F32 => TensorData::F32(arg::slice(data.cast(), count, "data")?),
        LBK_DTYPE_I32 => TensorData::I32(arg::slice(data.cast(), count, "data")?),
        LBK_DTYPE_I64 => TensorData::I64(arg::slice(data.cast(), count, "data")?),
        other => {
            let message = format!("dtype: {other} is none of LBK_DTYPE_*");
            return Err(lbk_error::argument("dtype", &message));
        }
    };
    Ok(TensorView { name: arg::c_text(given.name, "name")?, shape, data })
}

/// Frees it; NULL is fine. No call of it may be in progress.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_forward_free(forward: *mut lbk_forward) {
    arg::free(forward);
}

/// How many tensors there are; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_tensors_count(tensors: *const lbk_tensors) -> usize {
    guard_value(0, || arg::maybe(tensors).map_or(0, |t| t.tensors.len()))
}

/// A tensor, by its index; what it points to lives as long as `tensors`. `LBK_INVALID` for an index
/// that is not below their number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_tensors_get(
    tensors: *const lbk_tensors,
    index: usize,
    tensor: *mut lbk_tensor,
) -> *mut lbk_error {
    guard(|| {
        let (tensors, out) = (arg::shared(tensors, "tensors")?, arg::out(tensor, "tensor")?);
        let found = tensors.tensors.get(index).ok_or_else(|| {
            let message = format!("index: tensor {index} is none of {}", tensors.tensors.len());
            lbk_error::argument("index", &message)
        })?;
        out.set(to_tensor(&found.0, &found.1));
        Ok(())
    })
}

/// A tensor, by its name, a text that ends in a 0 byte. `LBK_INVALID` where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_tensors_find(
    tensors: *const lbk_tensors,
    name: *const c_char,
    tensor: *mut lbk_tensor,
) -> *mut lbk_error {
    guard(|| {
        let (tensors, out) = (arg::shared(tensors, "tensors")?, arg::out(tensor, "tensor")?);
        let name = arg::c_text(name, "name")?;
        let found = tensors.tensors.iter().find(|(_, t)| t.name == name);
        let (c_name, found) = found.ok_or_else(|| {
            lbk_error::argument("name", &format!("name: there is no tensor {name:?}"))
        })?;
        out.set(to_tensor(c_name, found));
        Ok(())
    })
}

fn to_tensor(name: &CStr, tensor: &Tensor) -> lbk_tensor {
    let (dtype, data, count) = match &tensor.values {
        TensorValues::F32(values) => (LBK_DTYPE_F32, values.as_ptr().cast(), values.len()),
        TensorValues::I32(values) => (LBK_DTYPE_I32, values.as_ptr().cast(), values.len()),
    };
    let (shape, rank) = (tensor.shape.as_ptr(), tensor.shape.len());
    lbk_tensor { name: name.as_ptr(), dtype, reserved: 0, shape, rank, data, count }
}

/// Frees tensors; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_tensors_free(tensors: *mut lbk_tensors) {
    arg::free(tensors);
}
