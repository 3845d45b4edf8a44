//! What a control synchronises with: the standard library's. The models in `tests/loom` put their own
//! in its place, which goes through every order of events.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};
