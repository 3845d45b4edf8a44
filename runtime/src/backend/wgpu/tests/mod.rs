//! Kernels against the reference backend on any adapter there is, Mesa's llvmpipe say, and shaders through
//! the translators.

mod adaptive;
mod adverse;
mod attention;
pub(super) mod checks;
mod device;
pub(super) mod guards;
mod harness;
mod images;
mod kept;
mod picks;
mod rows;
mod shaders;
mod sparse;
mod tensors;
