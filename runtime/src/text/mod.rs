//! The text task.
