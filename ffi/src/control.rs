use std::time::Duration;

use runtime::{Budget, Control, Limits, Status, Unmet};

use crate::arg;
use crate::error::{LBK_INVALID, LBK_OK, lbk_code, lbk_error};
use crate::guard::{Outcome, guard, guard_code, guard_value};
use crate::options::{self, growing, options};

/// What a budget is counted in; one of the `LBK_BUDGET_*` numbers.
pub type lbk_budget_kind = i32;

/// Everything that the student was trained with.
pub const LBK_BUDGET_FULL: lbk_budget_kind = 0;
/// A share of the full compute, above 0 and up to 1, as a running mean since it was set.
pub const LBK_BUDGET_FRACTION: lbk_budget_kind = 1;
/// The raw price of compute, at least 0.
pub const LBK_BUDGET_PRICE: lbk_budget_kind = 2;
/// Seconds per token of a sequence.
pub const LBK_BUDGET_LATENCY: lbk_budget_kind = 3;
/// Seconds for the call in progress, from its start or from when the budget was set in its midst.
pub const LBK_BUDGET_DEADLINE: lbk_budget_kind = 4;

/// Why a budget is not kept; one of the `LBK_UNMET_*` numbers.
pub type lbk_unmet = i32;

/// It is kept.
pub const LBK_UNMET_NOT: lbk_unmet = 0;
/// The plan has no place where compute can vary.
pub const LBK_UNMET_DENSE: lbk_unmet = 1;
/// The floor is above the target.
pub const LBK_UNMET_FLOOR: lbk_unmet = 2;
/// The student spends less than the floor even at full compute.
pub const LBK_UNMET_BELOW_FLOOR: lbk_unmet = 3;
/// The target is below the lowest fraction that the plan can reach.
pub const LBK_UNMET_REACH: lbk_unmet = 4;
/// Even the cheapest tokens take longer.
pub const LBK_UNMET_TIME: lbk_unmet = 5;
/// What was spent of late is off the target.
pub const LBK_UNMET_OFF_TARGET: lbk_unmet = 6;
/// Another reason, of a later version.
pub const LBK_UNMET_OTHER: lbk_unmet = 7;

pub(crate) fn unmet(reason: Option<Unmet>) -> lbk_unmet {
    match reason {
        None => LBK_UNMET_NOT,
        Some(Unmet::Dense) => LBK_UNMET_DENSE,
        Some(Unmet::Floor) => LBK_UNMET_FLOOR,
        Some(Unmet::BelowFloor) => LBK_UNMET_BELOW_FLOOR,
        Some(Unmet::Reach) => LBK_UNMET_REACH,
        Some(Unmet::Time) => LBK_UNMET_TIME,
        Some(Unmet::OffTarget) => LBK_UNMET_OFF_TARGET,
        Some(_) => LBK_UNMET_OTHER,
    }
}

/// What compute is allowed, from `lbk_budget_init`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_budget {
    /// The size of this struct.
    pub struct_size: usize,
    /// What the budget is counted in.
    pub kind: lbk_budget_kind,
    /// 0.
    pub reserved: i32,
    /// As `kind` says: a fraction, a price or seconds; of no meaning for `LBK_BUDGET_FULL`.
    pub value: f64,
    /// Never below this fraction of the full compute; 0 by default.
    pub floor: f64,
    /// Never above this fraction; 1 by default.
    pub ceiling: f64,
}

options!(lbk_budget: size_of::<usize>() + 16);

impl Default for lbk_budget {
    fn default() -> lbk_budget {
        lbk_budget {
            struct_size: size_of::<lbk_budget>(),
            kind: LBK_BUDGET_FULL,
            reserved: 0,
            value: 0.0,
            floor: 0.0,
            ceiling: 1.0,
        }
    }
}

/// How a budget fares.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_status {
    /// The fraction that is aimed at; under a price that which it is expected to lead to.
    pub target: f64,
    /// The price last given.
    pub price: f64,
    /// Why the budget is not kept; `LBK_UNMET_NOT` where it is.
    pub unmet: lbk_unmet,
    /// 0.
    pub reserved: i32,
}

growing!(lbk_status: 24);

impl From<Status> for lbk_status {
    fn from(status: Status) -> lbk_status {
        let Status { target, price, unmet: reason } = status;
        lbk_status { target, price: price.into(), unmet: unmet(reason), reserved: 0 }
    }
}

/// The cancel flag and the budget of a session, an encoder or a forward: all that another thread or a
/// signal handler may touch while a call runs. Handles are counted: each is freed by itself, all of
/// one session share its flag and budget, and they may outlive it. Every function takes it as
/// `const`, any number of threads may use one at once, and nothing waits.
pub struct lbk_control {
    control: Control,
}

