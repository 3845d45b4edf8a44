//! What a control and a model synchronise with. The models in `tests/loom` put their own in its place,
//! which goes through every order of events.

pub(crate) use limbeck_kernels::sync::{AtomicBool, AtomicU64, OnceLock, spin_loop};
