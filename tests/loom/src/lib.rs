//! The thread pool and what a control is made of, as they are, over [loom](https://docs.rs/loom)'s
//! threads, locks and atomics in place of the standard library's: the tests go through the orders in
//! which threads may act and through the values that the memory model lets them see.

#[path = "../../../runtime/kernels/src/pool/mod.rs"]
#[allow(dead_code, reason = "the kernels use more of it than the models do")]
#[allow(clippy::reversed_empty_ranges, reason = "nobody spins in a model")]
pub mod pool;
#[path = "../../../runtime/src/control/shared.rs"]
#[allow(clippy::new_without_default, reason = "an item of the runtime's, where it is private")]
pub mod shared;
mod sync;

pub use sync::step_clock;