impl lbk_control {
    pub(crate) fn new(control: Control) -> lbk_control {
        lbk_control { control }
    }
}

/// Fills a budget with `LBK_BUDGET_FULL`. `struct_size` is `sizeof *budget`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_budget_init(budget: *mut lbk_budget, struct_size: usize) {
    guard_value((), || options::init(budget, struct_size));
}

/// Another handle on the same flag and budget, which the caller owns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_control_clone(
    control: *const lbk_control,
    clone: *mut *mut lbk_control,
) -> *mut lbk_error {
    guard(|| {
        let (control, out) = (arg::shared(control, "control")?, arg::out(clone, "clone")?);
        out.give(lbk_control::new(control.control.clone()));
        Ok(())
    })
}

/// Asks running calls to stop: at the next token, or at the next chunk of a prompt. They fail with
/// `LBK_CANCELLED`, as do calls that begin later, until `lbk_control_reset`. Safe in a signal
/// handler. `LBK_INVALID` for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_control_cancel(control: *const lbk_control) -> lbk_code {
    guard_code(|| {
        let Some(control) = arg::maybe(control) else { return LBK_INVALID };
        control.control.cancel();
        LBK_OK
    })
}

/// Lets calls run again after `lbk_control_cancel`. Safe in a signal handler. `LBK_INVALID` for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_control_reset(control: *const lbk_control) -> lbk_code {
    guard_code(|| {
        let Some(control) = arg::maybe(control) else { return LBK_INVALID };
        control.control.reset();
        LBK_OK
    })
}

/// 1 where calls are to stop, otherwise 0, also for NULL. Safe in a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_control_is_cancelled(control: *const lbk_control) -> i32 {
    guard_value(0, || arg::maybe(control).map_or(0, |c| c.control.is_cancelled().into()))
}

/// Sets the budget and its limits together, from the next token on. Running means begin anew. A
/// budget that cannot be kept is accepted, and reported as unmet. Safe in a signal handler, also in
/// one that interrupts this function.
///
/// `LBK_INVALID` for NULL, a wrong `struct_size` or values out of range; the budget stays as it was
/// then. It is a code and no error, since making an error takes memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_control_set_budget(
    control: *const lbk_control,
    budget: *const lbk_budget,
) -> lbk_code {
    guard_code(|| {
        let Some(control) = arg::maybe(control) else { return LBK_INVALID };
        let Some(given) = options::read_quietly(budget) else { return LBK_INVALID };
        let seconds = || Duration::try_from_secs_f64(given.value).ok();
        let budget = match given.kind {
            LBK_BUDGET_FULL => Some(Budget::Full),
            LBK_BUDGET_FRACTION => Some(Budget::Fraction(given.value)),
            LBK_BUDGET_PRICE => Some(Budget::Price(given.value)),
            LBK_BUDGET_LATENCY => seconds().map(Budget::Latency),
            LBK_BUDGET_DEADLINE => seconds().map(Budget::Deadline),
            _ => None,
        };
        let limits = Limits { floor: given.floor, ceiling: given.ceiling };
        match budget.filter(|budget| budget.in_range() && limits.in_range()) {
            Some(budget) if control.control.set_budget(budget, limits).is_ok() => LBK_OK,
            _ => LBK_INVALID,
        }
    })
}

/// The budget and its limits as last set. `struct_size` is `sizeof *budget`. Not for signal handlers:
/// it waits while another thread is in the midst of setting one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_control_get_budget(
    control: *const lbk_control,
    budget: *mut lbk_budget,
    struct_size: usize,
) -> *mut lbk_error {
    guard(|| {
        let settings = arg::shared(control, "control")?.control.settings();
        let (kind, value) = match settings.budget {
            Budget::Full => (LBK_BUDGET_FULL, 0.0),
            Budget::Fraction(f) => (LBK_BUDGET_FRACTION, f),
            Budget::Price(p) => (LBK_BUDGET_PRICE, p),
            Budget::Latency(t) => (LBK_BUDGET_LATENCY, t.as_secs_f64()),
            Budget::Deadline(t) => (LBK_BUDGET_DEADLINE, t.as_secs_f64()),
        };
        let Limits { floor, ceiling } = settings.limits;
        let found = lbk_budget { struct_size, kind, reserved: 0, value, floor, ceiling };
        options::write(&found, budget, struct_size, "budget")
    })
}

/// Frees a handle; NULL is fine. Not for signal handlers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_control_free(control: *mut lbk_control) {
    arg::free(control);
}

/// Writes how the budget of a control fares to a status of `size` bytes.
pub(crate) fn write_status(control: &Control, status: *mut lbk_status, size: usize) -> Outcome {
    options::write(&control.status().into(), status, size, "status")
}
