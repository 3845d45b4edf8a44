use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;

use runtime::{Control, DiffuseOptions, DiffuseProgress, Diffuser, Tensor, TensorValues};

use crate::arg;
use crate::control::{lbk_control, lbk_status, write_status};
use crate::engine::limit;
use crate::error::lbk_error;
use crate::forward::{lbk_tensor, lbk_tensors, to_view};
use crate::guard::{Exclusive, Outcome, guard, guard_value};
use crate::model::lbk_model;
use crate::options::{self, options};
use crate::usage::{self, lbk_usage};

/// Makes samples of noise. One `lbk_diffuser_run` at a time, from any thread, `LBK_BUSY` otherwise; its control
/// and its status may be asked for meanwhile.
pub struct lbk_diffuser {
    diffuser: Exclusive<Diffuser>,
    control: Control,
}

/// Options of a diffuser, from `lbk_diffuser_options_init`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_diffuser_options {
    /// The size of this struct.
    pub struct_size: usize,
    /// As that of `lbk_session_options`.
    pub memory_limit: u64,
}

options!(lbk_diffuser_options: size_of::<usize>() + 8);

impl Default for lbk_diffuser_options {
    fn default() -> lbk_diffuser_options {
        lbk_diffuser_options { struct_size: size_of::<lbk_diffuser_options>(), memory_limit: 0 }
    }
}

/// A condition that is one number for all samples.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_condition {
    /// Its name, which ends in a 0 byte.
    pub name: *const c_char,
    /// Its value.
    pub value: f64,
}

/// What is to be made, from `lbk_diffuse_options_init`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_diffuse_options {
    /// The size of this struct.
    pub struct_size: usize,
    /// How many samples, made side by side; 1 by default.
    pub samples: usize,
    /// Seed of the first; each other has the next one's. A seed gives the same noise on every platform.
    pub seed: u64,
    /// Steps, of those that the plan has tables for; 0, the default, leaves them to the budget.
    pub steps: usize,
    /// Conditions that are numbers; those that are not given have the plan's defaults.
    pub numbers: *const lbk_condition,
    /// How many.
    pub number_count: usize,
    /// Conditions that are tensors.
    pub tensors: *const lbk_tensor,
    /// How many.
    pub tensor_count: usize,
}

options!(lbk_diffuse_options: size_of::<usize>() * 2);

impl Default for lbk_diffuse_options {
    fn default() -> lbk_diffuse_options {
        lbk_diffuse_options {
            struct_size: size_of::<lbk_diffuse_options>(),
            samples: 1,
            seed: 0,
            steps: 0,
            numbers: std::ptr::null(),
            number_count: 0,
            tensors: std::ptr::null(),
            tensor_count: 0,
        }
    }
}

/// A call after one of its steps.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_diffuse_progress {
    /// Steps done.
    pub done: usize,
    /// Steps of the call.
    pub steps: usize,
    /// The samples as they are now, noise included; they live until the callback returns.
    pub values: *const f32,
    /// How many floats.
    pub count: usize,
}

/// Hears of each step. 0 goes on, anything else ends the call, which fails with `LBK_CANCELLED`. The thread
/// that called `lbk_diffuser_run` calls it. It must not throw or jump out; another
/// `lbk_diffuser_run` of the same diffuser fails with `LBK_BUSY` in it.
pub type lbk_diffuse_fn = Option<
    unsafe extern "C" fn(progress: *const lbk_diffuse_progress, user_data: *mut c_void) -> i32,
>;

/// Fills options with the defaults. `struct_size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_diffuser_options_init(
    options: *mut lbk_diffuser_options,
    struct_size: usize,
) {
    guard_value((), || options::init(options, struct_size));
}

/// Fills options with the defaults. `struct_size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_diffuse_options_init(
    options: *mut lbk_diffuse_options,
    struct_size: usize,
) {
    guard_value((), || options::init(options, struct_size));
}

