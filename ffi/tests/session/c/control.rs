use std::time::Duration;

use limbeck_ffi::*;
use runtime::{Budget, Limits, Settings};

use super::{Handle, written};
use crate::api::ControlApi;

pub struct Control(pub(super) Handle<lbk_control>);

// In each method the control is alive, and budgets are structs of their size.
impl ControlApi for Control {
    fn cancel(&self) {
        // SAFETY: as above.
        assert_eq!(unsafe { lbk_control_cancel(self.0.pointer) }, LBK_OK);
    }

    fn reset(&self) {
        // SAFETY: as above.
        assert_eq!(unsafe { lbk_control_reset(self.0.pointer) }, LBK_OK);
    }

    fn set_budget(&self, budget: Budget, limits: Limits) -> bool {
        let mut given = lbk_budget::default();
        // SAFETY: as above.
        unsafe { lbk_budget_init(&mut given, size_of::<lbk_budget>()) };
        (given.kind, given.value) = match budget {
            Budget::Full => (LBK_BUDGET_FULL, 0.0),
            Budget::Fraction(fraction) => (LBK_BUDGET_FRACTION, fraction),
            Budget::Price(price) => (LBK_BUDGET_PRICE, price),
            Budget::Latency(time) => (LBK_BUDGET_LATENCY, time.as_secs_f64()),
            Budget::Deadline(time) => (LBK_BUDGET_DEADLINE, time.as_secs_f64()),
        };
        (given.floor, given.ceiling) = (limits.floor, limits.ceiling);
        // SAFETY: as above.
        match unsafe { lbk_control_set_budget(self.0.pointer, &given) } {
            LBK_OK => true,
            code => {
                assert_eq!(code, LBK_INVALID);
                false
            }
        }
    }

    fn settings(&self) -> Settings {
        let size = size_of::<lbk_budget>();
        // SAFETY: as above.
        let found = written(lbk_budget::default(), |out| unsafe {
            lbk_control_get_budget(self.0.pointer, out, size)
        });
        let lbk_budget { struct_size, kind, value, floor, ceiling, .. } = found.expect("a budget");
        assert_eq!(struct_size, size);
        let budget = match kind {
            LBK_BUDGET_FULL => Budget::Full,
            LBK_BUDGET_FRACTION => Budget::Fraction(value),
            LBK_BUDGET_PRICE => Budget::Price(value),
            LBK_BUDGET_LATENCY => Budget::Latency(Duration::from_secs_f64(value)),
            LBK_BUDGET_DEADLINE => Budget::Deadline(Duration::from_secs_f64(value)),
            other => panic!("a budget of kind {other}"),
        };
        Settings { budget, limits: Limits { floor, ceiling }, ..Settings::default() }
    }
}