/// A diffuser over a model that makes samples of noise. `options` may be NULL for the defaults. The caller
/// owns `*diffuser`, which keeps the model. `LBK_UNSUPPORTED` for a model of another task.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_diffuser_new(
    model: *const lbk_model,
    options: *const lbk_diffuser_options,
    diffuser: *mut *mut lbk_diffuser,
) -> *mut lbk_error {
    guard(|| {
        let (model, out) = (arg::shared(model, "model")?, arg::out(diffuser, "diffuser")?);
        let options = options::read(options, "options")?;
        let diffuser = Diffuser::with_limit(&model.model, limit(options.memory_limit))?;
        let control = diffuser.control();
        out.give(lbk_diffuser { diffuser: Exclusive::new(diffuser), control });
        Ok(())
    })
}

/// The handle that cancels the diffuser's calls and sets their budget, as `lbk_session_control`. A budget
/// chooses the number of steps of each call that begins after it was set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_diffuser_control(
    diffuser: *const lbk_diffuser,
    control: *mut *mut lbk_control,
) -> *mut lbk_error {
    guard(|| {
        let (diffuser, out) = (arg::shared(diffuser, "diffuser")?, arg::out(control, "control")?);
        out.give(lbk_control::new(diffuser.control.clone()));
        Ok(())
    })
}

/// How the budget fares, as `lbk_session_get_status`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_diffuser_get_status(
    diffuser: *mut lbk_diffuser,
    status: *mut lbk_status,
    size: usize,
) -> *mut lbk_error {
    guard(|| write_status(&arg::shared(diffuser, "diffuser")?.control, status, size))
}

/// Makes samples: `*outputs`, which the caller owns, has one tensor `samples` `[samples, ...]` of f32. `options`
/// may be NULL for the defaults, and `on_step` where no one listens; `*steps` (NULL if it is not wanted) is how
/// many steps were taken. What was spent is added to `usage` (NULL if it is not wanted).
///
/// `LBK_INVALID` for a condition that is missing, unknown or out of range, and for a number of steps without
/// a table; `LBK_MEMORY`, `LBK_CANCELLED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_diffuser_run(
    diffuser: *mut lbk_diffuser,
    options: *const lbk_diffuse_options,
    on_step: lbk_diffuse_fn,
    user_data: *mut c_void,
    usage: *mut lbk_usage,
    steps: *mut usize,
    outputs: *mut *mut lbk_tensors,
) -> *mut lbk_error {
    guard(|| {
        let (handle, out) = (arg::shared(diffuser, "diffuser")?, arg::out(outputs, "outputs")?);
        let steps = arg::maybe_out(steps, "steps")?;
        let given = options::read(options, "options")?;
        let number = |c: &lbk_condition| Ok((arg::c_text(c.name, "name")?, c.value));
        let numbers = arg::slice(given.numbers, given.number_count, "numbers")?;
        let numbers = numbers.iter().map(number).collect::<Outcome<Vec<_>>>()?;
        let tensors = arg::slice(given.tensors, given.tensor_count, "tensors")?;
        let tensors = tensors.iter().map(to_view).collect::<Outcome<Vec<_>>>()?;
        let options = DiffuseOptions {
            samples: given.samples,
            seed: given.seed,
            steps: (given.steps > 0).then_some(given.steps),
            numbers: &numbers,
            tensors: &tensors,
        };
        let usage = usage::enter(usage)?;
        let mut diffuser = handle.diffuser.enter("diffuser")?;
        let found = diffuser.diffuse(&options, |progress| {
            let Some(on_step) = on_step else { return ControlFlow::Continue(()) };
            let progress = to_c(&progress);
            // SAFETY: the app gave the two together; the progress lives until it returns.
            match unsafe { on_step(&progress, user_data) } {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        usage::spend(usage, &found.usage);
        if let Some(steps) = steps {
            steps.set(found.steps);
        }
        let (shape, values) = (found.shape, TensorValues::F32(found.values));
        out.give(lbk_tensors::of(vec![Tensor { name: "samples".into(), shape, values }]));
        Ok(())
    })
}

fn to_c(progress: &DiffuseProgress<'_>) -> lbk_diffuse_progress {
    let (values, count) = (progress.samples.as_ptr(), progress.samples.len());
    lbk_diffuse_progress { done: progress.done, steps: progress.of, values, count }
}

/// Frees a diffuser; NULL is fine. No call of it may be in progress.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_diffuser_free(diffuser: *mut lbk_diffuser) {
    arg::free(diffuser);
}
